"""What a text config says of a model's geometry: heads, widths, experts, in every spelling of transformers.

Facts that no tensor's shape tells. Everything else is read from the class (`reader.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "attention_heads")
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_key_value_attention_heads", "multi_query_group_num")
_HIDDEN = ("hidden_size", "d_model", "n_embd", "dim")
_VOCABULARY = ("vocab_size", "decoder_vocab_size")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k", "moe_k")
_PARTS = ("attn_config", "ffn_config")  # where DBRX keeps its own


class ConfigFacts(TypedDict):
    """Fields of `Inventory` that a config alone can tell."""

    attention_heads: int | None
    key_value_heads: int | None
    hidden_size: int | None
    vocab_size: int | None
    experts: int
    experts_per_token: int


def config_facts(config: PreTrainedConfig) -> ConfigFacts:
    """Heads, widths and experts of the text model; `None` or 0 where its config has no such thing."""
    text = config.get_text_config()
    heads = first_int(text, *_HEADS)
    experts = first_int(text, *_EXPERTS) or 0
    return ConfigFacts(
        attention_heads=heads,
        key_value_heads=_key_value_heads(text, heads),
        hidden_size=first_int(text, *_HIDDEN),
        vocab_size=first_int(text, *_VOCABULARY) or first_int(config, *_VOCABULARY),
        experts=experts,
        experts_per_token=(first_int(text, *_EXPERTS_PER_TOKEN) or 1) if experts else 0,
    )


def first_int(config: PreTrainedConfig, *keys: str) -> int | None:
    """The first positive whole number under `keys`, also in the parts that some configs are divided into.

    Where layers differ, the smallest: a split that divides it divides the others too, in all published configs.
    """
    parts = (config, *(getattr(config, name, None) for name in _PARTS))
    found = (_positive(_values(part, key)) for key in keys for part in parts if part is not None)
    return next((value for value in found if value is not None), None)


def _values(config: Any, key: str) -> list[Any]:
    try:
        value = getattr(config, key, None)
    except RuntimeError:  # transformers' answer where layers differ in this (Gemma 4)
        value = [getattr(layer, key, None) for layer in config.per_layer_config]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _positive(values: list[Any]) -> int | None:
    return min((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), default=None)


def _key_value_heads(text: PreTrainedConfig, heads: int | None) -> int | None:
    if heads is None:
        return None
    if getattr(text, "new_decoder_architecture", False):  # the larger Falcons
        return first_int(text, "num_kv_heads") or heads
    if getattr(text, "multi_query", False):  # Falcon-7B, GPTBigCode
        return 1
    return first_int(text, *_KEY_VALUE_HEADS, "kv_n_heads") or heads
