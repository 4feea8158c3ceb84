"""From bytes to a verdict: does a model fit a card at a precision, why, and how far could one go. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..precision import PRECISIONS, Precision
from ..settings import settings
from ..units import gb
from .activations import ActivationBytes, activation_bytes
from .cache import cache_bytes
from .hardware import Gpu
from .inventory import Inventory
from .overhead import OverheadBytes, overhead_bytes
from .weights import WeightBytes, largest_layer_bytes, weight_bytes

Verdict = Literal["fits", "tight", "offload", "no"]

TIGHT_MARGIN = 0.05  # of usable memory: less than this free is called tight
# From most to least faithful to the published weights; FP32 only doubles bytes that were published in 16 bits.
_PREFERENCE = ("bf16", "fp16", "int8", "nf4", "nf4-dq", "fp4", "fp32")


@dataclass(frozen=True, slots=True)
class Workload:
    """What a model is asked to do: tokens in each sequence, sequences at once, dtype of the cache."""

    context: int = 8192
    batch: int = 1
    kv_dtype: str = "auto"

    def cache_dtype(self, precision: Precision) -> str:
        return precision.dtype if self.kv_dtype == "auto" else self.kv_dtype


@dataclass(frozen=True, slots=True)
class FitRow:
    """One row of the fit table. Bytes are integers; `free_bytes` is negative where memory is short."""

    precision: Precision
    weights: WeightBytes
    cache_bytes: int
    activations: ActivationBytes
    overhead: OverheadBytes
    gpu_count: int
    usable_bytes: int
    verdict: Verdict
    reason: str
    max_context: int
    max_batch: int
    loadable: bool
    exact: bool
    notes: tuple[str, ...] = ()

    @property
    def activation_bytes(self) -> int:
        return self.activations.total * self.gpu_count

    @property
    def overhead_bytes(self) -> int:
        return self.overhead.total

    @property
    def total_bytes(self) -> int:
        return self.weights.held + self.cache_bytes + self.activation_bytes + self.overhead_bytes

    @property
    def free_bytes(self) -> int:
        return self.usable_bytes - self.total_bytes


def fit_table(inventory: Inventory, gpu: Gpu, gpu_count: int, workload: Workload) -> list[FitRow]:
    """A row for every precision, in the order of the table of precisions."""
    return [fit(inventory, precision, gpu, gpu_count, workload) for precision in PRECISIONS.values()]


def fit(inventory: Inventory, precision: Precision, gpu: Gpu, gpu_count: int, workload: Workload) -> FitRow:
    """Lay one precision against `gpu_count` cards.

    Several cards share weights and cache by whole layers, and each runs its own part of the pass: the
    activations of the pass are counted on each.
    """
    weights = weight_bytes(inventory, precision)
    largest_layer = largest_layer_bytes(inventory, precision) if gpu_count > 1 else 0
    cached_layers = max(1, sum(layer.count for layer in inventory.cache))
    kv_dtype = workload.cache_dtype(precision)

    def need(context: int, batch: int) -> tuple[int, ActivationBytes, OverheadBytes]:
        cache = cache_bytes(inventory, context, batch, kv_dtype)
        activations = activation_bytes(inventory, precision, context, batch, kv_dtype)
        transient = cache + gpu_count * activations.total
        layer = largest_layer + 2 * cache // cached_layers  # twice the mean: windows make some layers small
        return cache, activations, overhead_bytes(gpu, weights, transient, gpu_count, layer)

    def total(context: int, batch: int) -> int:
        cache, activations, overhead = need(context, batch)
        return weights.held + cache + gpu_count * activations.total + overhead.total

    usable = gpu.usable_bytes * gpu_count
    cache, activations, overhead = need(workload.context, workload.batch)
    required = total(workload.context, workload.batch)
    context_limit = inventory.max_context or settings().max_context
    verdict, reason = _verdict(required, usable, weights.held)
    return FitRow(
        precision=precision,
        weights=weights,
        cache_bytes=cache,
        activations=activations,
        overhead=overhead,
        gpu_count=gpu_count,
        usable_bytes=usable,
        verdict=verdict,
        reason=reason,
        max_context=_largest(lambda n: total(n, workload.batch) <= usable, context_limit),
        max_batch=_largest(lambda n: total(workload.context, n) <= usable, settings().max_batch),
        loadable=inventory.prequantized is None,
        exact=inventory.exact,
        notes=_notes(inventory, precision, gpu, gpu_count),
    )


def recommend(rows: list[FitRow]) -> str | None:
    """The most faithful precision that fits, else that is tight, else none; FP32 only where nothing else does."""
    for verdict in ("fits", "tight"):
        fitting = {row.precision.id for row in rows if row.verdict == verdict}
        for precision in _PREFERENCE:
            if precision in fitting:
                return precision
    return None


def _verdict(required: int, usable: int, weights: int) -> tuple[Verdict, str]:
    free = usable - required
    if weights > usable:
        return "no", f"The weights alone hold {gb(weights)} against {gb(usable)} usable; {gb(-free)} short in all."
    if free < 0:
        return "no", f"Needs {gb(required)} against {gb(usable)} usable: {gb(-free)} short, though the weights fit."
    if free < TIGHT_MARGIN * usable:
        return "tight", f"Needs {gb(required)} of {gb(usable)}: {gb(free)} free, under the {TIGHT_MARGIN:.0%} margin."
    return "fits", f"Needs {gb(required)} of {gb(usable)}: {gb(free)} free."


def _notes(inventory: Inventory, precision: Precision, gpu: Gpu, gpu_count: int) -> tuple[str, ...]:
    notes = []
    if precision.quantizes and inventory.expert_elements:
        share = inventory.expert_elements / inventory.parameters
        notes.append(
            f"{share:.0%} of the parameters are fused experts, which bitsandbytes leaves in {precision.dtype}."
        )
    if precision.quantizes and not inventory.largest_quantizable:
        notes.append("bitsandbytes finds no linear layer to quantize in this architecture.")
    if precision.dtype == "bfloat16" and gpu.bf16_native is False:
        notes.append(f"{gpu.name} has no native bfloat16: it computes, but slowly.")
    if gpu_count > 1:
        notes.append("Layers are kept whole: what they may leave unfilled on each card is part of the overhead.")
    return tuple(notes)


def _largest(holds: Callable[[int], bool], limit: int) -> int:
    """The largest n ≤ limit for which a monotone `holds` is true; 0 when it isn't for 1."""
    if not holds(1):
        return 0
    low, high = 1, limit
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low
