"""Bytes of a KV cache that transformers keeps quantized. Pure arithmetic, for `QuantizedCache` of transformers 5.23.

What it holds (`transformers/cache_utils.py`, QuantizedLayer and Fp8QuantizedLayer; `optimum/quanto/tensor`,
`packed.py` and `grouped.py`), for each layer, for its keys and again for its values, n being their elements:

    int4, int2   groups of 64 elements packed into bytes, a scale and a shift for each group in the cache's dtype;
                 tokens of decode steps wait in full precision until there are 128, then all is quantized anew
    fp8          n bytes and one float32 scale; nothing waits

It takes models whose every layer attends to the whole prompt: with a sliding window, a recurrent state or an
encoder it raises. While a layer runs, its keys and values are there in full precision too; that is the peak's
matter, not the cache's. The `hqq` backend (8 bits among others) is left out: it does not run with this transformers.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..formula import Formula, Term
from ..precision import DTYPE_BYTES
from .inventory import CacheLayer, Inventory

GROUP = 64  # elements that share one scale and one shift (`q_group_size`)
RESIDUAL = 128  # tokens at which those that wait are quantized (`residual_length`)

PACKED = Formula(
    "2 * layers * (ceil(batch * tokens * values // group, per_byte) * group"
    " + batch * tokens * values // group * 2 * size + batch * waiting * values * size)",
    layers="layers", batch="sequences", tokens="tokens", values="values", group="values_a_group",
    per_byte="values_a_byte", size="B", waiting="tokens_that_wait",
)  # fmt: skip
FLOAT8 = Formula(
    "2 * layers * (batch * tokens * values + scale)",
    layers="layers", batch="sequences", tokens="tokens", values="values", scale="B_of_scale",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CacheFormat:
    """A way in which `QuantizedCache` keeps keys and values.

    Attributes:
        backend: its first argument.
        bits: `nbits`; `None` where the backend has no choice.
    """

    id: str
    backend: str
    bits: int | None
    label: str


FORMATS = {
    row.id: row
    for row in (
        CacheFormat("fp8", "fp8", None, "FP8 keys and values"),
        CacheFormat("int4", "quanto", 4, "4-bit keys and values"),
        CacheFormat("int2", "quanto", 2, "2-bit keys and values"),
    )
}


def can_quantize(inventory: Inventory, format_id: str) -> bool:
    """Whether `QuantizedCache` takes this model, with any length of prompt."""
    plain = all(
        layer.kind == "DynamicLayer"
        and layer.window is None
        and not (layer.token_bytes or layer.state_elements or layer.state_bytes)
        for layer in inventory.cache
    )
    places = [place for layer in inventory.cache for place in layer.layers]
    one_sided = len(places) == len(set(places)) > 0  # an encoder-decoder has two caches
    grouped = FORMATS[format_id].bits is None or all(
        layer.token_elements // 2 % GROUP == 0 for layer in inventory.cache
    )
    return plain and one_sided and grouped


def quantized_cache_terms(
    inventory: Inventory, context: int, batch: int, format_id: str, dtype: str, waiting: int | None = None
) -> list[Term]:
    """A term for each kind of layer; keys and values are taken as equally wide.

    Args:
        dtype: of the model: of scales, and of tokens that wait.
        waiting: tokens of `context` that are not quantized yet; as many as can be where none is given.

    Raises:
        ValueError: transformers does not quantize this model's cache (`can_quantize`).
    """
    if not can_quantize(inventory, format_id):
        raise ValueError(f"transformers keeps the cache of {inventory.architecture} in full precision only")
    return [quantized_layer_term(layer, context, batch, format_id, dtype, waiting) for layer in inventory.cache]


def quantized_layer_term(
    layer: CacheLayer, context: int, batch: int, format_id: str, dtype: str, waiting: int | None = None
) -> Term:
    """The bytes of layers of one kind; arguments as of `quantized_cache_terms`."""
    row = FORMATS[format_id]
    operands = {"layers": layer.count, "batch": batch, "values": layer.token_elements // 2}
    if row.bits is None:
        return Term(row.label, FLOAT8, {**operands, "tokens": context, "scale": DTYPE_BYTES["float32"]})
    waits = min(context - 1, RESIDUAL - 1) if waiting is None else waiting
    packing = {"group": GROUP, "per_byte": 8 // row.bits, "size": DTYPE_BYTES[dtype]}
    return Term(row.label, PACKED, {**operands, **packing, "tokens": context - waits, "waiting": waits})


def quantized_cache_bytes(
    inventory: Inventory, context: int, batch: int, format_id: str, dtype: str, waiting: int | None = None
) -> int:
    """The sum of `quantized_cache_terms`."""
    return sum(term.bytes for term in quantized_cache_terms(inventory, context, batch, format_id, dtype, waiting))
