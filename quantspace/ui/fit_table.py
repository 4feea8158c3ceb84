"""The fit table: a row a precision, with its verdict, its stacked bar against the card's line, and *Load*.

Every figure can be asked why: its terms are those that were counted (`quantspace/formula.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

import gradio as gr

from ..errors import QuantSpaceError
from ..estimation.advice import smallest_gpus
from ..estimation.cache import cache_bytes, kept_dtype
from ..estimation.calculator import Estimate
from ..estimation.demand import PARTS
from ..estimation.fit import FitRow
from ..estimation.inventory import Inventory
from ..estimation.loadable import refusal_to_load
from ..estimation.placement import Share
from ..formula import Term
from ..hub.reference import ModelRef
from ..share.rows import row_of
from ..units import gb
from .keep import FORMATS, code_of_row, file_of_table, remember
from .render import render
from .source_view import asked_row, badges, on_top, source_words

VERDICT_MARKS = {"fits": "✓", "tight": "!", "offload": "⇄", "no": "✕"}
VERDICT_WORDS = {"fits": "Fits", "tight": "Tight", "offload": "Offload", "no": "Does not fit"}
_SHOWN_TERMS = 4  # of a part; smaller ones open on demand
_BAR_MARGIN = 1.04  # the longest bar, or the card's line, ends a little before the edge
_SCRIPT = (files("quantspace.ui") / "fit_table.js").read_text(encoding="utf-8")


def build_fit_table() -> gr.HTML:
    """The table's place; its `.click` fires with model, revision and precision when a row's *Load* is pressed."""
    return gr.HTML(
        apply_default_css=False,
        js_on_load=_SCRIPT,
        server_functions=[code_of_row, file_of_table],
        elem_id="fit-table",
    )


@dataclass(frozen=True)
class Segment:
    """A part of a bar, as a share of the scale in percent."""

    name: str
    bytes: int
    percent: float


@dataclass(frozen=True)
class Part:
    """A part of a row's total with its terms; the largest are shown, `more` opens the others."""

    name: str
    bytes: int
    terms: list[Term]
    more: list[Term]


@dataclass(frozen=True)
class RowView:
    """What the template needs of a row."""

    row: FitRow
    segments: list[Segment]
    parts: list[Part]


def table_html(estimate: Estimate, asked: ModelRef | None = None, precision: str = "") -> str:
    """The table of an estimate: rows that this app can run or that the model came in, then other formats.

    The row of `precision` is marked, else the one of the file that was asked for.
    """
    inventory, refusal = estimate.inventory, refusal_to_load(estimate.inventory)
    row_id, missing = _row_named(estimate, precision) if precision else asked_row(inventory, asked)
    usable = estimate.hardware.usable_bytes
    scale = _BAR_MARGIN * max(usable, *(row.total_bytes for row in estimate.rows))
    views = [RowView(row, _segments(row, scale), _parts(row)) for row in estimate.rows]
    main = sorted(
        (view for view in views if on_top(view.row, estimate)), key=lambda view: view.row.precision.id != "native"
    )
    beside = [view for view in views if view.row.file and view not in main]
    return render(
        "fit_table",
        estimate=estimate,
        usable=usable,
        line=100 * usable / scale,
        words=VERDICT_WORDS,
        marks=VERDICT_MARKS,
        headline=headline(estimate),
        source=source_words(inventory),
        refusal=refusal,
        badges=badges(inventory),
        token=inventory.source_kind == "counts",  # its files may be closed: a token may open a better source
        views=main,
        files=beside,
        files_fitting=sum(view.row.verdict in ("fits", "tight") for view in beside),
        others=[view for view in views if view not in main and view not in beside],
        asked=row_id,
        ticket=remember(estimate, row_id or ""),
        formats=FORMATS,
        notes=[*filter(None, [missing]), *([str(refusal)] if refusal else []), *estimate.notes],
        parts=_told_parts(inventory),
        place=place,
        advice=smallest_gpus(inventory, estimate.workload),
        opinions=() if inventory.weights_only else estimate.opinions(),
        cache=_cache_bytes(estimate),
    )


