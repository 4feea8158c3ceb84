"""Where the layers of a model go: over several cards, or partly into system memory. Pure arithmetic.

Cards are filled as transformers' `device_map="auto"` does (`transformers/integrations/accelerate.py`,
`get_balanced_memory` and `infer_auto_device_map`): in the model's order, whole blocks, each card but the
last up to an even share and a little more.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from ..precision import PRECISIONS, Precision
from .inventory import Inventory, TensorSpec
from .weights import KEPT, store, unquantized, weight_bytes

BUFFER = 1.25  # of the largest block or leaf, that a card may take beyond its even share
_TOWERS = re.compile(r"vision|visual|audio|encoder|tower|mtp")


@dataclass(frozen=True, slots=True)
class Unit:
    """A module that a split keeps whole.

    Attributes:
        kind: units of one kind hold like tensors.
        cache_layer: its place in the cache's list of layers; `None` where it caches nothing.
        beside: name of the unit whose weight it shares and beside which it must lie; `None` for most.
    """

    name: str
    kind: int
    cache_layer: int | None = None
    beside: str | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """The units of a model in its own order, and what each kind of them holds."""

    units: tuple[Unit, ...]
    kinds: tuple[tuple[tuple[TensorSpec, int], ...], ...]  # tensors without names, counted


@dataclass(frozen=True, slots=True)
class Share:
    """What one card holds of a model, or system memory.

    Attributes:
        names: of its modules, in order.
        weights: bytes, quantization constants included.
        cache_layers: places of its layers in the cache's list.
    """

    names: tuple[str, ...]
    weights: int
    cache_layers: tuple[int, ...]


@lru_cache(maxsize=512)
def layout(inventory: Inventory, stored: bool = False) -> Layout:
    """The units of `inventory`: its blocks, and what stands outside of them module by module."""
    grouped: dict[str, list[TensorSpec]] = {}
    blocks = set(inventory.blocks)
    for spec in inventory.native if stored else inventory.tensors:
        grouped.setdefault(_unit_of(spec.name, blocks), []).append(spec)
    cached = _cache_layers(inventory)
    kinds: dict[tuple[tuple[TensorSpec, int], ...], int] = {}
    units = []
    for name, specs in grouped.items():
        held = Counter(_nameless(spec) for spec in specs if spec.tied_to is None)
        kind = kinds.setdefault(tuple(held.items()), len(kinds))
        shared = (_unit_of(spec.tied_to, blocks) for spec in specs if spec.tied_to)
        units.append(Unit(name, kind, cached.get(name), next((other for other in shared if other != name), None)))
    return Layout(tuple(units), tuple(kinds))


def unit_bytes(inventory: Inventory, precision: Precision | str) -> tuple[tuple[int, int], ...]:
    """For each unit: bytes that the split counts (data alone), and bytes truly held.

    Args:
        precision: a row, one with options of a load, or a row's id.
    """
    return _unit_bytes(inventory, PRECISIONS[precision] if isinstance(precision, str) else precision)


@lru_cache(maxsize=KEPT)
def _unit_bytes(inventory: Inventory, precision: Precision) -> tuple[tuple[int, int], ...]:
    if precision.skip:  # names matter
        return _by_name(inventory, precision)
    if precision.method == "gguf":  # a file's layers are taken as large as their share of the weights
        plain = unit_bytes(inventory, "bf16")
        share = weight_bytes(inventory, precision).held / sum(held for _, held in plain)
        shares = [int(held * share) for _, held in plain]
        shares[shares.index(max(shares))] += weight_bytes(inventory, precision).held - sum(shares)
        return tuple((held, held) for held in shares)
    found = layout(inventory, precision.method == "stored")
    by_kind = []
    for kind in found.kinds:
        stored = [(store(spec, precision), count) for spec, count in kind]
        by_kind.append((sum(s.data_bytes * n for s, n in stored), sum(s.held_bytes * n for s, n in stored)))
    return tuple(by_kind[unit.kind] for unit in found.units)


def _by_name(inventory: Inventory, precision: Precision) -> tuple[tuple[int, int], ...]:
    blocks = set(inventory.blocks)
    data: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for spec in inventory.tensors:
        stored, unit = store(spec, precision), _unit_of(spec.name, blocks)
        data[unit] += stored.data_bytes
        held[unit] += stored.held_bytes
    return tuple((data[unit.name], held[unit.name]) for unit in layout(inventory).units)


def over_cards(inventory: Inventory, precision: Precision | str, cards: int) -> tuple[Share, ...]:
    """Shares of `cards` like cards, as `device_map="auto"` makes them where each is large enough."""
    return _over_cards(inventory, PRECISIONS[precision] if isinstance(precision, str) else precision, cards)


@lru_cache(maxsize=KEPT)
def _over_cards(inventory: Inventory, precision: Precision, cards: int) -> tuple[Share, ...]:
    units = layout(inventory, precision.method == "stored").units
    sizes = unit_bytes(inventory, precision)
    filling = _Filling([data for data, _ in sizes], cards)
    filling.take(_tree(units))
    parts = _beside_their_kin(filling.parts, units)
    return tuple(_share([(units[place], sizes[place][1]) for place in part]) for part in parts)


def _beside_their_kin(parts: Sequence[Sequence[int]], units: Sequence[Unit]) -> list[list[int]]:
    """The same parts, with each unit that shares a weight on the card of the unit that it shares it with."""
    card_of = {units[place].name: card for card, part in enumerate(parts) for place in part}
    moved: list[list[int]] = [[] for _ in parts]
    for card, part in enumerate(parts):
        for place in part:
            moved[card_of.get(units[place].beside or "", card)].append(place)
    return moved


class _Filling:
    """Cards being filled, one after the other.

    A module goes where it fits whole, else its children are tried one by one. Beside it the first card
    keeps room for the largest unit still to come, as if it were to be offloaded.
    """

    def __init__(self, sizes: Sequence[int], cards: int) -> None:
        self.parts: list[list[int]] = [[] for _ in range(cards)]
        self._sizes = sizes
        self._limit = sum(sizes) // cards + int(BUFFER * max(sizes))
        self._to_come = [*accumulate(reversed(sizes), max, initial=0)][::-1]  # largest from a place on
        self._card = self._used = 0

    def take(self, node: _Node) -> None:
        size = sum(self._sizes[place] for place in node.places)
        while not self._has_room(size, node):
            if len(node.places) > 1:
                for child in node.children:
                    self.take(child)
                return
            self._card, self._used = self._card + 1, 0
        self.parts[self._card].extend(node.places)
        self._used += size

    def _has_room(self, size: int, node: _Node) -> bool:
        if self._card == len(self.parts) - 1:
            return True
        reserve = self._to_come[node.places[-1] + 1] if self._card == 0 else 0
        return self._used + size <= self._limit - reserve


@dataclass(frozen=True, slots=True)
class _Node:
    """A module with all places of units in it; `children` is empty for a unit."""

    places: tuple[int, ...]
    children: tuple[_Node, ...] = ()


def _tree(units: Sequence[Unit]) -> _Node:
    return _node([(unit.name.split("."), place) for place, unit in enumerate(units)])


def _node(members: list[tuple[list[str], int]]) -> _Node:
    """Group (path, place) by the first part of the path; a path of its own ends in a unit."""
    places = tuple(place for _, place in members)
    if len(members) == 1:
        return _Node(places)
    grouped: dict[str, list[tuple[list[str], int]]] = {}
    for path, place in members:
        grouped.setdefault(path[0] if path else "", []).append((path[1:], place))
    return _Node(places, tuple(_node(group) for group in grouped.values()))


@dataclass(frozen=True, slots=True)
class Split:
    """A model that runs partly from system memory.

    Attributes:
        cards: what each card holds.
        host: what stays in system memory and is copied to the first card whenever it is needed.
        in_flight: bytes of the largest of those modules, for which the first card keeps room.
    """

    cards: tuple[Share, ...]
    host: Share
    in_flight: int


def offload(
    inventory: Inventory, precision: Precision, rooms: Sequence[int], layer_cache: Sequence[int]
) -> Split | None:
    """Fill cards in the model's order and leave the rest to system memory; `None` when no block fits a card.

    Modules in system memory are computed on the first card, which therefore keeps their cache and room for
    the largest of them.

    Args:
        rooms: bytes each card has for weights and cache.
        layer_cache: bytes of cache by place in the cache's list of layers.
    """
    units = layout(inventory, precision.method == "stored").units
    on_card = [held for _, held in unit_bytes(inventory, precision)]
    in_host = [held for _, held in unit_bytes(inventory, left_unquantized(precision))]
    caches = [layer_cache[u.cache_layer] if u.cache_layer is not None else 0 for u in units]
    kept_apart = 0  # on the first card: cache of the layers in system memory, and room for one of those
    for _ in range(len(units)):
        parts, left = _filled(on_card, caches, [rooms[0] - kept_apart, *rooms[1:]])
        needed = sum(caches[place] for place in left) + max((in_host[place] for place in left), default=0)
        if needed <= kept_apart:
            break
        kept_apart = needed
    else:
        return None
    if kept_apart > rooms[0] or not any(units[place].cache_layer is not None for part in parts for place in part):
        return None
    shares = tuple(_share([(units[place], on_card[place]) for place in part]) for part in parts)
    host = _share([(units[place], in_host[place]) for place in left])
    return Split(shares, host, max((in_host[place] for place in left), default=0))


def left_unquantized(precision: Precision) -> Precision:
    """What a unit is held in beside a card: `unquantized`, in the dtype that options of a load chose."""
    plain = unquantized(precision)
    if plain is precision or plain.dtype == precision.dtype:
        return plain
    return next(row for row in PRECISIONS.values() if row.method == "cast" and row.dtype == precision.dtype)


def _filled(sizes: Sequence[int], caches: Sequence[int], rooms: Sequence[int]) -> tuple[list[list[int]], list[int]]:
    """Places by card, and those for which no card has room; once one is left, so are all that follow."""
    parts: list[list[int]] = [[] for _ in rooms]
    left: list[int] = []
    card, used = 0, 0
    for place, size in enumerate(sizes):
        need = size + caches[place]
        while card < len(rooms) and used + need > rooms[card]:
            card, used = card + 1, 0
        if card == len(rooms):
            left.append(place)
        else:
            parts[card].append(place)
            used += need
    return parts, left


def _share(held: Iterable[tuple[Unit, int]]) -> Share:
    items = list(held)
    layers = tuple(unit.cache_layer for unit, _ in items if unit.cache_layer is not None)
    return Share(tuple(unit.name for unit, _ in items), sum(size for _, size in items), layers)


def _unit_of(name: str, blocks: set[str]) -> str:
    parts = name.split(".")
    for end in range(1, len(parts)):
        if (prefix := ".".join(parts[:end])) in blocks:
            return prefix
    return ".".join(parts[:-1]) or name


def _cache_layers(inventory: Inventory) -> dict[str, int]:
    """Blocks of the decoder by name → place in the cache's list of layers."""
    places = {place for layer in inventory.cache for place in layer.layers}
    stacks: dict[str, dict[str, int]] = {}
    for block in inventory.blocks:
        stack, _, number = block.rpartition(".")
        if number.isdigit():
            stacks.setdefault(stack, {})[block] = int(number)
    decoders = {stack: blocks for stack, blocks in stacks.items() if not _TOWERS.search(stack)} or stacks
    if not decoders:
        return {}
    decoder = max(decoders.values(), key=len)
    return {block: number for block, number in decoder.items() if number in places}


def _nameless(spec: TensorSpec) -> TensorSpec:
    return TensorSpec("", spec.shape, spec.role, spec.fixed_dtype, spec.float32_in, spec.rows, spec.transposed)
