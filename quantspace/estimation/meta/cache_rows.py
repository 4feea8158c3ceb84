"""Rows of an inventory from what a cache's layers hold: the line through two lengths, or an upper bound over blocks.

Reads the cache objects of transformers by their tensors' storages; which passes fill them is `cache.py`'s affair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..inventory import CacheLayer
from .quantized import BFLOAT16_BYTES

PROMPT = 8  # tokens of the first pass: any small number, below every real window

# Layers whose size is a straight line in tokens, up to a window. Others compress or index in steps.
STRAIGHT = frozenset(
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


def grows_straight(cache: Iterable[CacheLayer]) -> bool:
    """Whether two short passes tell a cache's size at any length."""
    return all(layer.kind in STRAIGHT for layer in cache)


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


# What each storage of a layer takes, by its path and its measure: `elements` that follow the cache's dtype, or `bytes`.
Held = dict[tuple[str, str], int]


def held_by(layer: Any) -> Held:
    """Storages of a layer, of which several tensors may be views, by the path of the first."""
    found: Held = {}
    seen: set[int] = set()
    todo = list(vars(layer).items())
    while todo:
        path, value = todo.pop(0)
        if isinstance(value, torch.Tensor) and value.dim():  # numbers that a layer counts with are no cache
            storage = value.untyped_storage()
            if storage._cdata not in seen:
                seen.add(storage._cdata)
                follows = value.dtype == torch.bfloat16
                measure, size = ("elements", BFLOAT16_BYTES) if follows else ("bytes", 1)
                found[path, measure] = storage.nbytes() // size
        elif isinstance(value, dict):
            todo.extend((f"{path}.{key}", one) for key, one in value.items())
        elif isinstance(value, (list, tuple)):
            todo.extend((f"{path}.{number}", one) for number, one in enumerate(value))
    return found


def over_blocks(
    layers: list[tuple[int, str]], unit: int, prefilled: dict[int, list[Held]], stepped: dict[int, list[Held]]
) -> tuple[tuple[CacheLayer, ...], int]:
    """Rows that never fall below what was held, and by how many bytes they exceed it at most.

    Args:
        layers: their places and kinds.
        unit: tokens, whole blocks of every layer; `prefilled` and `stepped` tell of it and of twice as many.
        prefilled: what the layers held right after a prefill, by its tokens.
        stepped: what they held after a step, by the tokens then in the cache.
    """
    rows: list[CacheLayer] = []
    over: Counter[tuple[int, bool]] = Counter()
    for number, (place, kind) in enumerate(layers):
        seen = {(n, False): held[number] for n, held in prefilled.items()}
        seen |= {(n, True): held[number] for n, held in stepped.items()}
        own = _layer_rows(place, kind, unit, seen)
        rows.extend(own)
        for (n, after_step), held in seen.items():
            for measure, size in (("elements", BFLOAT16_BYTES), ("bytes", 1)):
                over[n, after_step] += size * (_told(own, measure, n, after_step) - _sum(held, measure))
    return grouped(rows), max(over.values())


def _layer_rows(place: int, kind: str, unit: int, seen: dict[tuple[int, bool], Held]) -> list[CacheLayer]:
    """One layer as a row for each of its windows, and one for what goes on growing and what never does."""
    empty = CacheLayer(kind, (place,), None, 0)
    rows: dict[int | None, CacheLayer] = {None: empty}
    for storage in dict.fromkeys(storage for held in seen.values() for storage in held):
        measure = storage[1]
        window, token, state = _line_or_window(unit, {at: held.get(storage, 0) for at, held in seen.items()})
        rows[window] = _with(rows.get(window, replace(empty, window=window)), measure, token, state)
    for measure in ("elements", "bytes"):
        told = list(rows.values())
        lacking = max(_sum(held, measure) - _told(told, measure, *at) for at, held in seen.items())
        rows[None] = _with(rows[None], measure, 0, max(lacking, 0))
    return [row for row in rows.values() if replace(row, window=None) != empty]


def _line_or_window(unit: int, held: dict[tuple[int, bool], int]) -> tuple[int | None, int, int]:
    """One storage: the tokens it holds at most, what it takes for each, and what it takes regardless.

    A step lets go of the prompt where a layer keeps a window, or a block that isn't compressed yet. The end of
    a block is where such a storage is largest; entries of compressed blocks lie on a straight line there.
    """
    after_prefill, longer = held[unit, False], held[2 * unit, False]
    after_step, later = held[unit, True], held[2 * unit, True]
    token = -(-(longer - after_prefill) // unit)
    if token > 0 and after_step == later:
        state = max(after_prefill - token * unit, 0)
        return max(-(-(after_step - state) // token), 1), token, state
    token = max(token, -(-(later - after_step) // unit), 0)
    return None, token, max(after_prefill - token * unit, after_step - token * unit, 0)


def _with(row: CacheLayer, measure: str, token: int, state: int) -> CacheLayer:
    """A row that tells of `token` more for each token and of `state` more regardless."""
    if measure == "elements":
        return replace(row, token_elements=row.token_elements + token, state_elements=row.state_elements + state)
    return replace(row, token_bytes=row.token_bytes + token, state_bytes=row.state_bytes + state)


def _told(rows: Iterable[CacheLayer], measure: str, tokens: int, after_step: bool) -> int:
    """What rows say a layer holds: of a window, its tokens after a step, and all before one."""
    total = 0
    for row in rows:
        held = min(tokens, row.window) if row.window and after_step else tokens
        total += held * getattr(row, f"token_{measure}") + getattr(row, f"state_{measure}")
    return total


def _sum(held: Held, measure: str) -> int:
    return sum(amount for (_, kind), amount in held.items() if kind == measure)


def grown(place: int, layer: Any, longer: Any) -> CacheLayer:
    """The straight line through what a layer holds after `PROMPT` tokens and after one more."""
    before, after = cache_tensors(layer), cache_tensors(longer)
    token_elements = _elements(after) - _elements(before)
    token_bytes = _fixed_bytes(after) - _fixed_bytes(before)
    return CacheLayer(
        kind=type(layer).__name__,
        layers=(place,),
        window=getattr(layer, "sliding_window", None),
        token_elements=token_elements,
        token_bytes=token_bytes,
        state_elements=max(_elements(before) - token_elements * PROMPT, 0),
        state_bytes=max(_fixed_bytes(before) - token_bytes * PROMPT, 0),
    )


def _elements(tensors: list[torch.Tensor]) -> int:
    return sum(t.numel() for t in tensors if t.dtype == torch.bfloat16)


def _fixed_bytes(tensors: list[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t.dtype != torch.bfloat16 and t.numel() > 1)


def grouped(layers: Iterable[CacheLayer]) -> tuple[CacheLayer, ...]:
    """Layers that differ in nothing but their place, together."""
    places: dict[CacheLayer, tuple[int, ...]] = {}
    for layer in layers:
        like = replace(layer, layers=())
        places[like] = places.get(like, ()) + layer.layers
    return tuple(replace(like, layers=found) for like, found in places.items())
