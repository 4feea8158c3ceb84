"""The fit table: a row a precision, with its verdict, its stacked bar against the card's line, and *Load*."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ..estimation.activations import scale
from ..estimation.cache import tokens_held
from ..estimation.calculator import Estimate
from ..estimation.fit import FitRow
from ..estimation.overhead import ALLOCATION_UNIT, FRAGMENTATION
from ..precision import DTYPE_BYTES
from ..units import exact, gb
from .render import render

VERDICT_WORDS = {"fits": "Fits", "tight": "Tight", "offload": "Offload", "no": "Does not fit"}
_BAR_MARGIN = 1.04  # the longest bar, or the card's line, ends a little before the edge
# Clicks on a row's button reach Python as an event that carries what the row stands for.
_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-precision]');
  if (button && !button.disabled) trigger('click', {...button.dataset});
});
"""


def build_fit_table() -> gr.HTML:
    """The table's place; its `.click` fires with model, revision and precision when a row's *Load* is pressed."""
    return gr.HTML(apply_default_css=False, js_on_load=_CLICKS, elem_id="fit-table")


@dataclass(frozen=True)
class Segment:
    """A part of a bar, as a share of the scale in percent."""

    name: str
    bytes: int
    percent: float


@dataclass(frozen=True)
class Why:
    """One term of a row's total, with its formula and the operands filled in."""

    name: str
    bytes: int
    formula: str


def table_html(estimate: Estimate) -> str:
    """The table of an estimate."""
    scale = _BAR_MARGIN * max(estimate.rows[0].usable_bytes, *(row.total_bytes for row in estimate.rows))
    return render(
        "fit_table",
        estimate=estimate,
        usable=estimate.gpu.usable_bytes * estimate.gpu_count,
        line=100 * estimate.rows[0].usable_bytes / scale,
        words=VERDICT_WORDS,
        headline=headline(estimate),
        rows=[(row, _segments(row, scale), _whys(row, estimate)) for row in estimate.rows],
    )


def headline(estimate: Estimate) -> str:
    """The answer in one sentence: what to take, or how far one could go instead."""
    if estimate.recommended:
        row = estimate.row(estimate.recommended)
        how = "it fits" if row.verdict == "fits" else "it just fits"
        return f"Take {row.precision.label}: {how}, with {gb(row.free_bytes)} free."
    asked = f"{estimate.workload.context:,} tokens × {estimate.workload.batch}"
    furthest = max(estimate.rows, key=lambda row: row.max_context)
    if furthest.max_context:
        return f"Nothing fits at {asked}. {furthest.precision.label} fits up to {furthest.max_context:,} tokens."
    return "Nothing fits, even for one token. Choose a larger card, several of them, or a smaller model."


def waiting_html(model: str) -> str:
    """Shown while an inventory is read."""
    return render("waiting", model=model)


def _segments(row: FitRow, scale: float) -> list[Segment]:
    parts = {
        "weights": row.weights.held,
        "cache": row.cache_bytes,
        "activations": row.activation_bytes,
        "overhead": row.overhead_bytes,
    }
    return [Segment(name, count, 100 * count / scale) for name, count in parts.items()]


def _whys(row: FitRow, estimate: Estimate) -> list[Why]:
    constants = row.weights.held - row.weights.footprint
    weights = f"footprint {exact(row.weights.footprint)}"
    if constants:
        weights += f" + quantization constants {exact(constants)}"
    return [
        Why("weights", row.weights.held, weights),
        Why("cache", row.cache_bytes, _cache_formula(row, estimate)),
        Why("activations", row.activation_bytes, _activation_formula(row, estimate)),
        Why("overhead", row.overhead_bytes, _overhead_formula(row, estimate)),
    ]


def _cache_formula(row: FitRow, estimate: Estimate) -> str:
    """The cache's bytes from its operands: values are of the cache's dtype, bytes are of a dtype of their own."""
    workload = estimate.workload
    element = DTYPE_BYTES[workload.cache_dtype(row.precision)]
    parts = []
    for layer in estimate.inventory.cache:
        tokens = tokens_held(layer, workload.context)
        terms = []
        if layer.token_elements:
            terms.append(f"{tokens:,} tokens × {layer.token_elements:,} values × {element} B")
        if layer.token_bytes:
            terms.append(f"{tokens:,} tokens × {layer.token_bytes:,} B")
        if layer.state_elements:
            terms.append(f"a state of {layer.state_elements:,} values × {element} B")
        if layer.state_bytes:
            terms.append(f"a state of {layer.state_bytes:,} B")
        parts.append(f"{layer.count} layers × ({' + '.join(terms)})")
    return f"{workload.batch} × [{' + '.join(parts) or 'no cache'}] = {exact(row.cache_bytes)}"


def _activation_formula(row: FitRow, estimate: Estimate) -> str:
    workload, terms, peak = estimate.workload, row.activations, row.activations.widest
    square = f" + {peak.square:,g} × {workload.context:,}²" if peak.square else ""
    double = f"{scale(row.precision)} × " if scale(row.precision) > 1 else ""
    read = "read from the class" if estimate.inventory.peak_measured else "assumed from the config"
    alive = terms.widest.at(workload.context, workload.batch) * scale(row.precision)
    widest = (
        f"widest operation ({read}) {double}{workload.batch} × ({peak.fixed:,} + {peak.token:,} × "
        f"{workload.context:,} tokens{square}) B, less the {exact(alive - terms.forward)} of cache in it"
    )
    adds = {
        "the prompt": terms.prompt,
        "dequantized copy of the largest weight": terms.quantization if row.precision.method == "4bit" else 0,
        "int32 products of the widest layer": terms.quantization if row.precision.method == "int8" else 0,
        "sliding mask, a byte for each pair of tokens": terms.mask,
        "prompt pinned by sliding layers": terms.pinned_prompt,
    }
    listed = [widest, *(f"{name} {exact(count)}" for name, count in adds.items() if count)]
    if terms.drafts > terms.at_once:
        listed = [f"drafts of the sliding mask before any layer runs: {exact(terms.drafts)}"]
    return " + ".join(listed) + (f", on each of {estimate.gpu_count} cards" if estimate.gpu_count > 1 else "")


def _overhead_formula(row: FitRow, estimate: Estimate) -> str:
    terms = row.overhead
    cards = f" on {estimate.gpu_count} cards" if estimate.gpu_count > 1 else ""
    named = {
        f"CUDA context{cards}": terms.context,
        f"rounding of {row.weights.tensors:,} tensors, {ALLOCATION_UNIT // 2} B each": terms.rounding,
        f"fragmentation, {FRAGMENTATION:.0%} of cache and activations": terms.fragmentation,
        "what whole layers may leave unfilled on all cards but the last": terms.unfilled,
    }
    listed = [f"{name} {exact(count)}" for name, count in named.items() if count]
    return " + ".join(listed) or "none counted: this memory is shared with the system"
