"""Answer a conversation with a loaded model, token by token."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import StoppingCriteria, TextIteratorStreamer

from ..errors import ChatFailed, OutOfMemory, QuantSpaceError, shorten
from .deadline import within
from .job import Message, Sampling, Stats, Text
from .loader import LoadedModel, free_memory

UNSTATED_CONTEXT = 8192  # tokens for a model whose config names no limit
TEMPLATE_SECONDS = 5
YIELD_EVERY = 0.1  # seconds: what a browser can draw


def answer(
    loaded: LoadedModel, messages: Sequence[Message], sampling: Sampling, crew: list[threading.Thread]
) -> Iterator[Text | Stats]:
    """Stream the answer to a conversation; the last event is its statistics.

    Closing the iterator stops the generation at the next token. Empty `Text` events keep the stream
    alive while a long prompt is read.

    Raises:
        ChatFailed, OutOfMemory: generation ended with an error.
    """
    run = _Run(loaded, messages, sampling)
    crew.append(run.thread)
    run.thread.start()
    try:
        yield from run.pieces()
        yield run.stats()
    finally:
        run.stop.set()


@dataclass
class _Prompt:
    inputs: dict[str, torch.Tensor]
    length: int
    room: int
    dropped: int


def _prompt(loaded: LoadedModel, messages: Sequence[Message], sampling: Sampling) -> _Prompt:
    """Encode the conversation; where it outgrows the context, its oldest turns are left out."""
    limit = loaded.readout.max_context or UNSTATED_CONTEXT
    turns = [message for message in messages if message.role != "system"]
    system = [message for message in messages if message.role == "system" and message.content.strip()]
    if not turns:
        raise ChatFailed("There is no message to answer.", "Send one.")
    # A question that got no answer leaves two user turns in a row: what is left begins with a question.
    for dropped in (i for i, turn in enumerate(turns) if i == 0 or turn.role == "user"):
        inputs = _encode(loaded, system, turns[dropped:])
        length = inputs["input_ids"].shape[1]
        if length + min(sampling.max_new_tokens, limit // 4) <= limit:
            break
    if not length:
        raise ChatFailed("This message has no tokens for this model.", "Send another text.")
    if length >= limit:
        raise ChatFailed(
            f"This message is {length:,} tokens long; the model reads at most {limit:,}.", "Send a shorter one."
        )
    room = min(int(sampling.max_new_tokens), limit - length)
    return _Prompt({key: value.to(loaded.model.device) for key, value in inputs.items()}, length, room, dropped)


def _encode(loaded: LoadedModel, system: list[Message], turns: Sequence[Message]) -> dict[str, torch.Tensor]:
    tokenizer = loaded.tokenizer
    if not tokenizer.chat_template:
        return dict(tokenizer(turns[-1].content, return_tensors="pt", return_token_type_ids=False))
    conversation = [{"role": m.role, "content": m.content} for m in (*system, *turns)]
    try:
        return _templated(tokenizer, conversation)
    except TimeoutError as error:
        raise ChatFailed(
            f"The model's chat template took more than {TEMPLATE_SECONDS} s.", "Pick another model: this one is broken."
        ) from error
    except Exception:  # templates are code of the repository: some refuse a system message, in their own words
        first = {"role": "user", "content": "\n\n".join(m.content for m in (*system, turns[0]))}
        try:
            return _templated(tokenizer, [first, *conversation[len(system) + 1 :]])
        except Exception as error:  # the same: whatever a template raises is its refusal
            raise ChatFailed(
                f"The model's chat template refuses this conversation: {shorten(str(error), 200)}",
                "Clear the chat and ask again.",
            ) from error


def _templated(tokenizer: Any, conversation: list[dict[str, str]]) -> dict[str, torch.Tensor]:
    def render() -> str:
        return tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)

    text = within(TEMPLATE_SECONDS, render)
    return dict(tokenizer(text, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False))


class _StopFlag(StoppingCriteria):
    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        return torch.full((input_ids.shape[0],), self.stop.is_set(), device=input_ids.device, dtype=torch.bool)


class _TimedStreamer(TextIteratorStreamer):
    """Counts tokens and notes when the first and the last came."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.tokens = 0
        self.last_token: int | None = None
        self.first_at = self.last_at = 0.0

    def put(self, value: torch.Tensor) -> None:
        if not self.next_tokens_are_prompt:
            self.last_at = time.monotonic()
            self.first_at = self.first_at or self.last_at
            self.tokens += 1
            self.last_token = int(value.reshape(-1)[-1])
        super().put(value)


