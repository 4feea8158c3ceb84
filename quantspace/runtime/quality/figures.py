"""Figures of quality with their uncertainty, from what was measured token by token. No torch, no I/O.

All intervals are at 95% and over the text: they say how far the figure would move on another text of this kind and
length, not on any text. Neighbouring tokens are alike, so whole blocks of the text are what is drawn again:

    perplexity, KL divergence   percentile bootstrap over blocks (Künsch 1989, https://doi.org/10.1214/aos/1176347265)
    agreement                   Wilson's interval (1927, https://doi.org/10.1080/01621459.1927.10502953), which is
                                honest at 100% too, for as many independent tokens as the blocks' variance stands for
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

BLOCK = 32  # tokens that are drawn together
MIN_BLOCKS = 16  # shorter blocks for a short text
DRAWS = 2000
SEED = 20_240_229  # figures of the same measurement are the same each time
Z = 1.959964  # of the normal distribution, at 95%
METHOD = (
    "95% intervals over the text: percentile bootstrap of 2,000 draws of blocks of 32 tokens; for agreement "
    "Wilson's interval with the effective number of tokens."
)


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and where it lies at 95%."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What was measured of each scored token, in the text's order; float64, in nats.

    Attributes:
        loss: −log p of the token that stands in the text.
        divergence: KL(reference ‖ this) of the whole distribution; `None` without a reference.
        agrees: whether the likeliest token is the reference's; `None` without a reference.
        reference_loss: `loss` of the reference.
        windows: how many windows the text was read in.
        window: tokens of a full window.
        read_tokens: of the text; more than were scored where a window begins with one of them, and not with BOS.
        text_tokens: of the whole text; more than were read where the limit is lower.
        seconds: of reading and scoring.
    """

    loss: np.ndarray
    divergence: np.ndarray | None
    agrees: np.ndarray | None
    reference_loss: np.ndarray | None
    windows: int
    window: int
    read_tokens: int
    text_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Quality:
    """What a precision costs on a text.

    Attributes:
        tokens: scored; the first of each window is not.
        perplexity: exp of the mean loss.
        ratio: perplexity ÷ the reference's, token by token on the same text, so closer than two perplexities apart.
        divergence: mean KL divergence from the reference, nats a token.
        agreement: share of tokens, 0 to 1, where the likeliest next token is the reference's.
    """

    tokens: int
    windows: int
    window: int
    read_tokens: int
    text_tokens: int
    seconds: float
    perplexity: Interval
    ratio: Interval | None = None
    divergence: Interval | None = None
    agreement: Interval | None = None

    def as_data(self) -> dict[str, Any]:
        """Its fields as JSON takes them; intervals as `{"value", "low", "high"}`."""
        return asdict(self)


def quality_of(scores: TokenScores) -> Quality:
    """The figures of one measurement."""
    compared = scores.reference_loss is not None
    return Quality(
        tokens=len(scores.loss),
        windows=scores.windows,
        window=scores.window,
        read_tokens=scores.read_tokens,
        text_tokens=scores.text_tokens,
        seconds=scores.seconds,
        perplexity=_exponential(mean_interval(scores.loss)),
        ratio=_exponential(mean_interval(scores.loss - scores.reference_loss)) if compared else None,
        divergence=None if scores.divergence is None else mean_interval(scores.divergence),
        agreement=None if scores.agrees is None else share_interval(scores.agrees),
    )


def mean_interval(values: np.ndarray) -> Interval:
    """The mean of a series whose neighbours are alike, with its block bootstrap interval."""
    sums, counts = _blocks(values)
    drawn = np.random.default_rng(SEED).integers(0, len(sums), size=(DRAWS, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    value = float(values.mean())
    return Interval(value, min(float(low), value), max(float(high), value))


def share_interval(hits: np.ndarray) -> Interval:
    """The share of true values in a series whose neighbours are alike, with Wilson's interval."""
    share, count = float(hits.mean()), len(hits)
    sums, counts = _blocks(hits.astype(np.float64))
    independent = share * (1 - share) / count
    if independent and len(sums) > 1:
        spread = float(np.square(sums - share * counts).sum()) * len(sums) / (len(sums) - 1) / count**2
        count = count / max(1.0, spread / independent)
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return Interval(share, max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share)))


def _blocks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of consecutive blocks; the last may be shorter."""
    size = max(1, min(BLOCK, len(values) // MIN_BLOCKS))
    starts = np.arange(0, len(values), size)
    return np.add.reduceat(values, starts), np.diff([*starts, len(values)])


def _exponential(interval: Interval) -> Interval:
    return Interval(*(math.exp(min(bound, 700)) for bound in (interval.value, interval.low, interval.high)))