def _told_parts(inventory: Inventory) -> list[str]:
    if inventory.weights_only:
        return ["weights", "overhead"]
    return [name for name in PARTS if name != "cache" or inventory.generates]


def _row_named(estimate: Estimate, precision: str) -> tuple[str | None, str]:
    """The id of the row of a precision, and what to say where there is none."""
    try:
        row = row_of(estimate, precision)
    except QuantSpaceError as missing:
        return None, str(missing)
    return (row.precision.id if row else None), ""


def headline(estimate: Estimate) -> str:
    """The answer in one sentence: what to take, or how far one could go instead."""
    if estimate.recommended:
        row = estimate.row(estimate.recommended)
        what = "its weights fit" if estimate.inventory.weights_only else "it fits"
        how = what if row.verdict == "fits" else what.replace("fit", "just fit")
        free = f"{gb(row.free_bytes // row.gpu_count)} free" + (" on the fullest card" if row.gpu_count > 1 else "")
        return f"Take {row.precision.label}: {how}, with {free}.{_unloadable(row)}"
    return f"{_how_far(estimate)}{_way_out(estimate)}"


def _unloadable(row: FitRow) -> str:
    if row.precision.engine != "transformers":
        return f" It runs in {row.precision.engine}; this app does not load it."
    return f" {row.why_not}" if refusal_to_load(row.demand.inventory) is None else ""


def _way_out(estimate: Estimate) -> str:
    """What would still run where nothing that transformers holds on the cards does."""
    first = sorted(estimate.rows, key=lambda row: row.file is None)  # files that are there, before what could be made
    other = next((row for row in first if row.verdict == "fits" and not on_top(row, estimate)), None)
    offloaded = next((row for row in estimate.rows if row.verdict == "offload" and on_top(row, estimate)), None)
    ways = []
    if offloaded:
        ways.append(f"{offloaded.precision.label} runs with layers in system memory")
    if other:
        engine = f" in {other.precision.engine}" if other.precision.engine != "transformers" else ""
        ways.append(
            f"{other.precision.label}{engine} would fit: see the {'GGUF files' if other.file else 'other formats'}"
        )
    return f" {'; '.join(ways)}." if ways else ""


def _how_far(estimate: Estimate) -> str:
    asked = f"{estimate.workload.context:,} tokens × {estimate.workload.batch}"
    rows = [row for row in estimate.rows if on_top(row, estimate)]
    furthest = max(rows, key=lambda row: row.max_context)
    if furthest.max_context:
        far = f"{furthest.precision.label} fits up to {furthest.max_context:,} tokens."
        return f"Nothing fits at {asked} on the card alone. {far}"
    return (
        "Nothing fits on the card alone, even for one token. Choose a larger card, several of them, or a smaller model."
    )


def waiting_html(model: str) -> str:
    """Shown while an inventory is read."""
    return render("waiting", model=model)


def _cache_bytes(estimate: Estimate) -> int:
    inventory, workload = estimate.inventory, estimate.workload
    dtype = kept_dtype(inventory, workload.kv_dtype, "bfloat16")
    return cache_bytes(inventory, workload.context, workload.batch, dtype)


def place(share: Share) -> str:
    """Where a share begins and ends: `model.embed_tokens … model.layers.16`."""
    if not share.names:
        return "nothing"
    return share.names[0] if len(share.names) == 1 else f"{share.names[0]} … {share.names[-1]}"


def _segments(row: FitRow, scale: float) -> list[Segment]:
    return [Segment(part, _bytes(row, part), 100 * _bytes(row, part) / scale) for part in PARTS]


def _parts(row: FitRow) -> list[Part]:
    terms = row.terms()
    return [
        Part(name, _bytes(row, name), terms[name][:_SHOWN_TERMS], terms[name][_SHOWN_TERMS:])
        for name in PARTS
        if terms[name]
    ]


def _bytes(row: FitRow, part: str) -> int:
    read: dict[str, Callable[[FitRow], int]] = {
        "weights": lambda row: row.weights.held,
        "cache": lambda row: row.cache_bytes,
        "activations": lambda row: row.activation_bytes,
        "overhead": lambda row: row.overhead_bytes,
    }
    return read[part](row)
