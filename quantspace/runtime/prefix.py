"""What a model has already read of a conversation: its KV cache, kept from one turn for the next.

The next prompt mostly begins with the last one and its answer, so only what is new has to be computed. What can be
taken over depends on the cache alone: keys and values of single tokens can be cut off at any token, while a window
that has dropped tokens and a recurrent state can only be continued from exactly where they are. Prompts are encoded
the same whether or not anything is kept; this module never changes what a model is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import (
    DummyLayer,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

# By exact class: a subclass may hold more than it can cut (quantized and compressed caches do).
_BY_TOKEN = {DynamicLayer, DynamicIndexedLayer, DummyLayer}
_WINDOWED = {DynamicSlidingWindowLayer}
_RECURRENT = {
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
}
_KNOWN = _BY_TOKEN | _WINDOWED | _RECURRENT


@dataclass(eq=False)
class Prefix:
    """The cache of one conversation: the last that was answered. Used by one thread at a time.

    Attributes:
        tokens: those that `cache` has read, in order.
    """

    tokens: list[int] = field(default_factory=list)
    cache: DynamicCache | None = None

    def take(self, prompt: Sequence[int]) -> tuple[DynamicCache | None, int]:
        """The cache to continue for `prompt`, and how many of its tokens are in it; `None` and 0 for none.

        Nothing is kept afterwards, whatever was found: a cache that is continued is no longer the one that was
        kept, and one that doesn't fit must not lie beside the new one.
        """
        cache, tokens = self.cache, self.tokens
        self.drop()
        if cache is None:
            return None, 0
        shared = min(_shared(tokens, prompt), len(prompt) - 1)  # the last token has to be read to go on from it
        surplus = len(tokens) - shared
        if shared < 1 or (surplus and not can_be_cut(cache)):
            return None, 0
        _cut(cache, surplus)
        return cache, shared

    def keep(self, tokens: Sequence[int], cache: Any) -> None:
        """Keep `cache`, if it is of a kind that can be continued and has read all but the last of `tokens`."""
        self.drop()
        if can_be_continued(cache) and cache.get_seq_length() == len(tokens) - 1:
            self.tokens, self.cache = list(tokens[:-1]), cache

    def drop(self) -> None:
        """Give the memory back."""
        self.tokens, self.cache = [], None

    @property
    def held_bytes(self) -> int:
        """Bytes of the kept cache's storages, each once."""
        if self.cache is None:
            return 0
        storages = [tensor.untyped_storage() for layer in self.cache.layers for tensor in _tensors(vars(layer))]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def can_be_continued(cache: Any) -> bool:
    """Whether a prompt that begins with all that `cache` has read may be continued from it.

    Only where a layer of attention tells how far it has read: `generate` leaves the part that was read out of its
    input by that length, which a purely recurrent model (Mamba) doesn't have.
    """
    return (
        type(cache) is DynamicCache
        and all(type(layer) in _KNOWN for layer in cache.layers)
        and any(type(layer) in _KNOWN - {LinearAttentionLayer, DummyLayer} for layer in cache.layers)
    )


def can_be_cut(cache: DynamicCache) -> bool:
    """Whether the last tokens of `cache` can be taken back: no state, and no window that has dropped a token."""
    return all(
        type(layer) in _BY_TOKEN or (type(layer) in _WINDOWED and layer.get_seq_length() < layer.sliding_window)
        for layer in cache.layers
    )


def _cut(cache: DynamicCache, surplus: int) -> None:
    for layer in cache.layers:
        if surplus and layer.is_initialized:
            layer.crop(-surplus)


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
