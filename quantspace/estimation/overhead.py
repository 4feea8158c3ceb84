"""What a GPU process takes besides its tensors: a first, stated approximation."""

from __future__ import annotations

from dataclasses import dataclass

from .hardware import Gpu
from .weights import WeightBytes

ALLOCATION_UNIT = 512  # bytes to which CUDA's caching allocator rounds each tensor
FRAGMENTATION = 0.02  # of what comes and goes: blocks of the allocator that are held but not full


@dataclass(frozen=True, slots=True)
class OverheadBytes:
    """Terms of the overhead; `total` is their sum."""

    context: int
    rounding: int
    fragmentation: int

    @property
    def total(self) -> int:
        return self.context + self.rounding + self.fragmentation


def overhead_bytes(gpu: Gpu, weights: WeightBytes, transient: int) -> OverheadBytes:
    """CUDA context, rounding of each tensor, and fragmentation.

    Args:
        transient: bytes of cache and activations, which the allocator hands out and takes back.
    """
    if gpu.kind != "gpu":
        return OverheadBytes(0, 0, 0)
    return OverheadBytes(
        context=gpu.context_bytes_or_default,
        rounding=weights.tensors * ALLOCATION_UNIT // 2,  # on average half a unit each
        fragmentation=int(FRAGMENTATION * transient),
    )