@dataclass
class _Run:
    """One generation in a thread of its own, and what is read from it."""

    loaded: LoadedModel
    messages: Sequence[Message]
    sampling: Sampling
    prompt: _Prompt | None = None  # once it is encoded
    stop: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.streamer = _TimedStreamer(self.loaded.tokenizer)
        self.started = time.monotonic()
        self.thread = threading.Thread(target=self._generate, daemon=True)

    def pieces(self) -> Iterator[Text]:
        ended = False
        while not ended:
            piece, ended = self._collect()
            yield Text(piece, self.stats("running"))
        if self.error is not None:
            raise self.error

    def stats(self, ended: Any = None) -> Stats:
        streamer = self.streamer
        spent = streamer.last_at - streamer.first_at
        return Stats(
            prompt_tokens=self.prompt.length if self.prompt else 0,
            new_tokens=streamer.tokens,
            first_token_s=streamer.first_at - self.started if streamer.tokens else None,
            tokens_per_s=(streamer.tokens - 1) / spent if streamer.tokens > 1 and spent > 0 else None,
            ended=ended or self._ending(),
            dropped_turns=self.prompt.dropped if self.prompt else 0,
            device=self.loaded.readout.device,
        )

    def _ending(self) -> Any:
        if self.stop.is_set():
            return "stopped"
        eos = self.loaded.model.generation_config.eos_token_id
        ends = set(eos if isinstance(eos, list) else [eos])
        room = self.prompt.room if self.prompt else 0
        return "eos" if self.streamer.last_token in ends or self.streamer.tokens < room else "length"

    def _collect(self) -> tuple[str, bool]:
        """What came within one frame, and whether that was the end."""
        pieces: list[str] = []
        deadline = time.monotonic() + YIELD_EVERY
        while (left := deadline - time.monotonic()) > 0:
            try:
                piece = self.streamer.text_queue.get(timeout=left)
            except queue.Empty:
                break
            if piece is None:
                return "".join(pieces), True
            pieces.append(piece)
        return "".join(pieces), False

    def _generate(self) -> None:
        try:
            self.prompt = prompt = _prompt(self.loaded, self.messages, self.sampling)
            with torch.inference_mode():
                self.loaded.model.generate(
                    **prompt.inputs,
                    **self._choice(),
                    max_new_tokens=prompt.room,
                    use_cache=True,  # some configs turn it off for training: every token would read all before it
                    streamer=self.streamer,
                    stopping_criteria=[_StopFlag(self.stop)],
                )
        except BaseException as error:  # a thread's seam: the reading side raises it
            self.error = _as_ours(error)
            self.streamer.text_queue.put(None)

    def _choice(self) -> dict[str, Any]:
        pad = self.loaded.tokenizer.pad_token_id
        padding = {"pad_token_id": self.loaded.tokenizer.eos_token_id if pad is None else pad}
        if self.sampling.greedy or self.sampling.temperature <= 0:
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, **padding}
        return {
            "do_sample": True,
            "temperature": float(self.sampling.temperature),  # JSON makes 2 of 2.0, which transformers refuses
            "top_p": float(self.sampling.top_p),
            **padding,
        }


def _as_ours(error: BaseException) -> BaseException:
    if isinstance(error, QuantSpaceError):
        return error
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        free_memory()
        return OutOfMemory(
            "Memory ran out while the answer was computed.", "Clear the chat or send a shorter text, and try again."
        )
    return ChatFailed(
        f"Generation ended with {type(error).__name__}: {shorten(str(error), 200)}",
        "Try again, or load another precision.",
    )
