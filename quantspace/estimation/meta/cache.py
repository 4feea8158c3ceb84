"""How a model's cache grows and what its passes hold, asked of the class itself.

Forward passes on `meta` fill the real cache object; its tensors' shapes at two lengths give what each
layer keeps a token and what it keeps regardless. `peak.py` watches the same passes for their peak.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from ..inventory import CacheLayer, PeakTerm
from .peak import FusedAttention, LinearCall, LiveBytes, peak_terms, undominated
from .quantized import TRANSIENTS, largest_with, quantized_peaks
from .repeat import LikeLayers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

FLOAT32_BYTES = 4  # of the copy of the last logits that sampling makes (transformers/generation/utils.py)
_CHUNKS = (257, 513, 1025, 2049, 3073)  # tokens: one more than full chunks of 64, 128 or 256: the most padding
_TOKEN_LOOP = (9, 17, 33, 65, 97)  # tokens, where a layer runs once for each
_CONFIRMED = 0.01  # by which the last of these passes may differ from what the others tell
_PROMPT = 8  # tokens of the first pass: any small number, below every real window

# Layers whose size is a straight line in tokens, up to a window. Others compress or index in steps.
_STRAIGHT = frozenset(
    {
        "DynamicLayer",
        "DynamicSlidingWindowLayer",
        "DynamicIndexedLayer",
        "LooseState",
        "LinearAttentionLayer",
        "LinearAttentionAndFullAttentionLayer",
        "LinearAttentionAndSlidingWindowAttentionLayer",
    }
)


def grows_straight(cache: tuple[CacheLayer, ...]) -> bool:
    """Whether two short passes tell a cache's size at any length."""
    return all(layer.kind in _STRAIGHT for layer in cache)


@dataclass(frozen=True)
class Watched:
    """What passes on `meta` told.

    Attributes:
        cache: its layers, like ones together.
        peak: the polynomials that can be the peak; empty where none could be found.
        recurrent: whether layers keep a state that does not grow.
        quantized: those with the kernels of a quantizer, by their name in `quantized.TRANSIENTS`.
    """

    cache: tuple[CacheLayer, ...]
    peak: tuple[PeakTerm, ...] = ()
    quantized: tuple[tuple[str, tuple[PeakTerm, ...]], ...] = ()
    recurrent: bool = False


def watch(model: PreTrainedModel, quantizable: Collection[str] = (), shortened: bool = True) -> Watched:
    """How the cache of a model on `meta` grows, and what its passes hold at their peak.

    No peak is given for a class that runs without data only in another form than the loader's.

    Args:
        quantizable: names of the weights that a quantizer replaces.
        shortened: whether like layers may be played back (`repeat.py`), which changes the time only.

    Raises:
        Exception: whatever the class raises when it can't run without data.
    """
    weights = frozenset(id(model.get_parameter(name)) for name in quantizable)
    if shortened:
        like = LikeLayers(model)
        found = _watch_either_way(model, weights, like)
        if like.sound:
            return found
    return _watch_either_way(model, weights, nullcontext())


def _watch_either_way(
    model: PreTrainedModel, quantizable: Collection[int], like: AbstractContextManager[Any]
) -> Watched:
    try:
        return _watch(model, quantizable, like)
    except RuntimeError:  # some classes sort tokens by expert in a loop, or want a mask with values
        model.set_experts_implementation("batched_mm")
        model.set_attn_implementation("eager")
        return Watched(_watch(model, (), like).cache)


def _watch(model: PreTrainedModel, quantizable: Collection[int], like: AbstractContextManager[Any]) -> Watched:
    lengths = range(_PROMPT, _PROMPT + 3)
    passes = [_pass(model, length, quantizable, like) for length in lengths]
    if len(passes[0].timeline) != len(passes[1].timeline):  # a first pass may set up what later ones find
        passes[0] = _pass(model, lengths[0], quantizable, like)
    rows = (_grown(i, one, other) for (i, one), (_, other) in zip(passes[0].cache, passes[1].cache, strict=True))
    held = (row for row in rows if row.token_elements or row.token_bytes or row.state_elements or row.state_bytes)
    cache = _grouped(held)
    timelines = [one.timeline for one in passes]
    peak = peak_terms(lengths, timelines) or ()
    quantized = quantized_peaks(peak, lengths, timelines, [one.calls for one in passes]) if peak else ()
    if any(layer.state_elements or layer.state_bytes for layer in cache if layer.kind in _STRAIGHT):
        loops = len({len(timeline) for timeline in timelines}) > 1
        longer = [_pass(model, length, quantizable, like) for length in (_TOKEN_LOOP if loops else _CHUNKS)]
        return Watched(cache, *_recurrent_peaks(longer, peak, dict(quantized)), recurrent=True)
    return Watched(cache, peak, quantized)


