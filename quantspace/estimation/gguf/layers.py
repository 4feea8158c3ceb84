"""Where llama.cpp puts the layers of a file: how many fit the cards, the last ones first. Pure arithmetic.

`--n-gpu-layers N` puts the last N of layers and output on the cards, the output being the last of all; keys and
values go with their layer, and the input stays in system memory. Several cards share those N evenly by number where
they have as much memory (`--split-mode layer`). Source: `load_tensors` in llama.cpp's `src/llama-model.cpp`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from ..placement import Share, Split
from .file import GgufFile


def slots(file: GgufFile) -> int:
    """Layers that can be put on a card, the output being one of them."""
    return len(file.layers) + 1


def over_gpus(file: GgufFile, cards: int, places: frozenset[int], count: int | None = None) -> tuple[Share, ...]:
    """What each of `cards` like cards holds when `count` layers are put on them; all of them where it is `None`.

    Args:
        places: of layers that have a cache.
    """
    count = slots(file) if count is None else count
    first = slots(file) - count
    members: list[list[int]] = [[] for _ in range(cards)]
    for place in range(first, slots(file)):
        members[(place - first) * cards // count].append(place)
    return tuple(_share(file, held, places) for held in members)


def partly(file: GgufFile, cards: int, room: int, caches: Sequence[int]) -> Split | None:
    """As many layers on the cards as fit, the rest in system memory; `None` where not one fits.

    Args:
        room: bytes that each card has for weights and cache.
        caches: bytes of cache by layer; layers past its end have none.
    """
    count = most_layers(file, cards, room, caches)
    if not count:
        return None
    places = frozenset(place for place, held in enumerate(caches) if held)
    left = list(range(slots(file) - count))
    return Split(over_gpus(file, cards, places, count), _share(file, left, places), 0)


def most_layers(file: GgufFile, cards: int, room: int, caches: Sequence[int]) -> int:
    """The largest number of layers of which each card's part fits its room."""
    padded = [*caches[: len(file.layers)], *[0] * (slots(file) - len(caches))]
    sizes = [weights + cache for weights, cache in zip((*file.layers, file.output), padded, strict=True)]
    before = [0, *accumulate(sizes)]
    for count in range(slots(file), 0, -1):
        first = slots(file) - count
        ends = [first - (-card * count // cards) for card in range(cards + 1)]
        if all(before[end] - before[start] <= room for start, end in pairwise(ends)):
            return count
    return 0


def on_gpus(split: Split) -> int:
    """How many layers of a split are on the cards: what `--n-gpu-layers` is given."""
    return sum(len(share.names) for share in split.cards)


def _share(file: GgufFile, members: Sequence[int], places: frozenset[int]) -> Share:
    output = len(file.layers)
    names = tuple("output" if place == output else f"blk.{place}" for place in members)
    weights = sum(file.output if place == output else file.layers[place] for place in members)
    return Share(names, weights, tuple(place for place in members if place in places))
