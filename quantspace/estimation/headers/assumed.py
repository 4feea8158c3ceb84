"""What is assumed where little is known: of a pass over a prompt, and of a model of which only the size is told.

All of it on the safe side: an answer that says *fits* must not be wrong because of it. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..inventory import CacheLayer, PeakTerm, TensorSpec
from .plain_config import MAX_LAYERS, Numbers

_LOGIT_BYTES = 2 + 4  # in 16 bits, and the float32 copy that sampling makes (transformers/generation/utils.py)
_SIZE = 2  # bytes of a value in bfloat16, in which peaks are told

_ASPECT = 128  # hidden size over layers: 128 in Llama-2-7B, 13B and Llama-3.1-405B
_PER_CUBED = 12 * _ASPECT**2  # 12 × layers × hidden² parameters, with hidden = 128 × layers
_GROUPED_FROM = 20 * 10**9  # parameters from which published models share keys and values among query heads
_GROUPED = 4096  # keys and values of a layer there: 16 heads of 128; most have 8
_MARGIN = (9, 8)  # on those of smaller ones: Phi-3-mini has more layers for its size
_VOCABULARY = 262_144
_MOST_EMBEDDED = 0.35  # share of the parameters: 0.32 in gpt2
_WIDEST = 3  # times the pass that is assumed of a class: Gemma-4-31B needs 2.9
_EXPERT_SHARE = 0.97  # of the parameters of a mixture of experts
_LARGEST_DENSE = 100 * 10**9  # parameters: beyond, two of the 28 in the catalogue are dense
_LINEAR = 8  # tensors of a layer: as many linear layers as most have

_EVERY_HEAD = frozenset("bloom gpt_neox opt gptj gpt_neo mpt codegen gpt_bigcode xglm".split())
_DENSE = frozenset("llama qwen2 qwen3 mistral gemma gemma2 gemma3 bloom opt falcon cohere cohere2 mllama".split())
_MIXTURES = re.compile(
    r"moe|mixtral|deepseek_v|gpt_oss|llama4|kimi|minimax|dbrx|jamba|arctic|grok|qwen3_next|nemotron_h|longcat|step"
)


def assumed_peak(
    hidden: int, vocabulary: int, dense: int | None, expert: int | None, visited: int, cache: tuple[CacheLayer, ...]
) -> PeakTerm:
    """Bytes alive at the widest operation of a pass in bfloat16, weights aside, attention's scores not counted.

    The same guess as `meta/reader.py` makes of a class that can't be watched: six rows of the residual stream and
    four of the MLP a token, the logits of the last position and their float32 copy, and the cache.

    Args:
        hidden: values of the residual stream, a token.
        dense: outputs of the MLP's way up; four times `hidden` where that is not known.
        expert: the same of one expert; as of the MLP where that is not known.
        visited: experts that each token visits; 0 without experts.
        cache: which is part of the peak.
    """
    dense = dense or 4 * hidden
    expert = expert or dense
    elements = 6 * hidden + 4 * max(dense, visited * expert) + 2 * visited * hidden
    fixed, token = _cached(cache)
    return PeakTerm(vocabulary * _LOGIT_BYTES + fixed, _SIZE * elements + token)


def _cached(cache: tuple[CacheLayer, ...]) -> tuple[int, int]:
    """Bytes of a cache in bfloat16 that don't grow, and bytes a token."""
    fixed = sum(layer.count * (_SIZE * layer.state_elements + layer.state_bytes) for layer in cache)
    return fixed, sum(layer.count * (_SIZE * layer.token_elements + layer.token_bytes) for layer in cache)


@dataclass(frozen=True, slots=True)
class AssumedShape:
    """A decoder of so many parameters, as published ones are shaped.

    Attributes:
        embedded: parameters of embeddings and output head, which no quantizer takes.
        token_elements: keys and values of a layer, a token.
        mixture: whether most parameters are taken to be experts'.
    """

    layers: int
    hidden: int
    vocabulary: int
    embedded: int
    token_elements: int
    mixture: bool

    @property
    def cache(self) -> tuple[CacheLayer, ...]:
        return (CacheLayer("full_attention", tuple(range(self.layers)), None, self.token_elements),)

    @property
    def peak(self) -> PeakTerm:
        """Three times the pass that is assumed of a class, and the cache."""
        one = assumed_peak(self.hidden, self.vocabulary, None, None, 0, ())
        fixed, token = _cached(self.cache)
        return PeakTerm(_WIDEST * one.fixed + fixed, _WIDEST * one.token + token)


