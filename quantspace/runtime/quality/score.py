"""Read a text with a loaded model, window by window, and score each token against what stands there.

Windows do not overlap. Each begins as the tokenizer begins a text, with its BOS token or without; the first token of
each has nothing before it and is not scored, so a text is read once and every scored token has up to `WINDOW` − 1
before it. Scores are worked out in float32, a few rows of the vocabulary at a time: beside the model's own output of
one window, `(window, vocabulary)` in its dtype, they take some tens of MB.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from ...errors import MeasurementFailed, OutOfMemory
from ..job import Done, Phase
from ..loader import LoadedModel, free_memory
from .figures import TokenScores
from .logits import mapped, writing
from .task import MAX_STORED_BYTES, WINDOW, Measured, MeasureQuality

ROW_ELEMENTS = 8 * 2**20  # logits that are scored at once, in float32
MIN_TOKENS = 32
WARM_UP_TOKENS = 8


def measure(loaded: LoadedModel, task: MeasureQuality) -> Iterator[Phase | Done]:
    """Score a text; the last event is `Done(Measured)`. Closing the iterator stops it after the window at hand.

    Raises:
        MeasurementFailed: the text can't be read with this model, or its outputs are no numbers.
        OutOfMemory: a window did not fit beside the model.
    """
    with _memory_errors_as_ours(loaded):
        yield from _measure(loaded, task)


def warm_up(loaded: LoadedModel) -> None:
    """Run a few tokens through, so that what a process does only once is not counted against the first precision.

    Raises:
        OutOfMemory: not even that fits beside the model.
    """
    if not loaded.model.config.is_encoder_decoder:
        with _memory_errors_as_ours(loaded), torch.inference_mode():
            loaded.model(input_ids=torch.zeros((1, WARM_UP_TOKENS), dtype=torch.long, device=loaded.model.device))


@dataclass(frozen=True)
class Reading:
    """How a text is read: token ids of its windows, and tokens before the text's own in each (BOS, or nothing)."""

    windows: list[list[int]]
    begin: int
    text_tokens: int

    @property
    def scored(self) -> int:
        return sum(len(window) - 1 for window in self.windows)


def reading_of(loaded: LoadedModel, text: str, limit: int) -> Reading:
    """Cut at most `limit` tokens of a text into windows.

    Raises:
        MeasurementFailed: it has too few tokens for this model.
    """
    tokenizer = loaded.tokenizer
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    begin = [tokenizer.bos_token_id] if tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id] else []
    size = min(WINDOW, loaded.readout.max_context or WINDOW) - len(begin)
    kept = ids[:limit]
    windows = [begin + kept[first : first + size] for first in range(0, len(kept), size)]
    windows = [window for window in windows if len(window) > 1]
    reading = Reading(windows, len(begin), len(ids))
    if reading.scored < MIN_TOKENS:
        raise MeasurementFailed(
            f"The text has {len(ids)} tokens for this model: too few to measure quality on.", "Give a longer text."
        )
    return reading


