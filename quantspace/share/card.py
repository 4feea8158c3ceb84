"""The card: 1200×630 pixels with the rows of an estimate as bars, for link previews, posts and slides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import QuantSpaceError, shorten
from ..estimation.calculator import Estimate
from ..estimation.demand import PARTS
from ..estimation.fit import FitRow
from ..units import gb
from .drawing import draw
from .lettering import clean, fitted, largest_size, width, wrapped
from .rows import (
    VERDICT_MARKS,
    VERDICT_WORDS,
    gpu_words,
    main_rows,
    needs_words,
    room_words,
    row_of,
    smallest_row,
    verdict_words,
)

Theme = Literal["light", "dark"]

WIDTH, HEIGHT = 1200, 630
MARGIN = 56
MOST_ROWS = 8
_SUBTITLE, _HEADLINE = 22, 26  # sizes of letters
_TOLD = 600  # characters of an error, to who can't see it
_BARS = (306, 812)  # where they begin and may end
_ROWS = (258, 566)
_MARGIN_OF_SCALE = 1.04  # the longest bar, or the card's line, ends a little before the edge
_FAMILY = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"

# The page's own colours; verdicts and words keep a contrast of 4.5 with the ground.
_PALETTE: dict[Theme, dict[str, str]] = {
    "light": {
        "ground": "#ffffff", "track": "#f1f5f9", "ink": "#0f172a", "dim": "#475569", "accent": "#4f46e5",
        "weights": "#4f46e5", "cache": "#0891b2", "activations": "#d97706", "overhead": "#64748b",
        "fits": "#15803d", "tight": "#b45309", "offload": "#6d28d9", "no": "#b91c1c",
    },
    "dark": {
        "ground": "#0f172a", "track": "#1e293b", "ink": "#f8fafc", "dim": "#a8b3c4", "accent": "#818cf8",
        "weights": "#818cf8", "cache": "#22d3ee", "activations": "#fbbf24", "overhead": "#94a3b8",
        "fits": "#86efac", "tight": "#fcd34d", "offload": "#c4b5fd", "no": "#fca5a5",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """A row as it is drawn: `segments` are (part, x, width), all in pixels."""

    y: float
    height: float
    label: str
    segments: tuple[tuple[str, float, float], ...]
    verdict: str
    words: str
    room: str
    chosen: bool


def card_svg(estimate: Estimate, precision: str = "", theme: str = "light") -> str:
    """The card of an estimate; the row asked for, or the recommended one, is marked.

    Raises:
        BadInput: the model has no such row.
    """
    chosen = row_of(estimate, precision)
    rows = _shown(estimate, chosen)
    usable = estimate.hardware.usable_bytes
    scale = (_BARS[1] - _BARS[0]) / (_MARGIN_OF_SCALE * max(usable, *(row.total_bytes for row in rows)))
    line = _BARS[0] + usable * scale
    limit = f"{gb(usable)} usable"
    half = width(limit, 17) / 2
    name = _name(estimate)
    return _card(
        theme,
        title=f"{name} on {gpu_words(estimate.hardware)}: {_headline(estimate, chosen)}",
        description="; ".join(f"{row.precision.label}: {verdict_words(row)}" for row in rows),
        name=name,
        subtitle=[_subtitle(estimate)],
        headline=[_headline(estimate, chosen)],
        verdict=chosen.verdict if chosen else "no",
        bars=_bars(rows, chosen, scale),
        line=round(line, 1),
        limit=limit,
        limit_x=round(min(max(line, _BARS[0] + half), _BARS[1] - half), 1),
        source="Weights exact, byte for byte" if estimate.inventory.exact else "Weights estimated",
    )


def error_card(error: QuantSpaceError, theme: str = "light") -> str:
    """The card where there is no answer, with what is wrong and what to do."""
    nothing = {"bars": (), "line": 0, "limit": "", "limit_x": 0, "source": "", "verdict": "no"}
    room = WIDTH - 2 * MARGIN
    return _card(
        theme,
        title=shorten(str(error), _TOLD),
        description=shorten(error.hint, _TOLD),
        name="No answer",
        subtitle=wrapped(clean(error.message), _SUBTITLE, room, 3),
        headline=wrapped(clean(error.hint), _HEADLINE, room, 4, bold=True),
        **nothing,
    )


def _card(
    theme: str, *, title: str, description: str, name: str, subtitle: list[str], headline: list[str], **values: object
) -> str:
    room = WIDTH - 2 * MARGIN
    size = largest_size(clean(name), room, range(46, 25, -2), bold=True)
    return draw(
        "card",
        colours=_PALETTE["dark" if theme == "dark" else "light"],
        family=_FAMILY, canvas=(WIDTH, HEIGHT), margin=MARGIN, track=_BARS, rows=_ROWS, parts=PARTS,
        title=clean(title), description=clean(description), size=size,
        name=fitted(clean(name), size, room, bold=True), sizes=(_SUBTITLE, _HEADLINE),
        subtitle=[fitted(clean(line), _SUBTITLE, room) for line in subtitle],
        headline=[fitted(clean(line), _HEADLINE, room, bold=True) for line in headline], **values,
    )  # fmt: skip


def _name(estimate: Estimate) -> str:
    inventory = estimate.inventory
    return inventory.model_id if inventory.revision == "main" else f"{inventory.model_id}@{inventory.revision}"


def _subtitle(estimate: Estimate) -> str:
    hardware, workload = estimate.hardware, estimate.workload
    parts = [f"on {gpu_words(hardware)}", f"context {workload.context:,}", f"batch {workload.batch}"]
    if workload.kv_dtype != "auto":
        parts.append(f"cache {workload.kv_dtype}")
    if workload.images:
        parts.append(f"{workload.images} images")
    return " · ".join(parts)


def _headline(estimate: Estimate, chosen: FitRow | None) -> str:
    if chosen is None:
        least = smallest_row(estimate)
        return f"Nothing fits: {least.precision.label}, the least, {needs_words(least)}"
    if chosen.verdict == "no":
        return f"{chosen.precision.label} does not fit: {needs_words(chosen)}"
    return f"{chosen.precision.label}: {verdict_words(chosen)}"


def _shown(estimate: Estimate, chosen: FitRow | None) -> list[FitRow]:
    """At most `MOST_ROWS` rows: those about the chosen one, or about the smallest."""
    rows = [*main_rows(estimate)]
    if chosen is not None and chosen not in rows:
        rows.append(chosen)
    rows.sort(key=lambda row: -row.total_bytes)
    middle = rows.index(chosen or smallest_row(estimate))
    first = max(0, min(middle - MOST_ROWS // 2, len(rows) - MOST_ROWS))
    return rows[first : first + MOST_ROWS]


def _bars(rows: list[FitRow], chosen: FitRow | None, scale: float) -> tuple[Bar, ...]:
    pitch = min((_ROWS[1] - _ROWS[0]) / len(rows), 52)
    return tuple(
        Bar(
            y=round(_ROWS[0] + place * pitch, 1),
            height=round(pitch - 10, 1),
            label=fitted(clean(row.precision.label), 20, _BARS[0] - MARGIN - 16, bold=row is chosen),
            segments=_segments(row, scale),
            verdict=row.verdict,
            words=f"{VERDICT_MARKS[row.verdict]} {VERDICT_WORDS[row.verdict]}",
            room=room_words(row),
            chosen=row is chosen,
        )
        for place, row in enumerate(rows)
    )


def _segments(row: FitRow, scale: float) -> tuple[tuple[str, float, float], ...]:
    x, found = float(_BARS[0]), []
    needed = row.needed
    for part in PARTS:
        length = getattr(needed, part) * scale
        found.append((part, round(x, 2), round(length, 2)))
        x += length
    return tuple(found)
