"""An engine's opinion, and what every engine has to read from an inventory. No rules of any engine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from ...formula import Term
from ..cache import cache_bytes
from ..inventory import CacheLayer, Inventory

# Cache layers that grow with every token; a trailing `attention` is a config's own word for one.
_KNOWN = frozenset(
    {
        "DynamicLayer",
        "DynamicSlidingWindowLayer",
        "DynamicIndexedLayer",
        "LinearAttentionLayer",
        "LinearAttentionAndFullAttentionLayer",
        "LinearAttentionAndSlidingWindowAttentionLayer",
        "full_attention",
        "sliding_attention",
        "chunked_attention",
    }
)


@dataclass(frozen=True)
class Opinion:
    """What an engine keeps of a context.

    Attributes:
        engine: its name.
        cache_bytes: of keys, values and states; the sum of `terms`.
        terms: one for each kind of layer; the note of each names its source.
        rule: how it keeps a context, in a sentence.
        differs: whether these are other bytes than transformers holds while decoding.
        notes: what the figure depends on.
    """

    engine: str
    cache_bytes: int
    terms: tuple[Term, ...]
    rule: str
    differs: bool
    notes: tuple[str, ...] = ()


def opinion_of(
    engine: str,
    terms: Iterable[Term],
    rule: str,
    notes: Iterable[str],
    workload: tuple[Inventory, int, int, str],
) -> Opinion:
    """An opinion whose bytes are the sum of its terms, against transformers' bytes of the same workload."""
    terms = tuple(terms)
    total = sum(term.bytes for term in terms)
    return Opinion(engine, total, terms, rule, total != cache_bytes(*workload), tuple(notes))


def is_known(inventory: Inventory) -> bool:
    """Whether all rows of the cache grow in a way that engines share.

    Encoder-decoders have two caches in one list, of which the one for the encoder is each engine's own affair.
    """
    places = [place for row in inventory.cache for place in row.layers]
    return len(places) == len(set(places)) and all(
        row.kind in _KNOWN and min(row.token_elements, row.state_elements, row.state_bytes) >= 0
        for row in inventory.cache
    )


@lru_cache(maxsize=512)
def latent_width(inventory: Inventory) -> int:
    """Values of the latent that an MLA layer caches a token (its down-projection's outputs), or 0."""
    return max((t.shape[0] for t in inventory.tensors if ".kv_a_proj" in t.name and len(t.shape) == 2), default=0)


def index_width(inventory: Inventory, row: CacheLayer) -> int:
    """Values of a sparse attention's index key that a row caches beside its latent, a token."""
    latent = latent_width(inventory)
    return row.token_elements - latent if latent and row.kind == "DynamicIndexedLayer" else 0


@lru_cache(maxsize=512)
def conv_kernel(inventory: Inventory, row: CacheLayer) -> int:
    """Width K of the depthwise convolution whose last K columns a row holds, or 1 where there is none.

    transformers holds K columns of which the next step needs K − 1; other engines hold K − 1.
    """
    if not row.state_elements:
        return 1
    kernels = (
        t.shape[2]
        for t in inventory.tensors
        if len(t.shape) == 3 and t.shape[1] == 1 and row.state_elements % prod(t.shape) == 0
    )
    return next(kernels, 1)