@dataclass
class _Scores:
    """Collects scores window by window."""

    loss: list[torch.Tensor] = field(default_factory=list)
    divergence: list[torch.Tensor] = field(default_factory=list)
    agrees: list[torch.Tensor] = field(default_factory=list)
    reference_loss: list[torch.Tensor] = field(default_factory=list)

    def add(self, logits: torch.Tensor, targets: torch.Tensor, reference: torch.Tensor | None) -> None:
        """Score `(tokens, vocabulary)` logits on the tokens that follow them."""
        step = max(1, ROW_ELEMENTS // logits.shape[1])
        for first in range(0, len(logits), step):
            rows, wanted = logits[first : first + step].float(), targets[first : first + step, None]
            mine = rows.log_softmax(-1)
            self.loss.append(-mine.gather(1, wanted)[:, 0].cpu())
            if reference is not None:
                theirs_raw = reference[first : first + step].to(logits.device).float()
                theirs = theirs_raw.log_softmax(-1)
                self.reference_loss.append(-theirs.gather(1, wanted)[:, 0].cpu())
                self.divergence.append(divergence(theirs, mine).cpu())
                self.agrees.append((rows.argmax(-1) == theirs_raw.argmax(-1)).cpu())

    def joined(self, reading: Reading, windows: int, seconds: float) -> TokenScores:
        """All of them, of the first `windows` windows."""
        loss = torch.cat(self.loss).double().numpy()
        before = 1 - reading.begin  # tokens of the text that a window has and that are not scored
        told = (windows, len(reading.windows[0]), len(loss) + windows * before, reading.text_tokens, seconds)
        if not self.divergence:
            return TokenScores(loss, None, None, None, *told)
        reference_loss = torch.cat(self.reference_loss).double().numpy()
        return TokenScores(
            loss, torch.cat(self.divergence).numpy(), torch.cat(self.agrees).numpy(), reference_loss, *told
        )


def divergence(reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(reference ‖ other) in nats a row, of `(rows, vocabulary)` log-probabilities; ∑ p (log p − log q)."""
    p = reference.exp()
    return torch.where(p > 0, p * (reference - other), 0.0).sum(-1, dtype=torch.float64)


@contextmanager
def _memory_errors_as_ours(loaded: LoadedModel) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        free_memory()
        raise OutOfMemory(
            f"Memory ran out while {loaded.readout.model_id} read the text at {loaded.readout.precision}.",
            "Compare smaller precisions, or a smaller model.",
        ) from error


def _measure(loaded: LoadedModel, task: MeasureQuality) -> Iterator[Phase | Done]:
    started = time.monotonic()
    if loaded.model.config.is_encoder_decoder:
        raise MeasurementFailed(
            "This model answers one text with another; perplexity is of models that continue a text.",
            "Compare its answers alone.",
        )
    reading = reading_of(loaded, task.text, task.tokens)
    total, scores, done, windows = reading.scored, _Scores(), 0, 0
    with ExitStack() as stack:
        keep = stack.enter_context(writing(task.keep_at, MAX_STORED_BYTES)) if task.keep_at else None
        reference = mapped(task.reference) if task.reference else None
        total = min(total, len(reference)) if reference is not None else total
        for window in reading.windows:
            yield Phase("Measuring quality, in tokens", done, total)
            logits, targets = _outputs(loaded, window)
            count = min(len(logits), total - done, keep.capacity(logits) if keep else len(logits))
            logits, targets = logits[:count], targets[:count]
            if not count:
                break
            scores.add(logits, targets, None if reference is None else reference[done : done + count])
            if keep is not None:
                keep.append(logits)
            done, windows = done + count, windows + 1
        if done < MIN_TOKENS:
            raise MeasurementFailed(
                "The disk has no room for the reference's outputs.", "Free some, or compare without a reference."
            )
        yield Phase("Measuring quality, in tokens", done, done)
    spent = time.monotonic() - started
    _check(measured := scores.joined(reading, windows, spent), loaded)
    yield Done(Measured(measured, keep.stored() if keep else None))


def _outputs(loaded: LoadedModel, window: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a window but for its last token, `(tokens − 1, vocabulary)`, and the tokens that follow each."""
    ids = torch.tensor([window], device=loaded.model.device)
    with torch.inference_mode():
        logits = loaded.model(input_ids=ids, use_cache=False).logits[0, :-1]
    return logits, ids[0, 1:].to(logits.device)


def _check(scores: TokenScores, loaded: LoadedModel) -> None:
    if not np.isfinite(scores.loss).all() or not (scores.divergence is None or np.isfinite(scores.divergence).all()):
        raise MeasurementFailed(
            f"At {loaded.readout.precision} the model's outputs are not numbers on this text: it overflows.",
            "Models made for bfloat16 overflow in float16; take a precision that computes in bfloat16.",
        )
