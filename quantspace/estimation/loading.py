"""The most memory that a load takes at once, before it settles to what the model holds. Pure arithmetic.

transformers reads a checkpoint tensor by tensor, in the order of their names, and quantizes each before it reads the
next (`transformers/core_model_loading.py`, `convert_and_load_state_dict_in_model`). So the peak is what is held by
then, and what the quantizer has in hand for one tensor. A checkpoint's own pages, which the system takes back when it
needs them, are not counted; a tensor that is quantized is, in the dtype in which it is handed over.

What a quantizer has in hand, in bytes a weight beside that (bitsandbytes 0.50, torchao 0.18; on a CPU measured):

    CPU     int8 10       the weight in float16, its magnitudes, scaled, rounded, and 8-bit values
            4bit 14.07    in float32, scaled, as places in the code (int32), and packed with its scales
            fp4 28.07     those places in another order (int64) besides
    CUDA    int8 3, 4bit 0.6: kernels of their own, which read the weight and write the packed one
    both    torchao: float32 copies, 8 for int8, 13 for fp8, 6 for int4 and 12 where it is tiled

Experts that a checkpoint has one by one are stacked, and their halves then joined: twice their size for a moment.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from ..precision import DTYPE_BYTES, LAYOUTS, Layout, Precision
from .inventory import Inventory, TensorSpec
from .weights import KEPT, is_quantized, store, stored_tensors, weight_bytes

Kind = Literal["cpu", "cuda"]

EXPERTS_AT_ONCE = 2**22  # weights of experts that are packed together (`runtime/experts/packing.py`)
_IN_HAND: dict[Kind, dict[Layout, float]] = {
    "cpu": {
        LAYOUTS["int8"]: 10,
        LAYOUTS["nf4"]: 14.07,
        LAYOUTS["nf4-dq"]: 14.07,
        LAYOUTS["fp4"]: 28.07,
        LAYOUTS["fp4-dq"]: 28.07,
        LAYOUTS["int8-ao"]: 8,
        LAYOUTS["fp8-ao"]: 13,
        LAYOUTS["int4-ao"]: 6.03,
    },
    "cuda": {
        LAYOUTS["int8"]: 3,
        LAYOUTS["nf4"]: 0.6,
        LAYOUTS["nf4-dq"]: 0.6,
        LAYOUTS["fp4"]: 0.6,
        LAYOUTS["fp4-dq"]: 0.6,
        LAYOUTS["int8-ao"]: 8,
        LAYOUTS["fp8-ao"]: 13,
        LAYOUTS["int4-ao-tiles"]: 12,
    },
}


def loading_peak(inventory: Inventory, precision: Precision, kind: Kind) -> int:
    """Bytes that a load holds at most, the model included.

    Args:
        precision: as it is held on a device of this kind (`loadable.held_here`).
    """
    return weight_bytes(inventory, precision).held + loading_bytes(inventory, precision, kind)


@lru_cache(maxsize=KEPT)
def loading_bytes(inventory: Inventory, precision: Precision, kind: Kind) -> int:
    """Bytes that a load takes at most beyond what the model then holds."""
    if precision.method == "stored":
        return _largest(inventory, precision)
    if precision.method == "gguf":
        return 0
    held = peak = 0
    for spec in sorted(inventory.tensors, key=_place):
        if spec.tied_to is not None:
            continue
        own = store(spec, precision).held_bytes
        peak = max(peak, held + max(own, _in_hand(spec, precision, kind)))
        held += own
    return max(0, peak - held)


def _in_hand(spec: TensorSpec, precision: Precision, kind: Kind) -> int:
    """Bytes of one tensor and of what is made of it, at most."""
    size = DTYPE_BYTES[spec.dtype_under(precision.dtype)]
    whole = spec.elements * size
    if spec.role == "experts" and not is_quantized(spec, precision):
        return 2 * whole
    if precision.layout is None or not is_quantized(spec, precision):
        return whole
    a_weight = _IN_HAND[kind][precision.layout]
    if spec.role != "experts":
        turned = whole if spec.transposed and precision.method == "4bit" else 0  # a Conv1D, copied as it is turned
        return whole + turned + round(spec.elements * a_weight)
    packed = sum(precision.layout.bytes(spec.elements, spec.shape[0], spec.columns or spec.shape[-1]))
    expert = spec.elements // spec.shape[0]
    together = max(expert, min(spec.elements, EXPERTS_AT_ONCE // expert * expert))
    return max(2 * whole, whole + packed + round(together * a_weight))


def _largest(inventory: Inventory, precision: Precision) -> int:
    """Of a checkpoint that is stored quantized: its largest tensor, which is there twice while it is handed over."""
    return max(tensor.held_bytes for tensor in stored_tensors(inventory, precision))


def _place(spec: TensorSpec) -> list[tuple[bool, int, str]]:
    """Where a tensor comes in the order of reading: numbers in a name count as numbers."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in spec.name.split(".")]