def assumed_shape(parameters: int, model_type: str | None, numbers: Numbers | None = None) -> AssumedShape:
    """The shape that a model of so many parameters is taken to have, by what its config tells, else by its size.

    By size alone: 12 × layers × hidden² parameters, hidden = 128 × layers, keys and values for every head below
    20 billion parameters and 16 heads of 128 from there (Llama-2-7B: 32 layers of 4096 against 33 of 4224 here).
    Over the 124 models of the catalogue, at 8,192 tokens: the cache is never below the true one, in the middle 5
    times as large, and 313 times for DeepSeek-V4, which keeps a short latent; the pass is below the true one for
    Llama-4-Maverick (5 times), a Mamba of 130 million (2), and where attention holds the scores of all pairs
    of tokens (BLOOM, 8 times); embeddings are below only in Gemma-3n-like models, which have them for each layer
    (35% of the parameters against 54%), and in toys.

    Args:
        model_type: of its config.json, where that much is known.
        numbers: of its config, where there is one.
    """
    numbers = numbers or Numbers()
    size = max(parameters, 1)
    layers = numbers.layers or min(max(round((size / _PER_CUBED) ** (1 / 3)), 1), MAX_LAYERS)
    hidden = numbers.hidden or max(_ASPECT * layers, 1)
    vocabulary = numbers.vocabulary or _VOCABULARY
    embedded = min(2 * vocabulary * hidden, int(_MOST_EMBEDDED * parameters))
    mixture = bool(numbers.experts) or bool(_MIXTURES.search(model_type or ""))
    mixture = mixture or (parameters >= _LARGEST_DENSE and model_type not in _DENSE)
    kept = _told(numbers, hidden)
    if kept is None and (parameters < _GROUPED_FROM or model_type in _EVERY_HEAD):
        kept = 2 * hidden * _MARGIN[0] // _MARGIN[1]
    return AssumedShape(layers, hidden, vocabulary, embedded, kept or _GROUPED, mixture)


def _told(numbers: Numbers, hidden: int) -> int | None:
    if not (numbers.heads and numbers.key_value_heads):
        return None
    return 2 * numbers.key_value_heads * (numbers.head_dim or hidden // numbers.heads) or None


def assumed_tensors(parameters: int, shape: AssumedShape) -> Iterator[TensorSpec]:
    """Tensors of that shape with as many elements in all as there are parameters.

    Embeddings and head are of a size, so are eight linear layers in each layer, and its experts are one tensor;
    what division leaves over is counted with the norms.
    """
    rows = shape.embedded // 2 // shape.hidden
    if rows:
        yield TensorSpec("model.embed_tokens.weight", (rows, shape.hidden), "embedding")
        yield TensorSpec("lm_head.weight", (rows, shape.hidden), "head")
    left = parameters - 2 * rows * shape.hidden
    experts = int(_EXPERT_SHARE * parameters) // shape.layers if shape.mixture else 0
    experts = min(experts // shape.hidden, left // shape.layers // shape.hidden)
    outputs = (left // shape.layers - experts * shape.hidden) // _LINEAR // shape.hidden
    for layer in range(shape.layers):
        stem = f"model.layers.{layer}"
        if experts:
            yield TensorSpec(f"{stem}.mlp.experts.up_proj", (1, experts, shape.hidden), "experts")
        for part in range(_LINEAR if outputs else 0):
            yield TensorSpec(f"{stem}.linear_{part}.weight", (outputs, shape.hidden), "linear", rows=outputs)
    left -= shape.layers * shape.hidden * (experts + _LINEAR * outputs)
    if left:
        yield TensorSpec("model.norm.weight", (left,), "norm")
