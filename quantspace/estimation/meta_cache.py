"""How a model's cache grows and what its passes hold, asked of the class itself.

Forward passes on `meta` fill the real cache object; its tensors' shapes at two lengths give what each
layer keeps a token and what it keeps regardless. `meta_peak.py` watches the same passes for their peak.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from .inventory import CacheLayer, PeakTerm
from .meta_peak import FusedAttention, LiveBytes, peak_terms

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

FLOAT32_BYTES = 4  # of the copy of the last logits that sampling makes (transformers/generation/utils.py)
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


def watch(model: PreTrainedModel) -> tuple[tuple[CacheLayer, ...], tuple[PeakTerm, ...] | None]:
    """Cache layers of a model on `meta`, like ones counted together, and what its passes hold at their peak.

    The peak is `None` for a class that loops over tokens, or that runs without data only in another form
    than the loader's.

    Raises:
        Exception: whatever the class raises when it can't run without data.
    """
    try:
        return _watch(model)
    except RuntimeError:  # some classes look into position ids unless a mask is given
        model.set_experts_implementation("batched_mm")
        model.set_attn_implementation("eager")
        cache, _ = _watch(model, masked=True)
        return cache, None


def _watch(model: PreTrainedModel, masked: bool = False) -> tuple[tuple[CacheLayer, ...], tuple[PeakTerm, ...] | None]:
    lengths = range(_PROMPT, _PROMPT + 3)
    passes = [_pass(model, length, masked) for length in lengths]
    if len(passes[0][1]) != len(passes[1][1]):  # a first pass may set up what later ones find
        passes[0] = _pass(model, lengths[0], masked)
    (short, _), (longer, _), _ = passes
    rows = (_grown(one, other) for one, other in zip(short, longer, strict=True))
    held = (row for row in rows if row.token_elements or row.token_bytes or row.state_elements or row.state_bytes)
    return _counted(held), peak_terms(lengths, [timeline for _, timeline in passes])


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


def _pass(model: PreTrainedModel, length: int, masked: bool) -> tuple[list[Any], list[int]]:
    """One forward pass as a prefill runs it: the cache's layers after it, and the bytes alive along it."""
    tokens = torch.zeros(1, length, dtype=torch.long, device="meta")
    inputs: dict[str, Any] = {"input_ids": tokens, "use_cache": True}
    if masked:
        inputs["attention_mask"] = torch.ones_like(tokens)
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    if model._supports_logits_to_keep():  # as `generate` does: a prompt's other logits are never computed
        inputs["logits_to_keep"] = 1
    alive = LiveBytes(model)
    with torch.no_grad(), torch.device("meta"), FusedAttention(), alive:
        output = model(**inputs)
    logits = output.logits
    timeline = [*alive.timeline, alive.timeline[-1] + FLOAT32_BYTES * logits.shape[0] * logits.shape[-1]]
    cache = output.get("past_key_values")
    if cache is None:
        cache = output["cache_params"]
    parts = (getattr(cache, "self_attention_cache", cache), getattr(cache, "cross_attention_cache", None))
    return [layer for part in parts for layer in getattr(part, "layers", ())], timeline


def cache_tensors(layer: Any) -> list[torch.Tensor]:
    """Tensors held by a cache layer, also those inside its lists and dictionaries."""
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


def _grown(layer: Any, longer: Any) -> CacheLayer:
    """The straight line through what a layer holds after `_PROMPT` tokens and after one more."""
    before, after = cache_tensors(layer), cache_tensors(longer)
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
    return sum(t.numel() for t in tensors if t.dtype == torch.bfloat16)


def _fixed_bytes(tensors: list[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t.dtype != torch.bfloat16 and t.numel() > 1)


def _counted(layers: Any) -> tuple[CacheLayer, ...]:
    return tuple(replace(layer, count=count) for layer, count in Counter(layers).items())
