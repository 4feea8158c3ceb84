"""What a row of the fit table counts with: the cache and the buffers of the engine that runs it.

transformers' own are asked of its classes (`cache.py`, `activations.py`); a GGUF row counts as llama.cpp does.
"""

from __future__ import annotations

from typing import Protocol

from ...formula import Term
from ...precision import Precision
from ..activations import Prefill, activation_terms, activation_total
from ..cache import cache_terms, layers_bytes
from ..inventory import Inventory
from .llama_cpp import (
    llama_cpp_compute_bytes,
    llama_cpp_compute_total,
    llama_cpp_layer_bytes,
    llama_cpp_opinion,
)


class Rules(Protocol):
    """Bytes of cache and activations by one engine's rules."""

    def layer_bytes(self, context: int, batch: int) -> list[int]:
        """Bytes of cache in one layer of each kind, in the order of `Inventory.cache`."""

    def cache_terms(self, context: int, batch: int) -> list[Term]:
        """All of the cache, a term for each kind of layer."""

    def activations(self, context: int, batch: int) -> int:
        """Bytes beside weights and cache at the peak."""

    def activation_terms(self, context: int, batch: int) -> tuple[Term, ...]:
        """The same, term by term."""


class Transformers:
    """What transformers keeps and makes."""

    def __init__(self, inventory: Inventory, precision: Precision, how: Prefill) -> None:
        self._inventory, self._precision, self._how = inventory, precision, how

    def layer_bytes(self, context: int, batch: int) -> list[int]:
        return layers_bytes(self._inventory, context, batch, self._how.kv_dtype, self._precision.dtype)

    def cache_terms(self, context: int, batch: int) -> list[Term]:
        return cache_terms(self._inventory, context, batch, self._how.kv_dtype, self._precision.dtype)

    def activations(self, context: int, batch: int) -> int:
        return activation_total(self._inventory, self._precision, context, batch, self._how)

    def activation_terms(self, context: int, batch: int) -> tuple[Term, ...]:
        return activation_terms(self._inventory, self._precision, context, batch, self._how)


class LlamaCpp:
    """What llama.cpp allocates at its start."""

    def __init__(self, inventory: Inventory, kv_dtype: str) -> None:
        self._inventory, self._kv_dtype = inventory, kv_dtype

    def layer_bytes(self, context: int, batch: int) -> list[int]:
        return llama_cpp_layer_bytes(self._inventory, context, batch, self._kv_dtype)

    def cache_terms(self, context: int, batch: int) -> list[Term]:
        opinion = llama_cpp_opinion(self._inventory, context, batch, self._kv_dtype)
        return list(opinion.terms) if opinion else []

    def activations(self, context: int, batch: int) -> int:
        return llama_cpp_compute_total(self._inventory, context, batch)

    def activation_terms(self, context: int, batch: int) -> tuple[Term, ...]:
        buffer = llama_cpp_compute_bytes(self._inventory, context, batch)
        return (buffer,) if buffer else ()


def rules_of(inventory: Inventory, precision: Precision, how: Prefill) -> Rules:
    """The rules of the engine of `precision`; transformers' where llama.cpp's aren't known for this cache."""
    if precision.engine == "llama.cpp" and knows(inventory):
        return LlamaCpp(inventory, how.kv_dtype)
    return Transformers(inventory, precision, how)


def knows(inventory: Inventory) -> bool:
    """Whether llama.cpp's rules can be told for this model; of one that was read from its files nothing else can."""
    return inventory.source_kind == "gguf" or (
        llama_cpp_opinion(inventory, 1, 1, "float16") is not None
        and llama_cpp_compute_bytes(inventory, 1, 1) is not None
    )
