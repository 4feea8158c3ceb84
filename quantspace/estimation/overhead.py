"""What a GPU process takes besides its tensors: a first, stated approximation."""

from __future__ import annotations

from dataclasses import dataclass

from .hardware import Gpu
from .weights import WeightBytes

ALLOCATION_UNIT = 512  # bytes to which CUDA's caching allocator rounds each tensor
FRAGMENTATION = 0.02  # of what comes and goes: blocks of the allocator that are held but not full


@dataclass(frozen=True, slots=True)
class OverheadBytes:
    """Terms of the overhead over all cards; `total` is their sum.

    Attributes:
        unfilled: what layers that are kept whole may leave empty on all cards but the last.
    """

    context: int
    rounding: int
    fragmentation: int
    unfilled: int = 0

    @property
    def total(self) -> int:
        return self.context + self.rounding + self.fragmentation + self.unfilled


def overhead_bytes(
    gpu: Gpu, weights: WeightBytes, transient: int, gpu_count: int = 1, largest_layer: int = 0
) -> OverheadBytes:
    """CUDA contexts, rounding of each tensor, fragmentation, and the room that whole layers can't fill.

    Filling cards with layers in order leaves less than one layer empty on each but the last, so a model
    fits that has `(gpu_count - 1) × largest_layer` to spare.

    Args:
        transient: bytes of cache and activations, which the allocator hands out and takes back.
        largest_layer: bytes of the largest layer, its share of the cache included.
    """
    unfilled = (gpu_count - 1) * largest_layer
    if gpu.kind != "gpu":
        return OverheadBytes(0, 0, 0, unfilled)
    return OverheadBytes(
        context=gpu_count * gpu.context_bytes_or_default,
        rounding=weights.tensors * ALLOCATION_UNIT // 2,  # on average half a unit each
        fragmentation=int(FRAGMENTATION * transient),
        unfilled=unfilled,
    )
