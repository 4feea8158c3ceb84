"""What one precision of a model asks of its cards, at any context and batch. Pure arithmetic.

A search for the longest context asks thousands of times, so what doesn't change is worked out once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..formula import Term
from ..precision import Precision
from .activations import Prefill
from .engines.rules import rules_of
from .gguf.layers import over_gpus
from .gguf.rows import file_behind
from .hardware import Gpu
from .inventory import Inventory
from .overhead import imbalance_term, overhead_terms, overhead_total
from .placement import Share, over_cards
from .weights import weight_bytes, weight_terms

PARTS = ("weights", "cache", "activations", "overhead")


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes over all cards at one context and batch; `total` is what must be usable in all."""

    weights: int
    cache: int
    activations: int
    overhead: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.activations + self.overhead


class Demand:
    """A precision of a model on `cards` like GPUs, with a cache of one dtype; `file` is that of a GGUF file's row.

    Several cards hold weights and cache by whole layers, and each runs its own part of the pass: the
    activations of the pass are counted on each. What counts is the fullest card.
    """

    def __init__(
        self, inventory: Inventory, precision: Precision, gpu: Gpu, cards: int, kv_dtype: str, images: int = 0
    ) -> None:
        self.inventory, self.precision, self.gpu, self.cards, self.kv_dtype = inventory, precision, gpu, cards, kv_dtype
        self.rules = rules_of(inventory, precision, Prefill(kv_dtype, images, gpu.kind == "cpu"))
        self.file = file_behind(inventory, precision.id)
        self.weights = weight_bytes(inventory, precision, gpu.kind == "gpu")
        self.shares = self._shares(cards) if cards > 1 else ()
        self._counts = [layer.count for layer in inventory.cache]
        self._kinds = [_kinds_on(share, inventory) for share in self.shares]

    def at(self, context: int, batch: int) -> Bytes:
        """What is needed at this context and batch."""
        layers = self.rules.layer_bytes(context, batch)
        cache = self._cache(layers)
        activations = self.cards * self.rules.activations(context, batch)
        overhead = overhead_total(self.gpu, self.weights, cache + activations, self.cards)
        return Bytes(self.weights.held, cache, activations, overhead + self._unfilled(layers, cache))

    def total(self, context: int, batch: int) -> int:
        return self.at(context, batch).total

    def terms(self, context: int, batch: int) -> dict[str, list[Term]]:
        """Every part of the total as terms with their formulas; each part is the sum of its terms."""
        found = self.at(context, batch)
        activations = self.rules.activation_terms(context, batch)
        overhead = overhead_terms(self.gpu, self.weights, found.cache + found.activations, self.cards)
        if self.cards > 1:
            activations = tuple(term.times("cards", self.cards) for term in activations)
            fullest = self._fullest(self.rules.layer_bytes(context, batch))
            overhead.append(imbalance_term(self.cards, fullest, self.weights.held + found.cache))
        return {
            "weights": weight_terms(self.inventory, self.precision, self.gpu.kind == "gpu"),
            "cache": self.rules.cache_terms(context, batch),
            "activations": list(activations),
            "overhead": overhead,
        }

    def fixed_on_a_card(self, context: int, batch: int) -> int:
        """Bytes that each card needs besides weights and cache."""
        activations = self.rules.activations(context, batch)
        transient = self._cache(self.rules.layer_bytes(context, batch)) // self.cards + activations
        return activations + overhead_total(self.gpu, self.weights, transient)

    def cache_by_layer(self, context: int, batch: int) -> list[int]:
        """Bytes of cache by place in the cache's list of layers."""
        places = [place for layer in self.inventory.cache for place in layer.layers]
        by_layer = [0] * (max(places, default=-1) + 1)
        for layer, held in zip(self.inventory.cache, self.rules.layer_bytes(context, batch), strict=True):
            for place in layer.layers:
                by_layer[place] += held
        return by_layer

    def _shares(self, cards: int) -> tuple[Share, ...]:
        if self.file is None:
            return over_cards(self.inventory, self.precision, cards)
        places = frozenset(place for layer in self.inventory.cache for place in layer.layers)
        return over_gpus(self.file, cards, places)

    def _cache(self, layers: Sequence[int]) -> int:
        """All of the cache, from the bytes of one layer of each kind."""
        return sum(count * held for count, held in zip(self._counts, layers, strict=True))

    def _unfilled(self, layers: Sequence[int], cache: int) -> int:
        return self.cards * self._fullest(layers) - self.weights.held - cache if self.cards > 1 else 0

    def _fullest(self, layers: Sequence[int]) -> int:
        """Bytes of weights and cache on the card that holds most of them, from bytes of a layer of each kind."""
        return max(
            share.weights + sum(layers[kind] * count for kind, count in kinds)
            for share, kinds in zip(self.shares, self._kinds, strict=True)
        )


def largest(need: Callable[[int], int], budget: int, limit: int) -> int:
    """The largest n ≤ limit for which a rising `need(n)` is within `budget`; 0 when it isn't for 1.

    `need` is close to straight in n, so a line through the ends finds the place in a few steps; every other
    step halves what is left, so that no shape of it can take long.
    """
    low, high = 1, limit
    at_low = need(low)
    if at_low > budget:
        return 0
    at_high = need(high)
    if at_high <= budget:
        return limit
    straight = True
    while high - low > 1:
        guess = low + (budget - at_low) * (high - low) // (at_high - at_low) if straight else (low + high) // 2
        guess = min(max(guess, low + 1), high - 1)
        needed = need(guess)
        if needed <= budget:
            low, at_low = guess, needed
            neighbour = guess + 1
        else:
            high, at_high = guess, needed
            neighbour = guess - 1
        if straight and low < neighbour < high:  # a line that was right ends the search here
            needed = need(neighbour)
            if needed <= budget:
                low, at_low = neighbour, needed
            else:
                high, at_high = neighbour, needed
        straight = not straight
    return low


def _kinds_on(share: Share, inventory: Inventory) -> Sequence[tuple[int, int]]:
    """Kinds of cache layers on a card, with how many of each."""
    held = set(share.cache_layers)  # an encoder-decoder has two layers at a place: its own tokens and the encoder's
    return tuple(Counter(kind for kind, layer in enumerate(inventory.cache) for p in layer.layers if p in held).items())
