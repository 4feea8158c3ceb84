"""Figures of quality as people read them: what each means, its interval, and what a precision costs in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..runtime.compare import Row
from ..runtime.quality.figures import METHOD, Interval, Quality


@dataclass(frozen=True)
class Column:
    """A figure of quality in a table: its name, what it means, and how a row's is written."""

    name: str
    meaning: str
    figure: Callable[[Quality], Interval | None]
    written: Callable[[float], str]

    def value(self, quality: Quality) -> str:
        """`9.189`, or a dash where it was not measured."""
        found = self.figure(quality)
        return self.written(found.value) if found else "–"

    def bounds(self, quality: Quality) -> str:
        """`6.218 to 13.4`; empty where it was not measured."""
        found = self.figure(quality)
        return f"{self.written(found.low)} to {self.written(found.high)}" if found else ""

    def words(self, quality: Quality) -> str:
        """`9.189 (6.218 to 13.4)`"""
        bounds = self.bounds(quality)
        return f"{self.value(quality)} ({bounds})" if bounds else self.value(quality)


def finding(row: Row, reference: Row | None) -> str:
    """What a precision saves and costs against the reference, in one sentence; empty where nothing is known."""
    if row.reference or reference is None or row.readout is None or reference.readout is None:
        return ""
    share = row.readout.held_bytes / reference.readout.held_bytes
    parts = [f"{share:.0%} of {reference.label}’s memory"]
    quality = row.quality
    if quality is not None and quality.agreement is not None and quality.ratio is not None:
        parts.append(f"the same next token {percent(quality.agreement.value)} of the time")
        same = quality.ratio.low <= 1 <= quality.ratio.high
        lost = "no difference in perplexity that this text can tell"
        parts.append(lost if same else f"perplexity {change(quality.ratio.value)}")
    return "; ".join(parts) + "."


def text_words(quality: Quality, name: str) -> str:
    """What was read and how."""
    whole = quality.text_tokens <= quality.read_tokens
    part = "all of it" if whole else f"its first {quality.read_tokens:,} of {quality.text_tokens:,}"
    windows = f"{quality.windows} window{'' if quality.windows == 1 else 's'}"
    return (
        f"Measured on {quality.tokens:,} scored tokens of “{name}” ({part}), read in {windows} of at most "
        f"{quality.window} tokens that do not overlap; the first token of each is not scored. {METHOD}"
    )


def number(value: float) -> str:
    """The digits that count: `9.189`, `0.0255`, `7.54e-05`, `232,400`."""
    if value and abs(value) < 1e-4:
        return f"{value:.2e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3g}"


def percent(share: float) -> str:
    """`99.61%` of a share from 0 to 1; never rounded up to all."""
    shown = f"{share:.2%}"
    return "> 99.99%" if shown == "100.00%" and share < 1 else shown


def change(ratio: float) -> str:
    """`+1.53%` of a ratio of 1.0153."""
    shown = f"{ratio - 1:+.2%}"
    return "0.00%" if shown[1:] == "0.00%" else shown.replace("-", "−")


QUALITY_COLUMNS = (
    Column(
        "Perplexity", "how many next tokens the model wavers between, on average; lower is better",
        lambda quality: quality.perplexity, number,
    ),
    Column(
        "Change", "of perplexity against the reference’s, token by token on the same text; 0% is no loss",
        lambda quality: quality.ratio, change,
    ),
    Column(
        "KL divergence",
        "how far the probabilities of the next token are from the reference’s, in nats; lower is better, 0 is no loss",
        lambda quality: quality.divergence, number,
    ),
    Column(
        "Same token", "how often the likeliest next token is the reference’s; higher is better, 100% is no loss",
        lambda quality: quality.agreement, percent,
    ),
)  # fmt: skip
