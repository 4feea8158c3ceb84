"""What runs on the GPU's side of the seam: serve one job, and keep the model for the next.

The kept model is an opportunity, never an assumption: on ZeroGPU this process may be new for each job.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from ..errors import LoadFailed, QuantSpaceError, shorten
from . import llama_cpp
from .chat import answer
from .hands import Work
from .job import Event, Failed, Job, Loaded, Phase
from .llama_cpp import LlamaModel
from .loader import LoadedModel, free_memory, load, refuse_if_too_large

_slot: LoadedModel | LlamaModel | None = None
_busy = threading.Lock()  # not an RLock: a generator may end in another thread than it began
WAIT = 0.5  # seconds between signs of life while another job runs


def serve(job: Job) -> Iterator[Event]:
    """Load the job's model unless it is here, then do its task, or answer its messages if it has any.

    Never raises: an exception would cost a ZeroGPU worker its life, and its text.
    """
    while not _busy.acquire(timeout=WAIT):
        yield Phase("wait")
    crew: list[Work] = []
    try:
        yield from _serve(job, crew)
    except QuantSpaceError as error:
        yield Failed(**error.as_data())
    except Exception as error:  # the seam that must not fall
        yield Failed(
            "internal", f"Something broke here: {type(error).__name__}: {shorten(str(error), 200)}", "Try again."
        )
    finally:
        _release_after(crew)


def _release_after(crew: list[Work]) -> None:
    """Let the next job in once all work of this one has ended, without waiting for them here.

    A generator is closed in the server's event loop, where waiting would stop everybody.
    """
    running = [work for work in crew if work.is_alive()]
    if not running:
        _busy.release()
        return

    def wait() -> None:
        for work in running:
            work.join()
        _busy.release()

    threading.Thread(target=wait, daemon=True, name="release").start()


def unload() -> None:
    """Drop the kept model."""
    global _slot
    _slot = None
    free_memory()


def _serve(job: Job, crew: list[Work]) -> Iterator[Event]:
    global _slot
    if _slot is None or _slot.key != job.key or _is_unfit(job, _slot):
        refuse_if_too_large(job, _slot.held_bytes if _slot else 0)
        unload()
        for event in _load(job, crew):
            if isinstance(event, LoadedModel | LlamaModel):
                _slot = event
            else:
                yield event
    assert _slot is not None
    if job.task is not None:
        if isinstance(_slot, LlamaModel):
            raise LoadFailed("This is for models that transformers holds.", "Load another precision of this model.")
        _slot.prefix.drop()  # a task may need the memory of a conversation's cache
        yield from job.task.run(_slot, crew)
        return
    if not job.messages:
        yield Loaded(_slot.readout)
        return
    yield Phase("generate")
    if isinstance(_slot, LlamaModel):
        yield from _slot.answer(job.messages, job.sampling, crew)
        return
    yield from answer(_slot, job.messages, job.sampling, crew, job.context)


def _is_unfit(job: Job, slot: LoadedModel | LlamaModel) -> bool:
    """Whether a task wants the model as it was loaded, and answering has changed how it is held."""
    unfit = getattr(job.task, "unfit", None)
    return unfit is not None and isinstance(slot, LoadedModel) and unfit(slot)


def _load(job: Job, crew: list[Work]) -> Iterator[Phase | LoadedModel | LlamaModel]:
    if job.gguf is not None and job.gguf.engine == "llama.cpp":
        return llama_cpp.load(job, crew)
    return load(job, crew)
