"""Tensors as memory holds them: the shape in which estimate and readout are laid side by side."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_LAYER = re.compile(r"^(.*?\.\d+)(?=\.|$)")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One parameter or buffer in memory.

    Attributes:
        name: full name.
        shape: logical shape: of the weight that computation sees, also when it is packed.
        logical_dtype: dtype in which it takes part in computation.
        storage_dtype: dtype that memory holds, with the format in brackets: `uint8 (nf4)`.
        data_bytes: of the data itself, what `get_memory_footprint()` counts.
        constant_bytes: of quantization constants beside it, which that function misses.
        tied_to: name of the tensor whose storage this one shares; its bytes are then 0.
    """

    name: str
    shape: tuple[int, ...]
    logical_dtype: str
    storage_dtype: str
    data_bytes: int
    constant_bytes: int = 0
    tied_to: str | None = None

    @property
    def held_bytes(self) -> int:
        return self.data_bytes + self.constant_bytes


@dataclass
class LayerRow:
    """One layer of the table: bytes by storage dtype, and the tensors behind them."""

    layer: str
    bytes_by_dtype: dict[str, int] = field(default_factory=dict)
    tensors: list[StoredTensor] = field(default_factory=list)

    @property
    def held_bytes(self) -> int:
        return sum(self.bytes_by_dtype.values())


def layer_of(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` → `model.layers.3`; `lm_head.weight` → `lm_head`."""
    match = _LAYER.match(name)
    if match:
        return match.group(1)
    return name.rpartition(".")[0] or name


def layer_table(tensors: Iterable[StoredTensor]) -> list[LayerRow]:
    """Group tensors by layer, in the order in which layers first appear."""
    rows: dict[str, LayerRow] = {}
    for tensor in tensors:
        row = rows.setdefault(layer_of(tensor.name), LayerRow(layer_of(tensor.name)))
        held = row.bytes_by_dtype.get(tensor.storage_dtype, 0)
        row.bytes_by_dtype[tensor.storage_dtype] = held + tensor.held_bytes
        row.tensors.append(tensor)
    return list(rows.values())
