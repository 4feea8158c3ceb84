"""The fit table of an embed: which rows and columns, and what stands in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import BadInput
from ..estimation.calculator import Estimate, estimate
from ..estimation.demand import PARTS
from ..estimation.fit import FitRow, recommend
from ..runtime.measured_speed import measurements
from ..share.links import State
from ..share.rows import (
    VERDICT_MARKS,
    VERDICT_WORDS,
    asked_precision,
    gpu_words,
    main_rows,
    needs_words,
    row_of,
    smallest_row,
)
from ..units import exact, gb
from .embed_options import EVERY_ROW, Options

_BREADTHS = {"context": 2, "batch": 2}  # their words need more room than one figure of bytes
_BREADTH = 4  # for which a line of 700 pixels has room
_BAR_MARGIN = 1.04  # the longest bar, or the card's line, ends a little before the edge


@dataclass(frozen=True)
class Cell:
    """A figure of a row with the word under it; `value` is the figure itself, where it is a whole number."""

    column: str
    text: str
    word: str
    value: int | None = None
    title: str = ""


@dataclass(frozen=True)
class Segment:
    """A part of a bar: where it begins and how long it is, in percent of the scale."""

    name: str
    text: str
    start: float
    width: float


@dataclass(frozen=True)
class Line:
    """A row as it is shown."""

    id: str
    label: str
    verdict: str
    mark: str
    words: str
    reason: str
    cells: tuple[Cell, ...]
    segments: tuple[Segment, ...]
    recommended: bool
    asked: bool


@dataclass(frozen=True)
class Table:
    """All that is shown of an estimate.

    Attributes:
        card: where the card's memory ends, in percent of the scale.
        many: whether a row has more figures than a line of a narrow page has room for.
    """

    model: str
    gpu: str
    usable: str
    workload: str
    headline: str
    exact: bool
    weights_only: bool
    lines: tuple[Line, ...]
    card: float
    notes: tuple[str, ...]
    many: bool


def table_of(state: State, options: Options) -> Table:
    """Estimate `state` and lay it out as `options` say.

    Raises:
        BadInput, ModelUnavailable, ModelUnsupported: as `estimate()` does.
    """
    return lay_out(estimate(**state.arguments(), measured=measurements.on), state, options)


def lay_out(told: Estimate, state: State, options: Options) -> Table:
    """The table of an estimate that was asked for by `state`."""
    rows, missing = _chosen(told, options.rows)
    asked, absent = _asked(told, state)
    if asked is not None and asked not in rows:
        rows = (*rows, asked)
    recommended = told.recommended if not options.rows else recommend(list(rows))
    usable = told.hardware.usable_bytes
    scale = _BAR_MARGIN * max(usable, *(row.total_bytes for row in rows))
    workload = f"{told.workload.context:,} tokens × {told.workload.batch}"
    return Table(
        model=told.inventory.model_id,
        gpu=gpu_words(told.hardware),
        usable=gb(usable),
        workload=workload,
        headline=_headline(told, rows, recommended),
        exact=told.inventory.exact,
        weights_only=bool(told.inventory.weights_only),
        lines=tuple(_line(row, options.columns, scale, recommended, asked) for row in rows),
        card=100 * usable / scale,
        notes=(*missing, *absent, *filter(None, [told.inventory.weights_only]), *told.notes),
        many=sum(_BREADTHS.get(name, 1) for name in options.columns if name in _CELLS) > _BREADTH,
    )


def _chosen(told: Estimate, wanted: tuple[str, ...]) -> tuple[tuple[FitRow, ...], list[str]]:
    """The rows to show, and a sentence about those that the model has not."""
    if wanted == (EVERY_ROW,):
        return told.rows, []
    usual = main_rows(told)
    if told.recommended and told.recommended not in {row.precision.id for row in usual}:
        usual = (*usual, told.row(told.recommended))
    by_id = {row.precision.id: row for row in told.rows}
    rows = tuple(row for row in told.rows if row.precision.id in wanted)
    missing = ", ".join(name for name in wanted if name not in by_id)
    return rows or usual, [f"This model has no row for {missing}."] if missing else []


def _asked(told: Estimate, state: State) -> tuple[FitRow | None, list[str]]:
    """The row that the link is about, and why there is none."""
    try:
        precision = asked_precision(told, state.model, state.precision)
        return (row_of(told, precision) if precision else None), []
    except BadInput as error:
        return None, [str(error)]


def _headline(told: Estimate, rows: tuple[FitRow, ...], recommended: str | None) -> str:
    """The answer in one sentence."""
    if recommended:
        row = told.row(recommended)
        what, verb = ("its weights", "fit") if told.inventory.weights_only else ("it", "fits")
        just = "" if row.verdict == "fits" else "just "
        free = f"{gb(row.free_bytes // row.gpu_count)} free" + (" on the fullest card" if row.gpu_count > 1 else "")
        engine = "" if row.precision.engine == "transformers" else f" It runs in {row.precision.engine}."
        return f"Take {row.precision.label}: {what} {just}{verb}, with {free}.{engine}"
    offloaded = next((row for row in rows if row.verdict == "offload"), None)
    way_out = f" {offloaded.precision.label} runs with layers in system memory." if offloaded else ""
    least = min(rows, key=lambda row: row.total_bytes) if len(rows) < len(told.rows) else smallest_row(told)
    return f"Nothing here fits the card alone: {least.precision.label} {needs_words(least)}.{way_out}"


def _line(row: FitRow, columns: tuple[str, ...], scale: float, recommended: str | None, asked: FitRow | None) -> Line:
    return Line(
        id=row.precision.id,
        label=row.precision.label,
        verdict=row.verdict,
        mark=VERDICT_MARKS[row.verdict],
        words=VERDICT_WORDS[row.verdict],
        reason=row.reason,
        cells=tuple(_CELLS[name](row) for name in columns if name in _CELLS),
        segments=tuple(_segments(row, scale)),
        recommended=row.precision.id == recommended,
        asked=row is asked,
    )


def _segments(row: FitRow, scale: float) -> list[Segment]:
    segments, start = [], 0.0
    for part in PARTS:
        width = 100 * _PART_BYTES[part](row) / scale
        segments.append(Segment(part, gb(_PART_BYTES[part](row)), start, width))
        start += width
    return segments


def _bytes(column: str, word: str, of: Callable[[FitRow], int]) -> Callable[[FitRow], Cell]:
    return lambda row: Cell(column, gb(of(row)), word, of(row), exact(of(row)))


def _free(row: FitRow) -> Cell:
    free = row.free_bytes
    return Cell("free", gb(abs(free)), "free" if free >= 0 else "short", free, exact(free))


def _speed(row: FitRow) -> Cell:
    if row.speed is None:
        return Cell("speed", "", "")
    low, high = (f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}" for rate in (row.speed.low, row.speed.high))
    return Cell("speed", low if low == high else f"{low}–{high}", "tokens/s", title=row.speed.assumption)


def _most(column: str, word: str, of: Callable[[FitRow], int]) -> Callable[[FitRow], Cell]:
    return lambda row: Cell(column, f"{of(row):,}", word, of(row))


_PART_BYTES: dict[str, Callable[[FitRow], int]] = {
    "weights": lambda row: row.weights.held,
    "cache": lambda row: row.cache_bytes,
    "activations": lambda row: row.activation_bytes,
    "overhead": lambda row: row.overhead_bytes,
}
_CELLS: dict[str, Callable[[FitRow], Cell]] = {
    "total": _bytes("total", "needed", lambda row: row.total_bytes),
    "free": _free,
    "speed": _speed,
    **{part: _bytes(part, part, of) for part, of in _PART_BYTES.items()},
    "footprint": _bytes("footprint", "footprint", lambda row: row.weights.footprint),
    "context": _most("context", "tokens at most", lambda row: row.max_context),
    "batch": _most("batch", "sequences at most", lambda row: row.max_batch),
}