def _recurrent_peaks(
    passes: list[_Pass], short: tuple[PeakTerm, ...], quantized: dict[str, tuple[PeakTerm, ...]]
) -> tuple[tuple[PeakTerm, ...], tuple[tuple[str, tuple[PeakTerm, ...]], ...]]:
    """Straight lines between the peaks of longer passes, which the last pass confirms, with those of shorter ones.

    Operations do not line up where a layer runs in chunks or in a loop over tokens; their maxima do. A line
    through two points of a largest of polynomials lies above it between them. What is square within a chunk
    is not so beyond it: such a polynomial of the shorter passes is left out.
    """
    found: dict[str, tuple[PeakTerm, ...]] = {}
    for kernels in ("", *TRANSIENTS):
        points = [(one.length, largest_with(kernels, one.timeline, one.calls)) for one in passes]
        lines = {_line(*pair) for pair in pairwise(points[:-1])}
        shorter = quantized.get(kernels, short) if kernels else short
        valid = {term for term in shorter if all(term.at(n, 1) <= (1 + _CONFIRMED) * peak for n, peak in points)}
        terms = undominated(lines | valid)
        last, peak = points[-1]
        if abs(max(term.at(last, 1) for term in terms) / peak - 1) > _CONFIRMED:
            return (), ()
        found[kernels] = terms
    return found.pop(""), tuple(found.items())


def _line(one: tuple[int, int], other: tuple[int, int]) -> PeakTerm:
    token = -(-(other[1] - one[1]) // (other[0] - one[0]))
    return PeakTerm(other[1] - token * other[0], token)


def cache_from_config(config: PreTrainedConfig) -> tuple[CacheLayer, ...]:
    """Cache layers by the config's own words: grouped-query attention with sliding windows."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", None) or 1
    hidden = getattr(text, "hidden_size", None) or getattr(text, "d_model", 1)
    head_dim = getattr(text, "head_dim", None) or getattr(text, "d_kv", None) or hidden // text.num_attention_heads
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    window = getattr(text, "sliding_window", None)
    return _grouped(
        CacheLayer(kind, (place,), window if "sliding" in kind else None, 2 * heads * head_dim)
        for place, kind in enumerate(kinds)
        if "attention" in kind
    )


@dataclass(frozen=True)
class _Pass:
    """One forward pass: the cache's layers with their places, the bytes alive along it, calls of linear layers."""

    length: int
    cache: list[tuple[int, Any]]
    timeline: list[int]
    calls: list[LinearCall]


def _pass(
    model: PreTrainedModel, length: int, quantizable: Collection[int], like: AbstractContextManager[Any]
) -> _Pass:
    """Run a prompt of `length` tokens as a prefill does."""
    tokens = torch.zeros(1, length, dtype=torch.long, device="meta")
    inputs: dict[str, Any] = {"input_ids": tokens, "use_cache": True, "attention_mask": torch.ones_like(tokens)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    if model._supports_logits_to_keep():  # as `generate` does: a prompt's other logits are never computed
        inputs["logits_to_keep"] = 1
    alive = LiveBytes(model)
    kernels = FusedAttention(alive, quantizable)
    with torch.no_grad(), torch.device("meta"), kernels, like, alive:
        output = model(**inputs)
    logits = output.logits
    timeline = [*alive.timeline, alive.timeline[-1] + FLOAT32_BYTES * logits.shape[0] * logits.shape[-1]]
    cache = output.get("past_key_values")
    if cache is None:
        cache = output["cache_params"]
    return _Pass(length, list(cache_layers(cache)), timeline, kernels.calls)


@dataclass
class LooseState:
    """What a layer keeps in a list of the cache's own, beside its layers (MiniMax)."""

    held: Any


def cache_layers(cache: Any) -> Iterator[tuple[int, Any]]:
    """The layers of a cache with their places; of both caches of an encoder-decoder."""
    for part in (getattr(cache, "self_attention_cache", cache), getattr(cache, "cross_attention_cache", None)):
        yield from enumerate(getattr(part, "layers", ()))
        for name, value in vars(part).items() if part is not None else ():
            if isinstance(value, list) and name != "layers":
                yield from ((place, LooseState(held)) for place, held in enumerate(value))


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


def _grown(place: int, layer: Any, longer: Any) -> CacheLayer:
    """The straight line through what a layer holds after `_PROMPT` tokens and after one more."""
    before, after = cache_tensors(layer), cache_tensors(longer)
    token_elements = _elements(after) - _elements(before)
    token_bytes = _fixed_bytes(after) - _fixed_bytes(before)
    return CacheLayer(
        kind=type(layer).__name__,
        layers=(place,),
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


def _grouped(layers: Iterable[CacheLayer]) -> tuple[CacheLayer, ...]:
    """Layers that differ in nothing but their place, together."""
    places: dict[CacheLayer, tuple[int, ...]] = {}
    for layer in layers:
        like = replace(layer, layers=())
        places[like] = places.get(like, ()) + layer.layers
    return tuple(replace(like, layers=found) for like, found in places.items())
