"""Which transformers class stands for a config: the same answer for the estimate and for the loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ModelUnsupported, shorten
from .native.methods import quantization_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# In the order in which one is preferred when config.json names no class of ours.
_AUTO_MAPPINGS = (
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
)
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")


def parse_config(config: dict[str, Any]) -> PreTrainedConfig:
    """The config object of a `config.json`, as a checkpoint that isn't quantized would have it.

    Raises:
        ModelUnsupported: transformers does not know the model type, or refuses the values.
    """
    from transformers import CONFIG_MAPPING

    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        kind = shorten(str(model_type)) if model_type else "no model type"
        raise ModelUnsupported(
            f"Its config.json names {kind}, which transformers does not build without the repository's own code.",
            "Pick a model whose architecture is part of transformers; code from a repository is never run here.",
        )
    plain = {key: value for key, value in config.items() if key not in ("quantization_config", "hf_quant_config")}
    config_class = CONFIG_MAPPING[model_type]
    try:  # infinities are written as {"__float__": "Infinity"}, which only reading from a file undoes
        return config_class.from_dict(config_class._decode_special_floats(plain))
    except Exception as error:  # a seam: config.json is somebody else's file, validators raise anything
        raise ModelUnsupported(
            f"transformers refuses this config.json: {shorten(str(error), 160)}",
            "The file may be broken or written for another version of transformers; try another revision.",
        ) from error


def model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The generating model class for a config: the one config.json names, else the first that takes it.

    Raises:
        ModelUnsupported: no class that generates text takes this config.
    """
    candidates = list(_candidates(type(config)))
    named = set(getattr(config, "architectures", None) or ())
    for candidate in candidates:
        if candidate.__name__ in named:
            return candidate
    if candidates:
        return candidates[0]
    raise ModelUnsupported(
        f"A model of type {config.model_type} does not generate text.",
        "Pick a text-generating model, with or without vision; embedding and image models are not covered yet.",
    )


def _candidates(config_class: type) -> Iterator[type[PreTrainedModel]]:
    from transformers.models.auto import modeling_auto

    for mapping_name in _AUTO_MAPPINGS:
        mapping = getattr(modeling_auto, mapping_name)
        if config_class in mapping:
            found = mapping[config_class]
            yield from found if isinstance(found, (tuple, list)) else (found,)


def prequantized_method(config: dict[str, Any]) -> str | None:
    """`fp8`, `gptq`, … where the checkpoint is stored quantized, else `None`.

    Args:
        config: the parsed `config.json`, with that of `hf_quant_config.json` beside it under that name, if any.
    """
    found = quantization_of(config, config.get("hf_quant_config"))
    return None if found is None else str(found.get("quant_method", "quantized"))


def max_context(config: PreTrainedConfig) -> int | None:
    """Tokens a model was made for; `None` where its config does not say."""
    text = config.get_text_config()
    values = (getattr(text, key, None) for key in _CONTEXT_KEYS)
    return next((value for value in values if isinstance(value, int) and value > 0), None)
