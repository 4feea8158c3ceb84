"""From an inventory to the bytes of its KV cache. Pure arithmetic, for transformers' own cache classes.

What other engines keep is in `engines/`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from ..formula import Formula, Term
from ..precision import DTYPE_BYTES
from .inventory import CacheLayer, Inventory
from .quantized_cache import FORMATS, can_quantize, quantized_cache_terms, quantized_layer_term

LAYERS = Formula(
    "batch * layers * (tokens * (values * size + fixed) + state * size + state_bytes)",
    batch="sequences", layers="layers", tokens="tokens", values="values", size="B", fixed="B", state="state_values",
    state_bytes="B_of_state",
)  # fmt: skip


def kept_dtype(inventory: Inventory, kv_dtype: str, model_dtype: str) -> str:
    """What a cache is kept in: a dtype, or a quantized format where transformers can quantize this one's.

    Args:
        kv_dtype: as asked for; `auto` is the model's.
    """
    if kv_dtype == "auto" or (kv_dtype in FORMATS and not can_quantize(inventory, kv_dtype)):
        return model_dtype
    return kv_dtype


def cache_bytes(inventory: Inventory, context: int, batch: int, dtype: str, full: str = "bfloat16") -> int:
    """Bytes that the cache's storages hold once `context` tokens of `batch` sequences are in it.

    Args:
        dtype: of the cache, or a quantized format (`quantized_cache.py`).
        full: dtype of what a quantized format keeps unquantized.

    A layer with a sliding window W needs W − 1 tokens between steps, but holds W: what it keeps is a view
    of the step's W (`transformers/cache_utils.py`, `DynamicSlidingWindowLayer.update`). A layer that compresses
    blocks of tokens is counted as at the end of a block, where most is held of one that isn't full.
    """
    held = layers_bytes(inventory, context, batch, dtype, full)
    return sum(count * of_each for count, of_each in zip(_counts(inventory), held, strict=True))


def layers_bytes(inventory: Inventory, context: int, batch: int, dtype: str, full: str = "bfloat16") -> list[int]:
    """Bytes that one layer of each kind holds, in the order of `Inventory.cache`."""
    if dtype in FORMATS:
        return [layer_bytes(layer, context, batch, dtype, full) for layer in inventory.cache]
    return [batch * (min(context, line.most) * line.token + line.state) for line in _lines(inventory, dtype)]


def cache_terms(inventory: Inventory, context: int, batch: int, dtype: str, full: str = "bfloat16") -> list[Term]:
    """The same bytes, a term for each kind of layer."""
    if dtype in FORMATS:
        return quantized_cache_terms(inventory, context, batch, dtype, full)
    return [
        Term(_name(inventory, layer), LAYERS, _operands(layer, layer.count, tokens_held(layer, context), batch, dtype))
        for layer in inventory.cache
    ]


def pinned_prompt_bytes(inventory: Inventory, context: int, batch: int, dtype: str) -> int:
    """Bytes held beyond `cache_bytes` right after prefill, until the next step frees them.

    Sliding layers then hold views that keep the whole prompt's keys and values alive.
    """
    if not any(line.most < context for line in _lines(inventory, dtype)):
        return 0
    return prefilled_bytes(inventory, context, batch, dtype) - cache_bytes(inventory, context, batch, dtype)


def prefilled_bytes(inventory: Inventory, context: int, batch: int, dtype: str) -> int:
    """Bytes that the cache's storages hold right after a prefill of `context` tokens, windows or not."""
    if dtype in FORMATS:  # which only models without windows have
        return cache_bytes(inventory, context, batch, dtype)
    return batch * sum(line.count * (context * line.token + line.state) for line in _lines(inventory, dtype))


def layer_bytes(layer: CacheLayer, context: int, batch: int, dtype: str, full: str = "bfloat16") -> int:
    """Bytes that one layer of this kind holds."""
    if dtype in FORMATS:
        return quantized_layer_term(replace(layer, layers=layer.layers[:1]), context, batch, dtype, full).bytes
    return LAYERS(**_operands(layer, 1, tokens_held(layer, context), batch, dtype))


def tokens_held(layer: CacheLayer, context: int) -> int:
    """Tokens of a sequence whose keys and values a layer holds while decoding."""
    return min(context, layer.window) if layer.window else context


class _Line(NamedTuple):
    """One kind of layer in one dtype as a straight line in tokens, read off its formula."""

    count: int
    most: int  # tokens held
    token: int  # bytes of each
    state: int  # bytes beside


@lru_cache(maxsize=2048)
def _lines(inventory: Inventory, dtype: str) -> tuple[_Line, ...]:
    if dtype in FORMATS:  # which grow in steps, and have no windows
        return ()
    lines = []
    for layer in inventory.cache:
        state, one = (LAYERS(**_operands(layer, 1, tokens, 1, dtype)) for tokens in (0, 1))
        lines.append(_Line(layer.count, layer.window or sys.maxsize, one - state, state))
    return tuple(lines)


@lru_cache(maxsize=512)
def _counts(inventory: Inventory) -> tuple[int, ...]:
    return tuple(layer.count for layer in inventory.cache)


def _operands(layer: CacheLayer, layers: int, tokens: int, batch: int, dtype: str) -> dict[str, int]:
    return {
        "batch": batch,
        "layers": layers,
        "tokens": tokens,
        "values": layer.token_elements,
        "fixed": layer.token_bytes,
        "state": layer.state_elements,
        "state_bytes": layer.state_bytes,
        "size": DTYPE_BYTES[dtype],
    }


def _name(inventory: Inventory, layer: CacheLayer) -> str:
    grows = layer.token_elements or layer.token_bytes
    if not grows:
        return "layers with a state that does not grow"
    if layer.window:
        return f"layers with a window of {layer.window:,} tokens"
    if any(other.window and (other.kind, other.layers) == (layer.kind, layer.layers) for other in inventory.cache):
        return "layers that keep every block of tokens, compressed"
    return "layers that keep every token"
