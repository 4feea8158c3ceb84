"""What runs on the GPU's side of the seam: serve one job, and keep the model for the next.

The kept model is an opportunity, never an assumption: on ZeroGPU this process may be new for each job.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from ..errors import QuantSpaceError, shorten
from .chat import answer
from .job import Event, Failed, Job, Loaded, Phase
from .loader import LoadedModel, free_memory, load, refuse_if_too_large

_slot: LoadedModel | None = None
_busy = threading.Lock()  # not an RLock: a generator may end in another thread than it began
WAIT = 0.5  # seconds between signs of life while another job runs


def serve(job: Job) -> Iterator[Event]:
    """Load the job's model unless it is here, then answer its messages if it has any.

    Never raises: an exception would cost a ZeroGPU worker its life, and its text.
    """
    while not _busy.acquire(timeout=WAIT):
        yield Phase("wait")
    try:
        yield from _serve(job)
    except QuantSpaceError as error:
        yield Failed(**error.as_data())
    except Exception as error:  # the seam that must not fall
        yield Failed(
            "internal", f"Something broke here: {type(error).__name__}: {shorten(str(error), 200)}", "Try again."
        )
    finally:
        _busy.release()


def unload() -> None:
    """Drop the kept model."""
    global _slot
    _slot = None
    free_memory()


def _serve(job: Job) -> Iterator[Event]:
    global _slot
    if _slot is None or _slot.key != job.key:
        refuse_if_too_large(job, _slot.readout.held_bytes if _slot else 0)
        unload()
        for event in load(job):
            if isinstance(event, LoadedModel):
                _slot = event
            else:
                yield event
    assert _slot is not None
    if not job.messages:
        yield Loaded(_slot.readout)
        return
    yield Phase("generate")
    yield from answer(_slot, job.messages, job.sampling)
