"""From an inventory to the bytes of its weights in one precision. Pure arithmetic."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from ..errors import BadInput
from ..formula import Formula, Term
from ..precision import DTYPE_BYTES, LAYOUTS, PRECISIONS, Precision
from .gguf.mix import gguf_weights
from .gguf.rows import file_behind, file_terms
from .inventory import Inventory, TensorSpec
from .native import outside_footprint
from .stored import StoredTensor

GROUP = 128  # weights that share a scale in torchao's four bits
KEPT = 8192  # sums that are kept: some 400 models in every precision
_CAST = Formula("count * elements * size", elements="values", size="B")
_QUANTIZED = {
    name: Formula(
        f"count * ({layout.data.expression} + {layout.constants.expression})",
        elements="weights", rows="rows", columns="columns",
    )
    for name, layout in LAYOUTS.items()
}  # fmt: skip
_ROLES = {
    "linear": "linear layers",
    "experts": "fused experts",
    "head": "output head",
    "embedding": "embeddings",
    "norm": "norms",
    "bias": "biases",
    "buffer": "buffers",
    "other": "other tensors",
}


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """What a loaded model holds.

    Attributes:
        footprint: what `model.get_memory_footprint()` returns (elements × element size of every
            parameter and buffer; `transformers/modeling_utils.py`), which takes a weight of torchao for what it
            stands for; of a GGUF mix what `held` is, of a GGUF file all of its tensors.
        held: bytes truly held: packed weights with the quantization constants kept beside them; of a GGUF
            file less what llama.cpp keeps in system memory beside a GPU.
        tensors: number of separate allocations.
    """

    footprint: int
    held: int
    tensors: int


def weight_bytes(inventory: Inventory, precision: Precision, on_gpu: bool = False) -> WeightBytes:
    """Bytes of all tensors of `inventory` under `precision`, each storage once.

    Args:
        on_gpu: whether a GPU with memory of its own holds them: of a GGUF file not the token embeddings.
    """
    file = file_behind(inventory, precision.id)
    if file is not None:
        return WeightBytes(file.weights, file.on_gpu if on_gpu else file.weights, file.tensors)
    return _weight_bytes(inventory, precision)


@lru_cache(maxsize=KEPT)
def _weight_bytes(inventory: Inventory, precision: Precision) -> WeightBytes:
    if precision.method == "gguf":
        groups = gguf_weights(inventory, precision.id)
        total = sum(group.bytes for group in groups)
        return WeightBytes(total, total, sum(group.count for group in groups))
    if precision.method == "stored":
        return _stored_bytes(inventory)
    footprint = held = tensors = 0
    for (spec, quantized), count in _shapes(inventory, precision).items():
        stored = _store(spec, precision, quantized)
        claimed = quantized and precision.method == "torchao"
        footprint += count * (spec.elements * DTYPE_BYTES[precision.dtype] if claimed else stored.data_bytes)
        held += count * stored.held_bytes
        tensors += count
    return WeightBytes(footprint, held, tensors)


def _stored_bytes(inventory: Inventory) -> WeightBytes:
    tensors = inventory.native
    outside = outside_footprint(tensors)
    held = {spec.name: store(spec, PRECISIONS["native"]).held_bytes for spec in tensors if spec.tied_to is None}
    counted = {name: count for name, count in held.items() if name not in outside}
    if inventory.prequantized == "torchao":
        counted |= {spec.name: store(spec, PRECISIONS["bf16"]).data_bytes for spec in inventory.tensors}
    return WeightBytes(sum(counted.values()), sum(held.values()), len(held))


def weight_terms(inventory: Inventory, precision: Precision, on_gpu: bool = False) -> list[Term]:
    """The same bytes term by term: one for each kind of tensor, largest first. Their sum is `held`."""
    file = file_behind(inventory, precision.id)
    if file is not None:
        terms = file_terms(file, on_gpu)
    elif precision.method == "gguf":
        terms = [group.term for group in gguf_weights(inventory, precision.id)]
    else:
        terms = [_term(*kind, count, precision) for kind, count in _shapes(inventory, precision).items()]
    return sorted(terms, key=lambda term: -term.bytes)


def store(spec: TensorSpec, precision: Precision) -> StoredTensor:
    """What one tensor becomes in memory under `precision`."""
    return _store(spec, precision, is_quantized(spec, precision))


def _store(spec: TensorSpec, precision: Precision, quantized: bool) -> StoredTensor:
    dtype = spec.dtype_under(precision.dtype)
    if spec.tied_to is not None:
        return StoredTensor(spec.name, spec.shape, dtype, dtype, 0, tied_to=spec.tied_to)
    if precision.layout is not None and quantized:
        data, constants = precision.layout.bytes(**_sizes(spec))
        return StoredTensor(spec.name, spec.shape, precision.dtype, precision.layout.storage, data, constants)
    return StoredTensor(spec.name, spec.shape, dtype, dtype, spec.elements * DTYPE_BYTES[dtype])


def is_quantized(spec: TensorSpec, precision: Precision) -> bool:
    """Whether `precision` quantizes this tensor.

    torchao takes every `nn.Linear` but the output head, also subclasses that bitsandbytes passes over, and
    leaves a transposed layer (`Conv1D`) as it is (`transformers/quantizers/quantizer_torchao.py`); in four bits
    also one whose inputs are no whole number of groups (`torchao/quantization/quant_api.py`).
    """
    if precision.skip and is_skipped(spec.name, precision.skip):
        return False
    if precision.method == "torchao":
        if spec.role != "linear" or spec.transposed:
            return False
        return precision.id != "int4-ao" or spec.shape[-1] % GROUP == 0
    return spec.quantizable or (precision.experts and spec.role == "experts")


def is_skipped(name: str, skip: tuple[str, ...]) -> bool:
    """Whether a person's `skip` names the module of this weight, or one that it is inside of.

    As `should_convert_module` of transformers matches names (`transformers/quantizers/quantizers_utils.py`).
    """
    module = name.removesuffix(".weight")
    return any(
        module.endswith(key) or pattern.match(module) for key, pattern in zip(skip, _patterns(skip), strict=True)
    )


@lru_cache(maxsize=64)
def _patterns(skip: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(rf"(?:{key})(?:(?<=\.)|(?=\.|$))") for key in skip)


def unquantized(precision: Precision) -> Precision:
    """What a layer becomes that is kept in system memory: bitsandbytes leaves it in the computation's dtype."""
    return PRECISIONS["bf16"] if precision.method in ("int8", "4bit") else precision


