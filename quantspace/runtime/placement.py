"""Where the modules of a model go: as its row promises, within limits, or as a map says that somebody wrote.

Every way ends in a map that names each block, and each module outside of the blocks: transformers matches names
of a map from their beginning (`integrations/accelerate.py`, `expand_device_map`), so that `layers.1` alone would
take `layers.11` along. Nothing here imports torch; `options.py` hands the map to `from_pretrained`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from ..errors import BadInput, shorten
from ..estimation.fit import fit
from ..estimation.inventory import Inventory
from ..estimation.placement import Split, Unit, layout, left_unquantized, offload, over_cards, unit_bytes
from ..estimation.weights import store
from ..estimation.workload import Workload
from ..precision import Precision
from ..settings import settings
from ..units import gb
from .device_text import OFF_CARD, REST, Limits, Pairs
from .machine import Machine

_IN_ORDER = (*(f"cuda:{number}" for number in range(100)), *OFF_CARD)


def by_hand(pairs: Pairs, inventory: Inventory, precision: Precision, here: Machine) -> Pairs:
    """The whole map that `pairs` stand for: a device for each block, and for each module outside of them.

    Raises:
        BadInput: a name is no module's, or lies within a block; a module has no device; a device is not here;
            nothing would compute; or two modules that share a weight are apart.
    """
    units = _units(inventory, precision)
    _check_devices((device for _, device in pairs), here)
    named = dict(pairs)
    for name in named:
        if name != REST:
            _check_name(name, units)
    placed = {unit.name: _nearest(unit.name, named) for unit in units}
    missing = [name for name, device in placed.items() if device is None]
    if missing:
        raise BadInput(
            f"The device map has no device for {_counted(missing)}, such as {missing[0]}.",
            "Add a line for them, or `*: cpu` for everything that no other line names.",
        )
    found = {name: str(device) for name, device in placed.items()}
    _check_whole(found, units)
    return tuple(found.items())


def by_limits(limits: Limits, inventory: Inventory, precision: Precision, here: Machine) -> Pairs:
    """The map that fills the cards up to their limits, then system memory, then the disk, in the model's order.

    A device that has no limit may hold what it has free; the disk holds nothing unless it has one. The first
    device that computes keeps room for the largest module that is fetched from elsewhere.

    Raises:
        BadInput: the limits are too tight, or a device is not here.
    """
    _check_devices((device for device, _ in limits), here)
    given = dict(limits)
    host = given.get("cpu", here.host_bytes)
    if here.card is None:
        split = _split(inventory, precision, [host])
        return _joined(
            inventory, precision, ["cpu"], split, _spill(split, inventory, precision, {"disk": given.get("disk", 0)})
        )
    cards = [f"cuda:{number}" for number in range(here.cards)]
    split = _split(inventory, precision, [given.get(card, here.card.usable_bytes) for card in cards])
    beyond = {"cpu": host, "disk": given.get("disk", 0)}
    return _joined(inventory, precision, cards, split, _spill(split, inventory, precision, beyond))


def as_promised(inventory: Inventory, precision: Precision, here: Machine, workload: Workload | None = None) -> Pairs:
    """The map of the row that the fit table shows for this machine; empty where all is on one device.

    With several cards that are layers over all of them, with too little memory on them layers in system memory.
    """
    if here.hardware is None or here.zero_gpu or inventory.prequantized or precision.experts:
        return ()
    row = fit(inventory, precision, here.hardware, workload or Workload(settings().default_context))
    cards = [f"cuda:{number}" for number in range(here.cards)]
    if row.split is not None:
        return _joined(inventory, precision, cards, row.split, dict.fromkeys(row.split.host.names, "cpu"))
    if here.cards == 1 or row.verdict == "no":
        return ()
    alone = fit(inventory, precision, Machine(here.card, 1).hardware, row.workload)  # type: ignore[arg-type]
    if alone.verdict in ("fits", "tight"):  # one card answers faster than several that wait for each other
        return ()
    shares = over_cards(inventory, precision, here.cards)
    return tuple((name, card) for card, share in zip(cards, shares, strict=True) for name in share.names)


def off_card(pairs: Pairs, here: Machine) -> tuple[str, ...]:
    """Modules that a card does not hold, where there is one: bitsandbytes leaves them unquantized."""
    if here.card is None or len({device for _, device in pairs}) < 2:
        return ()
    return tuple(name for name, device in pairs if device in OFF_CARD)


def main_device(devices: Iterable[str]) -> str:
    """Where modules are computed that are fetched when needed: the first card of a map, else the processor."""
    return min((device for device in devices if device not in OFF_CARD), key=_IN_ORDER.index, default="cpu")


def held_by_device(inventory: Inventory, precision: Precision, pairs: Pairs) -> tuple[tuple[str, int], ...]:
    """Bytes of weights, quantization constants included, that the map puts on each device.

    Buffers are not left elsewhere: those of modules that are fetched when needed stay where these are computed.

    Args:
        precision: with what is not quantized left out already (`Precision.with_options`).
    """
    devices = dict(pairs)
    computing = main_device(devices.values())
    held: Counter[str] = Counter()
    for spec in inventory.native if precision.method == "stored" else inventory.tensors:
        device = _nearest(spec.name, devices) or ""
        at = computing if spec.role == "buffer" and device in OFF_CARD else device
        held[at] += store(spec, precision).held_bytes
    return tuple((device, held[device]) for device in sorted(held, key=_IN_ORDER.index))


def _units(inventory: Inventory, precision: Precision) -> tuple[Unit, ...]:
    return layout(inventory, precision.method == "stored").units


def _split(inventory: Inventory, precision: Precision, rooms: Sequence[int]) -> Split:
    places = [place for layer in inventory.cache for place in layer.layers]
    no_cache = [0] * (max(places, default=-1) + 1)
    split = offload(inventory, precision, rooms, no_cache)
    if split is None:
        largest = max(held for _, held in unit_bytes(inventory, precision))
        raise BadInput(
            f"Not one block fits within {gb(sum(rooms))} beside room for the largest module that is fetched from "
            "elsewhere.",
            f"The largest module holds {gb(largest)}: allow a few times that, or choose a smaller precision.",
        )
    return split


def _spill(split: Split, inventory: Inventory, precision: Precision, rooms: Mapping[str, int]) -> dict[str, str]:
    """Where what the computing devices don't hold goes: each device up to its room, in order."""
    units = _units(inventory, precision)
    sizes = dict(zip((u.name for u in units), unit_bytes(inventory, left_unquantized(precision)), strict=True))
    devices, free = list(rooms), dict(rooms)
    found: dict[str, str] = {}
    for name in split.host.names:
        while devices and sizes[name][1] > free[devices[0]]:
            del devices[0]
        if not devices:
            short = split.host.weights - sum(rooms.values())
            where = " and ".join(f"{gb(room)} on {device}" for device, room in rooms.items())
            raise BadInput(
                f"{gb(split.host.weights)} are left over, and the limits allow {where}: {gb(max(short, 0))} short.",
                "Raise a limit, or allow the disk: `disk: 100 GB`. It is slow, but it has room.",
            )
        free[devices[0]] -= sizes[name][1]
        found[name] = devices[0]
    return found


