"""From an inventory to the bytes of its weights in one precision. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from ..precision import DTYPE_BYTES, Precision
from .inventory import Inventory, TensorSpec
from .stored import StoredTensor


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """What a loaded model holds.

    Attributes:
        footprint: what `model.get_memory_footprint()` returns (elements × element size of every
            parameter and buffer; `transformers/modeling_utils.py`).
        held: bytes truly held: that, plus the quantization constants kept beside the weights.
        tensors: number of separate allocations.
    """

    footprint: int
    held: int
    tensors: int


def weight_bytes(inventory: Inventory, precision: Precision) -> WeightBytes:
    """Bytes of all tensors of `inventory` under `precision`, each storage once."""
    footprint = constants = tensors = 0
    for spec, count in inventory.shapes.items():
        stored = store(spec, precision)
        footprint += count * stored.data_bytes
        constants += count * stored.constant_bytes
        tensors += count
    return WeightBytes(footprint, footprint + constants, tensors)


def largest_layer_bytes(inventory: Inventory, precision: Precision) -> int:
    """Bytes of the largest layer, which a split over several cards keeps whole."""
    return max(sum(store(spec, precision).held_bytes for spec in layer) for layer in inventory.layers)


def store(spec: TensorSpec, precision: Precision) -> StoredTensor:
    """What one tensor becomes in memory under `precision`."""
    if spec.tied_to is not None:
        dtype = spec.dtype_under(precision.dtype)
        return StoredTensor(spec.name, spec.shape, dtype, dtype, 0, tied_to=spec.tied_to)
    if precision.quantizes and spec.quantizable:
        return StoredTensor(
            spec.name,
            spec.shape,
            precision.dtype,
            precision.storage_name,
            precision.data_bytes(spec.elements),
            precision.constant_bytes(spec.elements, spec.rows),
        )
    dtype = spec.dtype_under(precision.dtype)
    return StoredTensor(spec.name, spec.shape, dtype, dtype, spec.elements * DTYPE_BYTES[dtype])


def stored_tensors(inventory: Inventory, precision: Precision) -> list[StoredTensor]:
    """Every tensor as memory will hold it, in the model's order: the per-layer table before loading."""
    return [store(spec, precision) for spec in inventory.tensors]
