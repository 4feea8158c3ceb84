"""The fit table: a row a precision, with its verdict, its stacked bar against the card's line, and *Load*."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ..estimation.activations import scale
from ..estimation.cache import tokens_held
from ..estimation.calculator import Estimate
from ..estimation.fit import FitRow
from ..estimation.overhead import ALLOCATION_UNIT, FRAGMENTATION
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
        rows=[(row, _segments(row, scale), _whys(row, estimate)) for row in estimate.rows],
    )


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
    workload = estimate.workload
    parts = []
    for layer in estimate.inventory.cache:
        tokens = tokens_held(layer, workload.context)
        if layer.token_elements:
            parts.append(f"{layer.count} layers × {tokens:,} tokens × {layer.token_elements:,} values")
        if layer.state_elements or layer.state_bytes:
            parts.append(f"{layer.count} layers × a state of {layer.state_elements:,} values + {layer.state_bytes:,} B")
    dtype = workload.cache_dtype(row.precision)
    return f"{workload.batch} × ({' + '.join(parts) or 'no cache'}) in {dtype}"


def _activation_formula(row: FitRow, estimate: Estimate) -> str:
    workload, terms, peak = estimate.workload, row.activations, row.activations.widest
    square = f" + {peak.square:,g} × {workload.context:,}²" if peak.square else ""
    double = f"{scale(row.precision)} × " if scale(row.precision) > 1 else ""
    read = "read from the class" if estimate.inventory.peak_measured else "assumed from the config"
    alive = (
        f"widest operation ({read}) {double}{workload.batch} × ({peak.fixed:,} + {peak.token:,} × "
        f"{workload.context:,} tokens{square}) B, less the cache in it: {gb(terms.forward)}"
    )
    adds = {
        "prompt": terms.prompt,
        "dequantized copy of the largest weight" if row.precision.method == "4bit" else "int32 products": (
            terms.quantization
        ),
        f"sliding mask {workload.context:,}² B": terms.mask,
        "prompt pinned by sliding layers": terms.pinned_prompt,
    }
    return " + ".join([alive, *(f"{name} {gb(count)}" for name, count in adds.items() if count)]) + _each_card(estimate)


def _overhead_formula(row: FitRow, estimate: Estimate) -> str:
    terms = row.overhead
    if not terms.total:
        return "none counted: this memory is shared with the system"
    return (
        f"CUDA context {gb(terms.context)} + {row.weights.tensors:,} tensors × {ALLOCATION_UNIT // 2} B rounding "
        f"+ {FRAGMENTATION:.0%} of cache and activations {gb(terms.fragmentation)}" + _each_card(estimate)
    )


def _each_card(estimate: Estimate) -> str:
    return f", on each of {estimate.gpu_count} cards" if estimate.gpu_count > 1 else ""
