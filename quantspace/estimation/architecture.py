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
BASE_CLASS = "AutoModel"  # in `architectures`: whatever that builds
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
    """The class that holds a checkpoint of this config.

    That is the generating class which config.json names; else any other class of transformers that it names
    and that takes this very config; else the first generating one, or for what does not generate text, the
    base class of `AutoModel`. `architectures: ["AutoModel"]` asks for the base class.

    Raises:
        ModelUnsupported: transformers has no class for this config.
    """
    candidates = list(_candidates(type(config)))
    named = [name for name in getattr(config, "architectures", None) or () if isinstance(name, str)]
    for candidate in candidates:
        if candidate.__name__ in named:
            return candidate
    found = next(filter(None, (_exported(name, type(config)) for name in named)), None)
    if found is None and candidates and BASE_CLASS not in named and not _encodes_text(config):
        found = candidates[0]
    found = found or _base_class(type(config))
    if found is None:
        raise ModelUnsupported(
            f"transformers has no class that holds a model of type {shorten(config.model_type)} by itself.",
            "Its config belongs to a part of a larger model; pick the repository of the whole.",
        )
    return found


def generating_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class of `model_class`, for those who want text from it.

    Raises:
        ModelUnsupported: it does not generate text.
    """
    found = model_class(config)
    if generates_text(found, config):
        return found
    raise ModelUnsupported(
        f"{found.__name__} does not generate text; its weights can be estimated, not loaded into a chat.",
        "Pick a text-generating model, with or without vision.",
    )


def generates_text(cls: type[PreTrainedModel], config: PreTrainedConfig) -> bool:
    """Whether a class answers a prompt of text with text."""
    return cls in _candidates(type(config))


def with_base_class(config: dict[str, Any]) -> dict[str, Any]:
    """A `config.json` that asks for the class without a head, as `AutoModel` builds it."""
    return {**config, "architectures": [BASE_CLASS]}


def _exported(name: str, config_class: type) -> type[PreTrainedModel] | None:
    """The class of this name in transformers, if it is made for this very config."""
    import transformers

    found = getattr(transformers, name, None) if name.isidentifier() and not name.startswith("_") else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        return None
    whole = found.config_class is config_class and not name.endswith("PreTrainedModel")
    return found if whole else None


def _base_class(config_class: type) -> type[PreTrainedModel] | None:
    return next(_classes("MODEL_MAPPING", config_class), None)


def _encodes_text(config: PreTrainedConfig) -> bool:
    """Whether models of this type are trained to fill gaps; BERT's have a generating class all the same."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    alone = not getattr(config, "is_encoder_decoder", False) and not getattr(config, "is_decoder", False)
    return alone and type(config) in MODEL_FOR_MASKED_LM_MAPPING


def _candidates(config_class: type) -> Iterator[type[PreTrainedModel]]:
    for mapping_name in _AUTO_MAPPINGS:
        yield from _classes(mapping_name, config_class)


def _classes(mapping_name: str, config_class: type) -> Iterator[type[PreTrainedModel]]:
    """The classes that one of transformers' auto mappings has for a config."""
    from transformers.models.auto import modeling_auto

    mapping = getattr(modeling_auto, mapping_name)
    if config_class in mapping:
        try:
            found = mapping[config_class]
        except ValueError:  # a mapping may name a class that its module lost
            return
        yield from found if isinstance(found, (tuple, list)) else (found,)


def prequantized_method(config: dict[str, Any]) -> str | None:
    """`fp8`, `gptq`, … where the checkpoint is stored quantized, else `None`.

    Args:
        config: the parsed `config.json`, with that of `hf_quant_config.json` beside it under that name, if any.
    """
    found = quantization_of(config, config.get("hf_quant_config"))
    return None if found is None else shorten(str(found.get("quant_method", "quantized")), 40)


def max_context(config: PreTrainedConfig) -> int | None:
    """Tokens a model was made for; `None` where its config does not say."""
    text = config.get_text_config()
    values = (getattr(text, key, None) for key in _CONTEXT_KEYS)
    return next((value for value in values if isinstance(value, int) and value > 0), None)