def stored_tensors(inventory: Inventory, precision: Precision) -> list[StoredTensor]:
    """Every tensor as memory will hold it, in the model's order: the per-layer table before loading.

    Raises:
        BadInput: a GGUF mix names its tensors otherwise.
    """
    if precision.method == "gguf":
        hint = f"Ask for one of {', '.join(p.id for p in PRECISIONS.values() if p.method != 'gguf')}."
        raise BadInput(f"There is no table by layer for {precision.label}, which is a kind of file.", hint)
    return [store(spec, precision) for spec in _tensors(inventory, precision)]


def largest_quantized(inventory: Inventory, precision: Precision) -> tuple[int, int]:
    """Elements of the largest quantized linear layer, and of the largest layer's quantized experts together."""
    return _largest_quantized(inventory, precision)


@lru_cache(maxsize=KEPT)
def _largest_quantized(inventory: Inventory, precision: Precision) -> tuple[int, int]:
    linear = experts = 0
    for layer in inventory.layers:
        quantized = [spec for spec in layer if is_quantized(spec, precision)]
        linear = max(linear, *(spec.elements for spec in quantized if spec.role != "experts"), 0)
        experts = max(experts, sum(spec.elements for spec in quantized if spec.role == "experts"))
    return linear, experts


def _tensors(inventory: Inventory, precision: Precision) -> Iterable[TensorSpec]:
    return inventory.native if precision.method == "stored" else inventory.tensors


def _shapes(inventory: Inventory, precision: Precision) -> Counter[tuple[TensorSpec, bool]]:
    """Untied tensors without their names, each with whether it is quantized, counted."""
    if precision.method == "stored":
        return Counter((replace(spec, name=""), False) for spec in inventory.native if spec.tied_to is None)
    if precision.skip:  # names matter
        untied = (spec for spec in inventory.tensors if spec.tied_to is None)
        return Counter((replace(spec, name=""), is_quantized(spec, precision)) for spec in untied)
    return Counter({(spec, is_quantized(spec, precision)): count for spec, count in inventory.shapes.items()})


def _sizes(spec: TensorSpec) -> dict[str, int]:
    """Elements, outputs and inputs of a weight; of fused experts the inputs of all."""
    rows = spec.rows or spec.shape[0]
    columns = spec.shape[0] * spec.shape[-1] if spec.role == "experts" else spec.columns or spec.shape[-1]
    return {"elements": spec.elements, "rows": rows, "columns": columns}


def _term(spec: TensorSpec, quantized: bool, count: int, precision: Precision) -> Term:
    stored = _store(spec, precision, quantized)
    name = f"{_ROLES[spec.role]} {'×'.join(map(str, spec.shape))} in {stored.storage_dtype}"
    if stored.constant_bytes:
        layout = next(name for name, layout in LAYOUTS.items() if layout is precision.layout)
        return Term(name, _QUANTIZED[layout], {"count": count, **_sizes(spec)}, LAYOUTS[layout].source)
    size = DTYPE_BYTES[stored.storage_dtype]
    return Term(name, _CAST, {"count": count, "elements": spec.elements, "size": size})
