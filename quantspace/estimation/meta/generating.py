"""What is told of a class that generates text: how its cache grows, what a prefill holds, what an image costs.

All of it is watched on `meta` (`cache.py`, `peak.py`, `image.py`); where a class can't run without data, its config
tells what it can.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ...errors import ModelUnsupported, shorten
from ...units import exact
from ..inventory import CacheLayer, ImageCost, PeakTerm, TensorSpec
from .cache import FLOAT32_BYTES, Watched, cache_from_config, watch
from .image import image_cost

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)

_COMPRESSES = (
    "The cache of this architecture compresses blocks of tokens. It is counted as at the end of a block: never too "
    "little, and at most {} too much for each sequence, in 16 bits."
)
_UNFUSED = (
    "Recurrent layers are counted as PyTorch runs them by itself; with fused kernels installed "
    "(flash-linear-attention, mamba-ssm, causal-conv1d) a long prompt needs less."
)


def generating_facts(config: PreTrainedConfig, model: PreTrainedModel, tensors: Iterable[TensorSpec]) -> dict[str, Any]:
    """The fields of an `Inventory` about what a generating class takes while it computes."""
    watched, doubt = _watch(config, model, tensors)
    notes = [doubt] if doubt else []
    if watched.recurrent and watched.peak:
        notes.append(_UNFUSED)
    image = _image(model)
    if image is None and getattr(config, "vision_config", None) is not None:
        notes.append("What images take is not counted: the vision tower of this class could not be watched.")
    return {
        "cache": watched.cache,
        "peak": watched.peak or (_with_cache(_assumed_peak(config, tensors), watched.cache),),
        "quantized_peak": watched.quantized,
        "cache_exact": doubt is None,
        "peak_measured": bool(watched.peak),
        "image": image,
        "notes": notes,
    }


def _watch(
    config: PreTrainedConfig, model: PreTrainedModel, tensors: Iterable[TensorSpec]
) -> tuple[Watched, str | None]:
    """What passes of the class told, and in what it can't be trusted."""
    try:
        watched = watch(model, [t.name for t in tensors if t.quantizable])
        return watched, _COMPRESSES.format(exact(watched.most_over)) if watched.most_over else None
    except Exception as error:  # a seam: some classes read values of tensors, which `meta` has not
        log.info("cache of %s follows its config: %s", type(model).__name__, shorten(str(error)))
    try:
        doubt = "The cache follows config.json: the class could not run without data."
        return Watched(cache_from_config(config)), doubt
    except AttributeError as error:
        raise ModelUnsupported(
            f"How the cache of {type(model).__name__} grows could not be found: {shorten(str(error), 160)}",
            "Pick another model: an answer without its cache would promise too much.",
        ) from error


def _image(model: PreTrainedModel) -> ImageCost | None:
    try:
        return image_cost(model)
    except Exception as error:  # a seam: each class asks for pixels in its own way
        log.info("images of %s could not be watched: %s", type(model).__name__, shorten(str(error)))
        return None


def _assumed_peak(config: PreTrainedConfig, tensors: Iterable[TensorSpec]) -> PeakTerm:
    """A generous guess for a class that can't be watched: six rows of the residual stream and four of the MLP."""
    text = config.get_text_config()
    hidden = _first_int(text, "hidden_size", "d_model", "n_embd") or 1
    dense = _first_int(text, "intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size") or 4 * hidden
    expert = _first_int(text, "moe_intermediate_size", "expert_ffn_hidden_size") or dense
    visited = _first_int(text, "num_experts_per_tok", "moe_topk", "top_k_experts") or 1
    routed = visited if any(t.role == "experts" for t in tensors) else 0
    vocab = _first_int(text, "vocab_size") or max((t.shape[0] for t in tensors if t.role == "embedding"), default=0)
    elements = 6 * hidden + 4 * max(dense, routed * expert) + 2 * routed * hidden
    return PeakTerm(vocab * (2 + FLOAT32_BYTES), 2 * elements)


def _with_cache(peak: PeakTerm, cache: tuple[CacheLayer, ...]) -> PeakTerm:
    """Terms of a peak contain the cache; an assumed one is given it."""
    token = sum(layer.count * (2 * layer.token_elements + layer.token_bytes) for layer in cache)
    fixed = sum(layer.count * (2 * layer.state_elements + layer.state_bytes) for layer in cache)
    return PeakTerm(peak.fixed + fixed, peak.token + token, peak.square)


def _first_int(config: PreTrainedConfig, *keys: str) -> int | None:
    values = (getattr(config, key, None) for key in keys)
    return next((value for value in values if isinstance(value, int) and value > 0), None)
