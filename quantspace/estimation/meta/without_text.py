"""What is told of a class that generates no text: encoders of text, images and sound, classifiers, reward models.

Such a class has no cache. What one pass takes is watched where it reads token ids alone, by the machinery of
`cache.py` and `peak.py`; pixels and sound come in sizes that a prompt's length does not tell, so what they take
is not counted, and the answer says so.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from ...errors import shorten
from ..inventory import PeakTerm
from .peak import FusedAttention, LinearCall, LiveBytes, peak_terms
from .quantized import quantized_peaks
from .repeat import LikeLayers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

_LENGTHS = range(8, 11)  # tokens: three small numbers, one apart
_NOTHING = (PeakTerm(0, 0),)
_BESIDES = {"vision_config": "images", "audio_config": "sound"}  # of a config that also takes tokens
_MAIN = {"pixel_values": "images", "pixel_values_videos": "videos", "input_features": "sound", "input_values": "sound"}


def facts_without_text(model: PreTrainedModel, quantizable: Collection[str]) -> dict[str, Any]:
    """The fields of an `Inventory` about what a class on `meta` takes while it computes.

    Args:
        quantizable: names of the weights that a quantizer replaces.
    """
    weights = frozenset(id(model.get_parameter(name)) for name in quantizable)
    try:
        peak, quantized = _watch(model, weights)
    except Exception as error:  # a seam: classes want other inputs, or read values, which `meta` has not
        log.info("a pass of %s could not be watched: %s", type(model).__name__, shorten(str(error)))
        peak, quantized = (), ()
    return {
        "generates": False,
        "cache": (),
        "peak": peak or _NOTHING,
        "quantized_peak": quantized,
        "peak_measured": bool(peak),
        "weights_only": _left_out(model, bool(peak)),
        "notes": (f"{type(model).__name__} generates no text: it has no cache, and it is not loaded into the chat.",),
    }


def _left_out(model: PreTrainedModel, watched: bool) -> str:
    """What is not counted, in a sentence; empty where a pass over a text is all that there is, and was watched."""
    inputs = [inputs for key, inputs in _BESIDES.items() if getattr(model.config, key, None) is not None]
    main = _main_input(model)
    if main != "input_ids":
        inputs.append(_MAIN.get(main, "its inputs"))
    elif not watched:
        inputs.append("a text")
    if not inputs:
        return ""
    told = " and ".join(dict.fromkeys(inputs))
    if model.config.is_encoder_decoder and model.can_generate():
        return f"Weights only: what it takes to compute on {told}, and the cache of its decoder, are not counted."
    return f"Weights only: what it takes to compute on {told} is not counted."


def _main_input(model: PreTrainedModel) -> str:
    name = model.main_input_name
    return name[0] if isinstance(name, list) else name  # OneFormer has two


def _watch(
    model: PreTrainedModel, quantizable: Collection[int]
) -> tuple[tuple[PeakTerm, ...], tuple[tuple[str, tuple[PeakTerm, ...]], ...]]:
    """The peak of a pass over a text, plain and with the kernels of quantizers; empty where none was found."""
    if _main_input(model) != "input_ids":
        return (), ()
    like = LikeLayers(model)
    passes = [_pass(model, length, quantizable, like) for length in _LENGTHS]
    if not like.sound:
        passes = [_pass(model, length, quantizable, nullcontext()) for length in _LENGTHS]
    timelines = [timeline for timeline, _ in passes]
    peak = peak_terms(_LENGTHS, timelines) or ()
    return peak, quantized_peaks(peak, _LENGTHS, timelines, [calls for _, calls in passes]) if peak else ()


def _pass(
    model: PreTrainedModel, length: int, quantizable: Collection[int], like: AbstractContextManager[Any]
) -> tuple[list[int], list[LinearCall]]:
    """Run a text of `length` tokens: the bytes alive along it, and the calls of quantizable layers."""
    tokens = torch.zeros(1, length, dtype=torch.long, device="meta")
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    alive = LiveBytes(model)
    kernels = FusedAttention(alive, quantizable)
    with torch.no_grad(), torch.device("meta"), kernels, like, alive:
        output = model(**inputs)
    timeline = alive.timeline
    del output
    return timeline, kernels.calls
