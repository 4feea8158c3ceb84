"""Answer a conversation with a loaded model, token by token."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import StoppingCriteria

from ..errors import ChatFailed, OutOfMemory, QuantSpaceError, shorten
from .hands import Work, start
from .job import Message, Sampling, Stats, Text
from .loader import LoadedModel, free_memory
from .memory import ran_out
from .options import cache_for
from .prompt import Prompt, prompt_of
from .streamer import TokenStream, Words

YIELD_EVERY = 0.1  # seconds: what a browser can draw

_Ending = Literal["running", "eos", "length", "stopped"]


def answer(
    loaded: LoadedModel,
    messages: Sequence[Message],
    sampling: Sampling,
    crew: list[Work],
    context: int = 0,
) -> Iterator[Text | Stats]:
    """Stream the answer to a conversation; the last event is its statistics.

    Closing the iterator stops the generation at the next token. Empty `Text` events keep the stream
    alive while a long prompt is read.

    Args:
        crew: gets the work of generating; it may outlive the iterator by a token.
        context: tokens of prompt and answer together at most; 0 for what the model was made for.

    Raises:
        ChatFailed, OutOfMemory: generation ended with an error.
    """
    run = _Run(loaded, messages, sampling, context)
    crew.append(start(run.generate))
    try:
        yield from run.pieces()
        yield run.stats()
    finally:
        run.stop.set()


class _StopFlag(StoppingCriteria):
    def __init__(self, stop: threading.Event, device: torch.device) -> None:
        self._stop = stop
        self._answers = {ended: torch.tensor([ended], device=device) for ended in (False, True)}  # of a batch of one

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        return self._answers[self._stop.is_set()]


@dataclass
class _Run:
    """One generation in a thread of its own, and what is read from it."""

    loaded: LoadedModel
    messages: Sequence[Message]
    sampling: Sampling
    context: int
    prompt: Prompt | None = None  # once it is encoded
    reused: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.stream = TokenStream()
        self.started = time.monotonic()

    def pieces(self) -> Iterator[Text]:
        words = Words(self.loaded.tokenizer)
        ended = False
        while not ended:
            self.stream.wait(YIELD_EVERY)
            ended = self.stream.ended.is_set()
            yield Text(words.more(list(self.stream.ids), last=ended), self.stats("running"))
        if self.error is not None:
            raise self.error

    def stats(self, ended: _Ending | None = None) -> Stats:
        stream, tokens = self.stream, len(self.stream.ids)
        spent = stream.last_at - stream.first_at
        return Stats(
            prompt_tokens=self.prompt.length if self.prompt else 0,
            new_tokens=tokens,
            first_token_s=stream.first_at - self.started if tokens else None,
            tokens_per_s=(tokens - 1) / spent if tokens > 1 and spent > 0 else None,
            ended=ended or self._ending(),
            dropped_turns=self.prompt.dropped if self.prompt else 0,
            device=self.loaded.readout.device,
            reused_tokens=self.reused,
            completion=not self.loaded.tokenizer.chat_template,
            footprint_bytes=self.loaded.readout.footprint_bytes,
        )

    def _ending(self) -> _Ending:
        if self.stop.is_set():
            return "stopped"
        eos = self.loaded.model.generation_config.eos_token_id
        ends = set(eos if isinstance(eos, list) else [eos])
        room = self.prompt.room if self.prompt else 0
        ids = self.stream.ids
        return "eos" if len(ids) < room or (ids and ids[-1] in ends) else "length"

    def generate(self) -> None:
        """To the end, or until it is stopped."""
        try:
            self.prompt = prompt_of(self.loaded, self.messages, self.sampling, self.context)
            self._continue(self.prompt)
        except BaseException as error:  # a thread's seam: the reading side raises it
            self.error = _as_ours(error)
        finally:
            self.stream.close()

    def _continue(self, prompt: Prompt) -> None:
        """Generate from what the model has read already, and keep what it has read then."""
        model, prefix = self.loaded.model, self.loaded.prefix
        known = cache_for(self.loaded.readout.options, model)
        reusable = not prompt.images and not known  # tokens don't tell images apart, and a packed cache can't be cut
        if not reusable:
            prefix.drop()
        else:
            cache, self.reused = prefix.take(prompt.inputs["input_ids"][0].tolist())
            known = {"past_key_values": cache} if cache is not None else {}
        with torch.inference_mode():
            made = model.generate(
                **prompt.inputs,
                **known,
                **self._choice(),
                max_new_tokens=prompt.room,
                use_cache=True,  # some configs turn it off for training: every token would read all before it
                streamer=self.stream,
                stopping_criteria=[_StopFlag(self.stop, model.device)],
                return_dict_in_generate=True,
            )
        if reusable:
            prefix.keep(made.sequences[0].tolist(), made.past_key_values)

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
    if ran_out(error):
        free_memory()
        return OutOfMemory(
            "Memory ran out while the answer was computed.", "Clear the chat or send a shorter text, and try again."
        )
    return ChatFailed(
        f"Generation ended with {type(error).__name__}: {shorten(str(error), 200)}",
        "Try again, or load another precision.",
    )
