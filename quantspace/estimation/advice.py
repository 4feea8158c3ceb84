"""What to buy or choose: the smallest hardware for a model, and the models for a card. Pure arithmetic.

Every verdict is that of `fit.py`, asked of more hardware or of more models. How fast it would be is for
`speed.py`, and left to whoever shows the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..hub.catalogue import bundled_models
from ..precision import PRECISIONS, Precision, find_precision
from ..settings import settings
from .bundled import bundled_inventory
from .demand import Demand, largest
from .fit import PREFERENCE, FitRow, applies, demand_of, fit, held_as, preference
from .gguf.rows import file_precisions
from .hardware import Gpu
from .inventory import Inventory
from .offers import Offer, cards, dedicated_flavors, flavors, machines
from .verdict import Verdict, verdict_of
from .weights import weight_bytes
from .workload import Hardware, Workload

ADVISED = ("native", "bf16", "int8", "nf4-dq", "nf4-moe")


@dataclass(frozen=True)
class Choice:
    """Hardware on which a model fits at one precision; `row` is the verdict there, with figures and reason."""

    offer: Offer
    row: FitRow = field(repr=False)

    def as_data(self) -> dict[str, Any]:
        """The choice as JSON takes it; bytes are integers over all cards."""
        offer, row = self.offer, self.row
        return {
            "gpu": offer.gpu.id,
            "name": offer.gpu.name,
            "count": offer.count,
            "flavor": offer.flavor.name if offer.flavor else None,
            "usd_per_hour": offer.usd_per_hour,
            "needed_bytes": row.total_bytes,
            "usable_bytes": row.usable_bytes,
            "free_bytes": row.free_bytes,
            "max_context": row.max_context,
            "verdict": row.verdict,
            "reason": row.reason,
            "note": offer.note,
        }


@dataclass(frozen=True)
class Advice:
    """The smallest hardware on which one precision of a model fits with the margin of `fits`.

    Attributes:
        card: one card if there is one, else the fewest like cards; of those the one with least memory, then
            the cheapest by the hour on Spaces.
        space: the flavor of Spaces with the lowest price an hour; ZeroGPU counts as free.
        dedicated: the cheapest flavor that is billed by the hour and is the Space's own.
        also: the smallest Apple machine and the smallest processor's memory.
        reason: why there is no card, with the largest that was tried; empty where there is one.
    """

    precision: Precision
    card: Choice | None
    space: Choice | None
    dedicated: Choice | None
    also: tuple[Choice, ...] = ()
    reason: str = ""

    def as_data(self) -> dict[str, Any]:
        """The advice as JSON takes it."""
        choices = {name: getattr(self, name) for name in ("card", "space", "dedicated")}
        return {
            "precision": self.precision.id,
            "label": self.precision.label,
            **{name: choice.as_data() if choice else None for name, choice in choices.items()},
            "also": [choice.as_data() for choice in self.also],
            "reason": self.reason,
        }


def smallest_gpus(
    inventory: Inventory, workload: Workload, precision_ids: Sequence[str] = ADVISED
) -> tuple[Advice, ...]:
    """The smallest hardware for a model and a workload, precision by precision.

    Args:
        precision_ids: those that mean nothing for this model are left out (`fit.applies`). Of a repository of
            GGUF files the largest, the middle and the smallest one stand instead.

    Raises:
        BadInput: there is no such precision.
    """
    precisions = [precision for precision in map(find_precision, precision_ids) if applies(precision, inventory)]
    if inventory.source_kind == "gguf":
        files = list(file_precisions(inventory).values())
        precisions = [files[place] for place in sorted({0, len(files) // 2, len(files) - 1})]
    return tuple(_advice(inventory, precision, workload) for precision in precisions)


@dataclass(frozen=True)
class Ranked:
    """A model that a card holds, at the most faithful precision that fits, else that is tight.

    Attributes:
        parameters: of the whole model.
        active_parameters: that each token passes: all but the routed experts it doesn't visit.
        needed_bytes: over all cards; `free_bytes` likewise.
        max_context: tokens of each sequence that fit, at most as many as the model was made for.
        notes: what people should know about these figures.
        also: other bundled models of the same class for which every figure is the same.
    """

    inventory: Inventory = field(repr=False)
    precision: Precision
    verdict: Verdict
    reason: str
    needed_bytes: int
    free_bytes: int
    max_context: int
    notes: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def model_id(self) -> str:
        return self.inventory.model_id

    @property
    def parameters(self) -> int:
        return self.inventory.parameters

    @property
    def active_parameters(self) -> int:
        return active_parameters(self.inventory)

    def as_data(self) -> dict[str, Any]:
        """The row as JSON takes it."""
        return {
            "model": self.model_id,
            "parameters": self.parameters,
            "active_parameters": self.active_parameters,
            "precision": self.precision.id,
            "label": self.precision.label,
            "verdict": self.verdict,
            "reason": self.reason,
            "needed_bytes": self.needed_bytes,
            "free_bytes": self.free_bytes,
            "max_context": self.max_context,
            "notes": list(self.notes),
            "also": list(self.also),
        }


@dataclass(frozen=True)
class WhatFits:
    """The bundled models that a card holds, the largest first.

    Attributes:
        too_large: models that fit at no precision.
        unread: bundled models of which no inventory is stored for the installed transformers.
    """

    hardware: Hardware
    workload: Workload
    ranked: tuple[Ranked, ...]
    too_large: int
    unread: int = 0

    def as_data(self) -> dict[str, Any]:
        """The ranking as JSON takes it."""
        return {
            "gpu": self.hardware.gpu.id,
            "count": self.hardware.count,
            "usable_bytes": self.hardware.usable_bytes,
            "context": self.workload.context,
            "batch": self.workload.batch,
            "models": [row.as_data() for row in self.ranked],
            "too_large": self.too_large,
            "unread": self.unread,
        }


def what_fits(gpu: Gpu, count: int, workload: Workload, inventories: Iterable[Inventory] | None = None) -> WhatFits:
    """The models for `count` like cards: by parameters, and among equals the more faithful precision first.

    Args:
        inventories: of the models to rank; the bundled ones unless they are given.
    """
    hardware = Hardware(gpu, count)
    unread = 0
    if inventories is None:
        stored = [bundled_inventory(model_id) for model_id in bundled_models()]
        inventories = [inventory for inventory in stored if inventory is not None]
        unread = stored.count(None)
    rows = [_ranked(inventory, hardware, workload) for inventory in inventories]
    fitting = sorted(filter(None, rows), key=lambda row: (-row.parameters, PREFERENCE.index(row.precision.id)))
    return WhatFits(hardware, workload, tuple(_alike_grouped(fitting)), rows.count(None), unread)


def active_parameters(inventory: Inventory) -> int:
    """Parameters that one token passes: all, less the share of the fused experts that it does not visit."""
    if not inventory.experts:
        return inventory.parameters
    idle = inventory.experts - min(inventory.experts_per_token, inventory.experts)
    return inventory.parameters - inventory.expert_elements * idle // inventory.experts


def _advice(inventory: Inventory, precision: Precision, workload: Workload) -> Advice:
    def first(offers: Iterable[Offer]) -> Choice | None:
        for offer in offers:
            hardware = Hardware(offer.gpu, offer.count)
            if _verdict(inventory, precision, hardware, workload) == "fits":
                return Choice(offer, fit(inventory, precision, hardware, workload))
        return None

    card = first(cards())
    return Advice(
        precision=precision,
        card=card,
        space=first(flavors()),
        dedicated=first(dedicated_flavors()),
        also=tuple(filter(None, (first(machines(kind)) for kind in ("apple", "cpu")))),
        reason="" if card else _none_reason(inventory, precision, workload),
    )


def _verdict(inventory: Inventory, precision: Precision, hardware: Hardware, workload: Workload) -> Verdict:
    demand = _demand(inventory, precision, hardware, workload)
    if demand is None:
        return "no"
    return verdict_of(demand.total(workload.context, workload.batch), hardware.usable_bytes, hardware.count)[0]


def _none_reason(inventory: Inventory, precision: Precision, workload: Workload) -> str:
    most = max(cards(), key=lambda offer: offer.usable_bytes)
    row = fit(inventory, precision, Hardware(most.gpu, most.count), workload)
    return f"On {most.count} × {most.gpu.name}, the most there is here: {row.reason}"


def _ranked(inventory: Inventory, hardware: Hardware, workload: Workload) -> Ranked | None:
    """The row of the precision that `fit.recommend` picks, without laying out those after it."""
    tight: Ranked | None = None
    for precision in (PRECISIONS[precision_id] for precision_id in preference(inventory, hardware.gpu)):
        demand = _demand(inventory, precision, hardware, workload)
        if demand is None:
            continue
        needed = demand.total(workload.context, workload.batch)
        verdict, reason = verdict_of(needed, hardware.usable_bytes, hardware.count)
        if verdict == "fits":
            return _row(demand, verdict, reason, needed, hardware, workload)
        if verdict == "tight" and tight is None:
            tight = _row(demand, verdict, reason, needed, hardware, workload)
    return tight


def _row(demand: Demand, verdict: Verdict, reason: str, needed: int, hardware: Hardware, workload: Workload) -> Ranked:
    inventory, usable = demand.inventory, hardware.usable_bytes
    made_for = inventory.max_context or settings().max_context
    beyond = (f"Made for at most {made_for:,} tokens.",) if workload.context > made_for else ()
    return Ranked(
        inventory=inventory,
        precision=demand.precision,
        verdict=verdict,
        reason=reason,
        needed_bytes=needed,
        free_bytes=usable - needed,
        max_context=largest(lambda context: demand.total(context, workload.batch), usable, made_for),
        notes=(*inventory.notes, *beyond),
    )


def _demand(inventory: Inventory, precision: Precision, hardware: Hardware, workload: Workload) -> Demand | None:
    """The demand of a precision; `None` where it does not apply, or the weights alone are too much."""
    if not applies(precision, inventory) or (precision.method == "stored" and not inventory.native_runs):
        return None
    counted = held_as(precision, inventory, hardware.gpu)
    if weight_bytes(inventory, counted).held > hardware.usable_bytes:
        return None
    return demand_of(inventory, precision, hardware, workload)


def _alike_grouped(rows: Iterable[Ranked]) -> Iterator[Ranked]:
    """Copies and fine-tunes of a model as one row, under the first of their names."""
    groups: dict[tuple[Any, ...], list[Ranked]] = {}
    for row in rows:
        key = (row.inventory.architecture, row.parameters, row.precision.id, row.needed_bytes, row.max_context)
        groups.setdefault(key, []).append(row)
    for first, *others in groups.values():
        yield replace(first, also=tuple(other.model_id for other in others))