def _joined(
    inventory: Inventory, precision: Precision, cards: Sequence[str], split: Split, beyond: Mapping[str, str]
) -> Pairs:
    placed = {name: card for card, share in zip(cards, split.cards, strict=True) for name in share.names} | dict(beyond)
    units = _units(inventory, precision)
    for unit in units:
        if unit.beside in placed:
            placed[unit.name] = placed[unit.beside]
    return tuple((unit.name, placed[unit.name]) for unit in units)


def _check_devices(devices: Iterable[str], here: Machine) -> None:
    for device in devices:
        if device not in here.devices:
            raise BadInput(f"There is no {device} on this machine.", f"It has {', '.join(here.devices)}.")


def _check_name(name: str, units: Sequence[Unit]) -> None:
    if any(_within(unit.name, name) for unit in units):
        return
    block = next((unit.name for unit in units if _within(name, unit.name)), None)
    if block:
        raise BadInput(f"{name} lies within {block}, which is kept whole.", f"Give {block} a device instead.")
    known = {".".join(unit.name.split(".")[: end + 1]) for unit in units for end in range(unit.name.count(".") + 1)}
    near = get_close_matches(name, known, n=1, cutoff=0.3)
    example = near[0] if near else units[0].name
    raise BadInput(f"No module of this model is named “{shorten(name, 60)}”.", f"The nearest is {example}.")


def _check_whole(found: Mapping[str, str], units: Sequence[Unit]) -> None:
    if set(found.values()) == {"disk"}:
        raise BadInput("All of it would be on the disk, where nothing computes.", "Give a module to cpu or a GPU.")
    computing = main_device(found.values())
    first = units[0].name  # transformers takes its device for that of the prompt
    if found[first] in OFF_CARD and found[first] != computing:
        raise BadInput(
            f"{first} is the first to see a prompt, and cannot be fetched from {found[first]}.",
            f"Put it on {computing}.",
        )
    for unit in units:
        if unit.beside and found[unit.name] != found[unit.beside]:
            raise BadInput(
                f"{unit.name} shares its weight with {unit.beside}, and the device map puts them apart.",
                f"Put both on {found[unit.beside]}.",
            )


def _nearest(name: str, devices: Mapping[str, str]) -> str | None:
    """The device of a module, or of the nearest module around it that has one."""
    around = name
    while around and around not in devices:
        around = around.rpartition(".")[0]
    return devices.get(around, devices.get(REST))


def _within(name: str, around: str) -> bool:
    return name == around or name.startswith(f"{around}.")


def _counted(names: Sequence[str]) -> str:
    return "1 module" if len(names) == 1 else f"{len(names):,} modules"
