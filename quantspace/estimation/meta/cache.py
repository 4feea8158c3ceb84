"""How a model's cache grows and what its passes hold, asked of the class itself.

Forward passes on `meta` fill the real cache object; its tensors' shapes at two lengths give what each
layer keeps a token and what it keeps regardless. Layers of a class that isn't known to grow so are watched over
whole blocks of tokens, after prefills and after steps. `peak.py` watches the same passes for their peak.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from ..inventory import CacheLayer, PeakTerm
from .cache_rows import PROMPT, STRAIGHT, Held, cache_layers, grouped, grown, grows_straight, held_by, over_blocks
from .peak import FusedAttention, LinearCall, LiveBytes, peak_terms, undominated
from .quantized import TRANSIENTS, largest_with, quantized_peaks
from .repeat import LikeLayers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

FLOAT32_BYTES = 4  # of the copy of the last logits that sampling makes (transformers/generation/utils.py)
_CHUNKS = (257, 513, 1025, 2049, 3073)  # tokens: one more than full chunks of 64, 128 or 256: the most padding
_TOKEN_LOOP = (9, 17, 33, 65, 97)  # tokens, where a layer runs once for each
_CONFIRMED = 0.01  # by which the last of these passes may differ from what the others tell
_BLOCKS = 4096  # tokens: whole blocks of every class that compresses or indexes blocks (of 4 and of 128 tokens)


@dataclass(frozen=True)
class Watched:
    """What passes on `meta` told.

    Attributes:
        cache: its layers, like ones together.
        peak: the polynomials that can be the peak; empty where none could be found.
        recurrent: whether layers keep a state that does not grow.
        quantized: those with the kernels of a quantizer, by their name in `quantized.TRANSIENTS`.
        most_over: bytes in bfloat16 by which `cache` can exceed what one sequence holds, between the ends of
            the blocks that a class compresses; it never falls below it. 0 where it is always exact.
    """

    cache: tuple[CacheLayer, ...]
    peak: tuple[PeakTerm, ...] = ()
    quantized: tuple[tuple[str, tuple[PeakTerm, ...]], ...] = ()
    recurrent: bool = False
    most_over: int = 0


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
        return replace(_watch(model, (), like), peak=(), quantized=(), recurrent=False)


def _watch(model: PreTrainedModel, quantizable: Collection[int], like: AbstractContextManager[Any]) -> Watched:
    lengths = range(PROMPT, PROMPT + 3)
    passes = [_pass(model, length, quantizable, like) for length in lengths]
    if len(passes[0].timeline) != len(passes[1].timeline):  # a first pass may set up what later ones find
        passes[0] = _pass(model, lengths[0], quantizable, like)
    pairs = zip(cache_layers(passes[0].filled), cache_layers(passes[1].filled), strict=True)
    rows = (grown(i, one, other) for (i, one), (_, other) in pairs)
    held = (row for row in rows if row.token_elements or row.token_bytes or row.state_elements or row.state_bytes)
    cache = grouped(held)
    timelines = [one.timeline for one in passes]
    peak = peak_terms(lengths, timelines) or ()
    quantized = quantized_peaks(peak, lengths, timelines, [one.calls for one in passes]) if peak else ()
    if not grows_straight(cache):
        return _watch_blocks(model, quantizable, like, Watched(cache, peak, quantized))
    if any(layer.state_elements or layer.state_bytes for layer in cache if layer.kind in STRAIGHT):
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
        terms = undominated(lines | _confirmed(shorter, points))
        last, peak = points[-1]
        if abs(max(term.at(last, 1) for term in terms) / peak - 1) > _CONFIRMED:
            return (), ()
        found[kernels] = terms
    return found.pop(""), tuple(found.items())


def _watch_blocks(
    model: PreTrainedModel, quantizable: Collection[int], like: AbstractContextManager[Any], short: Watched
) -> Watched:
    """What passes of many whole blocks tell, those of one token less, and a step after some of them."""
    _keep_float32(model)
    unit = _BLOCKS * -(-max(layer.window or 1 for layer in short.cache) // _BLOCKS)
    series = [[_pass(model, k * unit - less, quantizable, like) for k in (1, 2, 3)] for less in (0, 1)]
    brief = [_pass(model, length, (), like) for length in (1, PROMPT)]
    watched = [one for passes in (*series, brief) for one in passes]
    prefilled = {one.length: one.held() for one in watched}
    # Steps to the end of a block, and to its first token, where least is held of what a block takes.
    stepped = {one.length + 1: _stepped(model, one, like) for one in watched if one.length <= 2 * unit - 1}
    kinds = [(place, type(layer).__name__) for place, layer in cache_layers(watched[0].filled)]
    cache, most_over = over_blocks(kinds, unit, prefilled, stepped)
    return Watched(cache, *_block_peaks(series, short), most_over=most_over)


def _block_peaks(
    series: list[list[_Pass]], short: Watched
) -> tuple[tuple[PeakTerm, ...], tuple[tuple[str, tuple[PeakTerm, ...]], ...]]:
    """The peaks of passes of whole blocks and of one token less, with those of short ones that hold there too."""
    found: dict[str, set[PeakTerm]] = {"": set()}
    points: dict[str, list[tuple[int, int]]] = {}
    for passes in series:
        lengths, timelines = [one.length for one in passes], [one.timeline for one in passes]
        calls = [one.calls for one in passes]
        peak = peak_terms(lengths, timelines)
        if peak is None:
            return (), ()
        for kernels, terms in (("", peak), *quantized_peaks(peak, lengths, timelines, calls)):
            found.setdefault(kernels, set()).update(terms)
            points.setdefault(kernels, []).extend(
                (one.length, largest_with(kernels, one.timeline, one.calls)) for one in passes
            )
    for kernels, terms in (("", short.peak), *short.quantized):
        if kernels in found:
            found[kernels] |= _confirmed(terms, points[kernels])
    held = {kernels: undominated(terms) for kernels, terms in found.items()}
    return held.pop(""), tuple(held.items())


def _confirmed(terms: Iterable[PeakTerm], points: Iterable[tuple[int, int]]) -> set[PeakTerm]:
    """Polynomials of short passes that the peaks of longer ones do not contradict."""
    return {term for term in terms if all(term.at(n, 1) <= (1 + _CONFIRMED) * peak for n, peak in points)}


def _keep_float32(model: PreTrainedModel) -> None:
    """Give the parameters that the loader keeps in float32 that dtype: what a class derives from them has it too."""
    from .reader import kept_in_float32

    for name, dtypes in kept_in_float32(model).items():
        owner, _, leaf = name.rpartition(".")
        parameters = model.get_submodule(owner)._parameters
        if "bfloat16" in dtypes and leaf in parameters:
            parameters[leaf] = torch.nn.Parameter(parameters[leaf].float(), requires_grad=False)


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
    return grouped(
        CacheLayer(kind, (place,), window if "sliding" in kind else None, 2 * heads * head_dim)
        for place, kind in enumerate(kinds)
        if "attention" in kind
    )


@dataclass(frozen=True)
class _Pass:
    """One forward pass: the cache that it filled, the bytes alive along it, calls of linear layers."""

    length: int
    filled: Any  # the cache
    timeline: list[int]
    calls: list[LinearCall]

    def held(self) -> list[Held]:
        """What each layer of the cache holds now."""
        return [held_by(layer) for _, layer in cache_layers(self.filled)]


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
    return _Pass(length, cache, timeline, kernels.calls)


def _stepped(model: PreTrainedModel, prefill: _Pass, like: AbstractContextManager[Any]) -> list[Held]:
    """What the layers hold once one more token was decoded, which changes the cache of `prefill`."""
    token = torch.zeros(1, 1, dtype=torch.long, device="meta")
    alive = LiveBytes(model)  # answers what a class asks of values
    with torch.no_grad(), torch.device("meta"), FusedAttention(alive), like, alive:
        model(input_ids=token, use_cache=True, past_key_values=prefill.filled)
    return prefill.held()
