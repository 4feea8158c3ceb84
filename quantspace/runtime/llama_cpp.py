"""GGUF files as they are, through llama.cpp, where `llama-cpp-python` is installed: layers on the GPU and in memory.

The same steps as for transformers, load, readout and answer, behind the same events.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ChatFailed, LoadFailed, OutOfMemory, QuantSpaceError, shorten
from ..estimation.stored import StoredTensor
from ..hub.gguf_header import GgufHeader, TensorInfo, read_local
from .frames import WordStream
from .hands import Work, start
from .job import Job, Key, Message, Phase, Readout, Sampling, Stats, Text
from .memory import device_name

UNASKED_CONTEXT = 8192  # tokens, where nobody asked for more: the whole cache is allocated at once
REPORT_EVERY = 0.2  # seconds


@dataclass
class LlamaModel:
    """A model in llama.cpp, with the readout of what it holds."""

    key: Key
    llama: Any
    readout: Readout

    @property
    def held_bytes(self) -> int:
        """What dropping it gives back, at least."""
        return self.readout.held_bytes

    def answer(self, messages: Sequence[Message], sampling: Sampling, crew: list[Work]) -> Iterator[Text | Stats]:
        """Stream the answer to a conversation; the last event is its statistics.

        Raises:
            ChatFailed: generation ended with an error.
        """
        words = WordStream(self.readout.device)
        crew.append(start(self._generate, tuple(messages), sampling, words))
        yield from words.events()

    def _generate(self, messages: tuple[Message, ...], sampling: Sampling, words: WordStream) -> None:
        try:
            for word, reason in self._stream(messages, sampling):
                if word:
                    words.put(word)
                if reason == "length":
                    words.ended = "length"
                if words.stop.is_set():
                    words.ended = "stopped"
                    break
        except BaseException as error:  # a thread's seam: the reading side raises it
            words.error = _as_ours(error)
        finally:
            words.prompt_tokens = max(self.llama.n_tokens - words.tokens, 0)
            words.close()

    def _stream(self, messages: tuple[Message, ...], sampling: Sampling) -> Iterator[tuple[str, str | None]]:
        """Text and, with the last of it, why it ended."""
        choice = _choice(sampling)
        if self.readout.chat_template:
            said = [{"role": turn.role, "content": turn.content} for turn in messages]
            for chunk in self.llama.create_chat_completion(said, stream=True, **choice):
                answer = chunk["choices"][0]
                yield answer["delta"].get("content") or "", answer["finish_reason"]
            return
        for chunk in self.llama.create_completion(messages[-1].content, stream=True, **choice):
            yield chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"]


def load(job: Job, crew: list[Work]) -> Iterator[Phase | LlamaModel]:
    """Load `job`'s file: yields signs of life, and the model last.

    The file is mapped, not read: closing the iterator in the middle leaves it to end by itself, a moment later.

    Raises:
        LoadFailed, OutOfMemory: with what is in the way.
    """
    results: queue.Queue[LlamaModel | BaseException] = queue.Queue()
    crew.append(start(_load_in_thread, job, results))
    while True:
        yield Phase("load")
        try:
            result = results.get(timeout=REPORT_EVERY)
        except queue.Empty:
            continue
        if isinstance(result, BaseException):
            raise result
        yield result
        return


def _load_in_thread(job: Job, results: queue.Queue[LlamaModel | BaseException]) -> None:
    try:
        results.put(_load(job))
    except QuantSpaceError as error:
        results.put(error)
    except BaseException as error:  # a thread's seam: the waiting side raises it
        results.put(_not_loaded(job, error))


def _not_loaded(job: Job, error: BaseException) -> LoadFailed:
    name = Path(job.gguf.path).name if job.gguf else job.model_id
    if isinstance(error, MemoryError):
        return OutOfMemory(f"Memory ran out while {name} was loaded.", "Choose a smaller file.")
    return LoadFailed(
        f"llama.cpp could not load {name}: {shorten(str(error), 200)}",
        "The file may be incomplete, or of an architecture newer than the installed llama-cpp-python.",
    )


def _load(job: Job) -> LlamaModel:
    import llama_cpp

    assert job.gguf is not None
    started = time.monotonic()
    folder = Path(job.folder)
    headers = [read_local(folder / path) for path in job.gguf.paths]
    llama = llama_cpp.Llama(
        model_path=str(folder / job.gguf.path),
        n_gpu_layers=job.gguf.gpu_layers,
        n_ctx=_context(job, headers[0]),
        verbose=False,
    )
    held = llama_cpp.llama_model_size(llama.model)
    readout = Readout(
        model_id=job.model_id,
        sha=job.sha,
        precision=job.precision,
        architecture=f"{headers[0].metadata.get('general.architecture', 'GGUF')} in llama.cpp",
        device=device_name() if llama_cpp.llama_supports_gpu_offload() else "CPU",
        footprint_bytes=held,
        held_bytes=held,
        tensors=tuple(_stored(tensor) for header in headers for tensor in header.tensors),
        seconds=time.monotonic() - started,
        chat_template="tokenizer.chat_template" in llama.metadata,
        max_context=llama.n_ctx(),
    )
    return LlamaModel(job.key, llama, readout)


def _context(job: Job, header: GgufHeader) -> int:
    """Tokens to allocate a cache for: what was asked, as far as the model was made for it."""
    trained = header.metadata.get(f"{header.metadata.get('general.architecture')}.context_length")
    asked = job.context or UNASKED_CONTEXT
    return min(asked, trained) if isinstance(trained, int) and trained > 0 else asked


def _stored(tensor: TensorInfo) -> StoredTensor:
    return StoredTensor(tensor.name, tensor.shape, tensor.type, tensor.type, tensor.bytes)


def _choice(sampling: Sampling) -> dict[str, Any]:
    greedy = sampling.greedy or sampling.temperature <= 0
    return {
        "max_tokens": int(sampling.max_new_tokens),
        "temperature": 0.0 if greedy else float(sampling.temperature),
        "top_p": 1.0 if greedy else float(sampling.top_p),
        "repeat_penalty": 1.0,  # llama-cpp-python's own default is not neutral
    }


def _as_ours(error: BaseException) -> QuantSpaceError:
    if isinstance(error, ValueError) and "context window" in str(error):
        return ChatFailed(f"The conversation is too long: {shorten(str(error), 160)}", "Clear the chat and ask again.")
    return ChatFailed(
        f"llama.cpp ended with {type(error).__name__}: {shorten(str(error), 200)}", "Try again, or load another file."
    )
