"""From an inventory to the bytes of its KV cache. Pure arithmetic, for transformers' own cache classes."""

from __future__ import annotations

from ..precision import DTYPE_BYTES
from .inventory import CacheLayer, Inventory


def cache_bytes(inventory: Inventory, context: int, batch: int, dtype: str) -> int:
    """Bytes that the cache's storages hold once `context` tokens of `batch` sequences are in it.

    A layer with a sliding window W needs W − 1 tokens between steps, but holds W: what it keeps is a view
    of the step's W (`transformers/cache_utils.py`, `DynamicSlidingWindowLayer.update`).
    """
    return batch * sum(_layer_bytes(layer, context, DTYPE_BYTES[dtype]) for layer in inventory.cache)


def pinned_prompt_bytes(inventory: Inventory, context: int, batch: int, dtype: str) -> int:
    """Bytes held beyond `cache_bytes` right after prefill, until the next step frees them.

    Sliding layers then hold views that keep the whole prompt's keys and values alive.
    """
    return prefilled_bytes(inventory, context, batch, dtype) - cache_bytes(inventory, context, batch, dtype)


def prefilled_bytes(inventory: Inventory, context: int, batch: int, dtype: str) -> int:
    """Bytes that the cache's storages hold right after a prefill of `context` tokens, windows or not."""
    element = DTYPE_BYTES[dtype]
    return batch * sum(_layer_bytes(layer, context, element, windowed=False) for layer in inventory.cache)


def tokens_held(layer: CacheLayer, context: int) -> int:
    """Tokens of a sequence whose keys and values a layer holds while decoding."""
    return min(context, layer.window) if layer.window else context


def _layer_bytes(layer: CacheLayer, context: int, element: int, windowed: bool = True) -> int:
    tokens = tokens_held(layer, context) if windowed else context
    a_token = layer.token_elements * element + layer.token_bytes
    state = layer.state_elements * element + layer.state_bytes
    return layer.count * (tokens * a_token + state)
