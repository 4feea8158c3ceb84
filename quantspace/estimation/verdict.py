"""From bytes needed to a verdict with its reason: fits, tight, offload or no. Pure arithmetic."""

from __future__ import annotations

from typing import Literal

from ..units import gb
from .demand import Bytes, Demand
from .gguf.file import GgufFile
from .gguf.layers import on_gpus, partly, slots
from .placement import Split, offload
from .weights import unquantized
from .workload import Hardware, Workload

Verdict = Literal["fits", "tight", "offload", "no"]

TIGHT_PERCENT = 5  # of usable memory: less than this free is called tight
HOST_ALLOWANCE = 2 * 10**9  # of system memory: the system itself, Python and its libraries


def verdict_of(needed: int, usable: int, cards: int = 1) -> tuple[Verdict, str]:
    """`fits`, `tight` or `no` of bytes needed against bytes usable, with the reason.

    Args:
        cards: over which both are taken; the fullest decides, and the reason speaks of it.
    """
    needed, usable = -(-needed // cards), usable // cards
    free = usable - needed
    who = "Needs" if cards == 1 else f"The fullest of {cards} cards needs"
    if free < 0:
        return "no", f"{who} {gb(needed)} against {gb(usable)} usable: {gb(-free)} short."
    if 100 * free < TIGHT_PERCENT * usable:
        return "tight", f"{who} {gb(needed)} of {gb(usable)}: {gb(free)} free, under the {TIGHT_PERCENT}% margin."
    return "fits", f"{who} {gb(needed)} of {gb(usable)}: {gb(free)} free."


def verdict_on(
    demand: Demand, needed: Bytes, hardware: Hardware, workload: Workload
) -> tuple[Verdict, str, Split | None]:
    """The verdict of a demand on its hardware, with the split where some layers stay in system memory."""
    usable = hardware.usable_bytes
    verdict, reason = verdict_of(needed.total, usable, hardware.count)
    if verdict != "no":
        return verdict, reason, None
    short = f"{gb(needed.total - usable)} short in all"
    if needed.weights > usable:
        reason = f"The weights alone hold {gb(needed.weights)} against {gb(usable)} usable; {short}."
    elif hardware.count == 1:
        reason = f"Needs {gb(needed.total)} against {gb(usable)} usable: {short}, though the weights fit."
    room_in_host = hardware.host_bytes - HOST_ALLOWANCE
    if hardware.gpu.kind != "gpu" or room_in_host <= 0:
        return "no", reason, None
    if demand.file is not None:
        return _file_in_part(demand, demand.file, hardware, workload, room_in_host, reason)
    split = _split(demand, hardware, workload, room_in_host)
    if split is None:
        return "no", reason, None
    if not split.host.weights:
        return "no", f"{reason} Placed by hand (`max_memory`), layers would go on the cards all the same.", None
    held = gb(split.host.weights)
    if unquantized(demand.precision) is not demand.precision:
        held += ", which bitsandbytes leaves in 16 bits"
    if split.host.weights > room_in_host:
        wanted = f"{gb(split.host.weights + HOST_ALLOWANCE)} of system memory, of which there are"
        return "no", f"{reason} To offload takes {wanted} {gb(hardware.host_bytes)} ({held}).", None
    blocks = sum(len(share.cache_layers) for share in split.cards)
    layers = blocks + len(split.host.cache_layers)
    where = f"{blocks} of {layers} layers on the GPU and the rest in system memory ({held})"
    return "offload", f"{reason} Runs with {where}, copied over for every token.", split


def _split(demand: Demand, hardware: Hardware, workload: Workload, room_in_host: int) -> Split | None:
    if demand.weights.held - hardware.usable_bytes > room_in_host:
        return None  # what can't be held anywhere need not be laid out
    room = hardware.gpu.usable_bytes - demand.fixed_on_a_card(workload.context, workload.batch)
    if room <= 0:
        return None
    caches = demand.cache_by_layer(workload.context, workload.batch)
    return offload(demand.inventory, demand.precision, [room] * hardware.count, caches)


def _file_in_part(
    demand: Demand, file: GgufFile, hardware: Hardware, workload: Workload, room_in_host: int, reason: str
) -> tuple[Verdict, str, Split | None]:
    """A GGUF file with as many layers on the cards as fit: the processor computes the rest from system memory."""
    caches = demand.cache_by_layer(workload.context, workload.batch)
    room = hardware.gpu.usable_bytes - demand.fixed_on_a_card(workload.context, workload.batch)
    split = partly(file, hardware.count, room, caches) if file.layers else None
    if split is None:
        return "no", f"{reason} Not one layer fits beside what is needed anyhow.", None
    in_host = split.host.weights + file.input + sum(caches[place] for place in split.host.cache_layers)
    if in_host > room_in_host:
        wanted = f"{gb(in_host + HOST_ALLOWANCE)} of system memory, of which there are {gb(hardware.host_bytes)}"
        return "no", f"{reason} {on_gpus(split)} of {slots(file)} layers would fit; the rest takes {wanted}.", None
    where = f"{on_gpus(split)} of {slots(file)} layers on the GPU (--n-gpu-layers {on_gpus(split)})"
    return "offload", f"{reason} Runs with {where}, the rest computed from system memory ({gb(in_host)}).", split
