"""Numbers of a `config.json` that no class of transformers has parsed: a mapping that may hold anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import shorten
from ..meta.config import config_facts, first_int
from ..native.methods import quantization_of

MAX_LAYERS = 2000
_MOST = 2**40  # of any number that is taken seriously
_MOST_HEADS = 2**12
_MOST_WIDE = 2**20
_MOST_WORDS = 2**24

# Where models of several parts keep the config of the one that generates text, outermost first.
_TEXT = ("thinker_config", "text_config", "llm_config", "language_config", "lm_config", "language_model_config")
_CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_transformer_layers", "decoder_layers")
_HEAD_DIM = ("head_dim", "attention_head_dim", "kv_channels", "d_kv", "head_size", "d_head")
_DENSE = ("intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size", "decoder_ffn_dim")
_EXPERT = ("moe_intermediate_size", "expert_ffn_hidden_size")
_STATE = ("linear_key_head_dim", "mamba_d_state", "ssm_state_size", "state_size", "mamba_state_dim", "d_state")
_WINDOW = ("sliding_window", "sliding_window_size", "window_size", "attention_window_size", "max_window_size")
_CHUNK = ("attention_chunk_size",)
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KV = ("num_key_value_heads", "multi_query_group_num", "num_kv_heads", "kv_n_heads")


class PlainConfig:
    """A mapping whose keys are read as attributes, as of a config object; what isn't there is `None`.

    Whole numbers beyond 2⁴⁰ are taken as not there.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        return _sane(self._values.get(name))

    def get_text_config(self, decoder: bool = False) -> PlainConfig:
        """The part that generates text; itself where there are no parts."""
        found = self
        for name in _TEXT:
            part = found._values.get(name)
            if isinstance(part, dict) and part:
                found = PlainConfig(part)
        return found


def _sane(value: Any) -> Any:
    if isinstance(value, dict):
        return PlainConfig(value)
    if isinstance(value, list):
        return [one for one in value if not _absurd(one)]
    return None if _absurd(value) else value


def _absurd(value: Any) -> bool:
    return isinstance(value, int) and abs(value) > _MOST


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a config tells of the part that generates text; `None` where it doesn't.

    Attributes:
        even: whether heads are told by one number for all layers.
        tied: whether the output head shares the embeddings' weight.
        kinds: of each layer, in the words of transformers' `layer_types`.
        window: tokens a sliding layer keeps; `chunk` those that a chunked one keeps.
        loose_window: whether a window is named, but not of which layers.
        state: size of a recurrent layer's state, a channel.
        architecture: the class that the config names, as short as a page shows it.
    """

    hidden: int | None = None
    vocabulary: int | None = None
    layers: int | None = None
    heads: int | None = None
    key_value_heads: int | None = None
    head_dim: int | None = None
    even: bool = True
    dense: int | None = None
    expert: int | None = None
    experts: int = 0
    experts_per_token: int = 0
    max_context: int | None = None
    tied: bool | None = None
    kinds: tuple[str, ...] = ()
    window: int | None = None
    chunk: int | None = None
    loose_window: bool = False
    state: int | None = None
    encoder_decoder: bool = False
    architecture: str = ""


def read_numbers(config: Mapping[str, Any] | None) -> Numbers:
    """The numbers of a config, whatever it holds; none of them where there is none."""
    whole = PlainConfig(config or {})
    text = whole.get_text_config()
    facts = config_facts(whole)
    layers = _within(first_int(text, *_LAYERS), MAX_LAYERS)
    window = first_int(text, *_WINDOW) if text.use_sliding_window is not False else None
    kinds = _kinds(text, layers)
    tied = text.tie_word_embeddings if isinstance(text.tie_word_embeddings, bool) else whole.tie_word_embeddings
    names = whole.architectures
    return Numbers(
        hidden=_within(facts["hidden_size"], _MOST_WIDE),
        vocabulary=_within(facts["vocab_size"], _MOST_WORDS),
        layers=layers,
        heads=_within(facts["attention_heads"], _MOST_HEADS),
        key_value_heads=_within(facts["key_value_heads"], _MOST_HEADS),
        head_dim=_within(first_int(text, *_HEAD_DIM), _MOST_HEADS),
        even=not any(isinstance(getattr(text, key), list) for key in (*_HEADS, *_KV)),
        dense=_within(first_int(text, *_DENSE), _MOST_WIDE),
        expert=_within(first_int(text, *_EXPERT), _MOST_WIDE),
        experts=_within(facts["experts"], _MOST_HEADS) or 0,
        experts_per_token=_within(facts["experts_per_token"], _MOST_HEADS) or 0,
        max_context=first_int(text, *_CONTEXT),
        tied=tied if isinstance(tied, bool) else None,
        kinds=kinds,
        window=window,
        chunk=first_int(text, *_CHUNK),
        loose_window=window is not None and not kinds,
        state=_within(first_int(text, *_STATE), _MOST_HEADS),
        encoder_decoder=whole.is_encoder_decoder is True,
        architecture=shorten(names[0]) if isinstance(names, list) and names and isinstance(names[0], str) else "",
    )


def _within(value: int | None, most: int) -> int | None:
    """A number that a published model may have; beyond, it is taken as not told."""
    return value if value is not None and value <= most else None


def _kinds(text: PlainConfig, layers: int | None) -> tuple[str, ...]:
    """The kind of each layer, where the config tells it for all of them."""
    told = text.layer_types
    if isinstance(told, list) and told and len(told) <= MAX_LAYERS and all(isinstance(kind, str) for kind in told):
        return tuple(told)
    every = first_int(text, "sliding_window_pattern")
    if every and layers:  # Gemma's and Cohere's: every so many layers one attends to all tokens
        return tuple("full_attention" if place % every == 0 else "sliding_attention" for place in range(1, layers + 1))
    return ()


def first_bits(config: Mapping[str, Any] | None) -> int | None:
    """Bits of a quantized weight, as a checkpoint's settings tell it; `None` where they don't."""
    settings = quantization_of(dict(config or {}), (config or {}).get("hf_quant_config")) or {}
    groups = settings.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    parts = [part for part in (settings, weights) if isinstance(part, dict)]
    told = (part.get(key) for part in parts for key in ("bits", "num_bits", "w_bit", "nbits", "wbits"))
    return next((bits for bits in told if type(bits) is int and bits in (1, 2, 3, 4, 5, 6, 8)), None)


def read_dtype(config: Mapping[str, Any] | None) -> str | None:
    """The dtype that a config names for the weights, as torch spells it; `None` where it names none."""
    whole = PlainConfig(config or {})
    parts = (whole, whole.get_text_config())
    named = (value for part in parts for value in (part.torch_dtype, part.dtype) if isinstance(value, str))
    return next((value.removeprefix("torch.") for value in named), None)
