"""How a model's cache grows, asked of the cache itself.

A forward pass on `meta` fills the real cache object; its tensors' shapes at two lengths give what each
layer keeps a token and what it keeps regardless.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .inventory import CacheLayer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

_PROMPT = 8  # tokens of the first pass: any small number, below every real window

# Layers whose size is a straight line in tokens, up to a window. Others compress or index in steps.
_STRAIGHT = frozenset(
    {
        "DynamicLayer",
        "DynamicSlidingWindowLayer",
        "DynamicIndexedLayer",
        "LinearAttentionLayer",
        "LinearAttentionAndFullAttentionLayer",
        "LinearAttentionAndSlidingWindowAttentionLayer",
    }
)


def grows_straight(cache: tuple[CacheLayer, ...]) -> bool:
    """Whether two short passes tell a cache's size at any length."""
    return all(layer.kind in _STRAIGHT for layer in cache)


def measured_cache(model: PreTrainedModel) -> tuple[CacheLayer, ...]:
    """Cache layers of a model on `meta`, like ones counted together.

    Raises:
        Exception: whatever the class raises when it can't run without data.
    """
    # Looping over experts reads which are hit; the batched form computes the same shapes without data.
    model.set_experts_implementation("batched_mm")
    try:
        return _measure(model, masked=False)
    except RuntimeError:  # some classes look into position ids unless a mask is given
        model.set_attn_implementation("eager")
        return _measure(model, masked=True)


def _measure(model: PreTrainedModel, masked: bool) -> tuple[CacheLayer, ...]:
    import torch

    with torch.no_grad(), torch.device("meta"):
        short = [cache_tensors(layer) for layer in _cache_layers(model, _PROMPT, masked)]
        layers = list(_cache_layers(model, _PROMPT + 1, masked))
    rows = [_grown(layer, before, cache_tensors(layer)) for layer, before in zip(layers, short, strict=True)]
    return _counted(
        row for row in rows if row.token_elements or row.token_bytes or row.state_elements or row.state_bytes
    )


def cache_from_config(config: PreTrainedConfig) -> tuple[CacheLayer, ...]:
    """Cache layers by the config's own words: grouped-query attention with sliding windows."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", None) or 1
    hidden = getattr(text, "hidden_size", None) or getattr(text, "d_model", 1)
    head_dim = getattr(text, "head_dim", None) or getattr(text, "d_kv", None) or hidden // text.num_attention_heads
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    window = getattr(text, "sliding_window", None)
    return _counted(
        CacheLayer(kind, 1, window if "sliding" in kind else None, 2 * heads * head_dim)
        for kind in kinds
        if "attention" in kind
    )


def _cache_layers(model: PreTrainedModel, length: int, masked: bool) -> Iterator[Any]:
    import torch

    tokens = torch.zeros(1, length, dtype=torch.long, device="meta")
    inputs = {"input_ids": tokens}
    if masked:
        inputs["attention_mask"] = torch.ones_like(tokens)
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    output = model(**inputs, use_cache=True)
    cache = getattr(output, "past_key_values", None)
    if cache is None:
        cache = output["cache_params"]
    for part in (getattr(cache, "self_attention_cache", cache), getattr(cache, "cross_attention_cache", None)):
        yield from getattr(part, "layers", ())


def cache_tensors(layer: Any) -> list[torch.Tensor]:
    """Tensors held by a cache layer, also those inside its lists and dictionaries."""
    import torch

    found, todo = [], list(vars(layer).values())
    while todo:
        value = todo.pop()
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, dict):
            todo.extend(value.values())
        elif isinstance(value, (list, tuple)):
            todo.extend(value)
    return found


def _grown(layer: Any, before: list[torch.Tensor], after: list[torch.Tensor]) -> CacheLayer:
    """The straight line through what a layer held after `_PROMPT` tokens and after one more."""
    token_elements = _elements(after) - _elements(before)
    token_bytes = _fixed_bytes(after) - _fixed_bytes(before)
    return CacheLayer(
        kind=type(layer).__name__,
        count=1,
        window=getattr(layer, "sliding_window", None),
        token_elements=token_elements,
        token_bytes=token_bytes,
        state_elements=_elements(before) - token_elements * _PROMPT,
        state_bytes=_fixed_bytes(before) - token_bytes * _PROMPT,
    )


def _elements(tensors: list[torch.Tensor]) -> int:
    import torch

    return sum(t.numel() for t in tensors if t.dtype == torch.bfloat16)


def _fixed_bytes(tensors: list[torch.Tensor]) -> int:
    import torch

    return sum(t.numel() * t.element_size() for t in tensors if t.dtype != torch.bfloat16 and t.numel() > 1)


def _counted(layers: Any) -> tuple[CacheLayer, ...]:
    return tuple(replace(layer, count=count) for layer, count in Counter(layers).items())
