"""What was measured beside what was promised: errors, verdicts that were false, the table in Markdown. No torch.

A *false fits* is the worst: the app said *fits* or *tight*, and memory ran out. Each cell is held against the
card that it ran on, and against every other GPU of the catalogue: what tensors took there they would take here.
A card has certainly too little where what was allocated and its context are more than it can give, and certainly
enough where what was reserved and its context are less; between the two, the allocator would have to tidy up.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from quantspace.errors import UnknownGpu
from quantspace.estimation.fit import Hardware, Workload, demand_of, fit, verdict_of
from quantspace.estimation.hardware import Gpu, find_gpu, gpus
from quantspace.estimation.inventory import Inventory
from quantspace.precision import Precision
from quantspace.units import gb

YES = ("fits", "tight")
WORST = 8  # cells that are named

Cell = dict[str, Any]  # model, precision, context, `predicted` and `measured`, as they are in the JSON


def card_for(name: str, total_bytes: int, cuda: bool) -> Gpu:
    """The catalogue's card of that name, or one with so much memory of which nothing else is known."""
    try:
        return find_gpu(name)
    except UnknownGpu:
        like = find_gpu("h200" if cuda else "cpu-basic")
        return replace(
            like, id="this-device", name=name, memory_bytes=total_bytes, usable_bytes=total_bytes, context_bytes=None,
            usable_source="measured here", context_source=None,
        )  # fmt: skip


def predicted(inventory: Inventory, precision: Precision, context: int, card: Gpu) -> Cell:
    """What the app promises for a chat of `context` tokens, part by part, in bytes."""
    row = fit(inventory, precision, Hardware(card), Workload(context))
    terms = row.terms()
    return {
        "card": card.id,
        "weights": row.weights.held,
        "cache": row.cache_bytes,
        "activations": {term.name: term.bytes for term in terms["activations"]},
        "overhead": {term.name: term.bytes for term in terms["overhead"]},
        "peak": row.weights.held + row.cache_bytes + row.activation_bytes,
        "total": row.total_bytes,
        "usable": row.usable_bytes,
        "verdict": row.verdict,
        "reason": row.reason,
    }


def off(cell: Cell, promised: str, measured: str) -> float | None:
    """Promised ÷ measured − 1; `None` where nothing was measured."""
    found = cell["measured"].get(measured)
    return cell["predicted"][promised] / found - 1 if found else None


def beside_weights(cell: Cell) -> tuple[int, int] | None:
    """Bytes of cache and activations, promised and measured."""
    found = cell["measured"]
    if not found.get("peak"):
        return None
    return cell["predicted"]["peak"] - cell["predicted"]["weights"], found["peak"] - found["held"]


def off_beside_weights(cell: Cell) -> float | None:
    """The error of cache and activations alone: promised ÷ measured − 1."""
    pair = beside_weights(cell)
    return pair[0] / pair[1] - 1 if pair and pair[1] else None


def false_verdict(cell: Cell) -> str | None:
    """`false fits` or `false no` of the cell on the very card that it ran on."""
    said, came = cell["predicted"]["verdict"], cell["measured"]["outcome"]
    if said in YES and came == "out of memory":
        return "false fits"
    return "false no" if said not in YES and came == "ran" else None


def false_elsewhere(cell: Cell, inventory: Inventory, precision: Precision) -> list[str]:
    """Cards of the catalogue for which the verdict would have been false, as `false fits on t4`."""
    found = cell["measured"]
    if found["outcome"] != "ran":
        return []
    false = []
    for card in gpus().values():
        if card.kind != "gpu":
            continue
        needed = demand_of(inventory, precision, Hardware(card), Workload(cell["context"])).total(cell["context"], 1)
        says_yes = verdict_of(needed, card.usable_bytes)[0] in YES
        room = card.usable_bytes - card.context_bytes_or_default
        at_least = max(found["peak"], found["load_peak"] or 0)
        if says_yes and at_least > room:
            false.append(f"false fits on {card.id}")
        if not says_yes and (found["reserved"] or found["peak"]) <= room:
            false.append(f"false no on {card.id}")
    return false


def markdown(cells: Sequence[Cell]) -> str:
    """The table, and what it comes to."""
    return "\n".join([*_table(cells), "", *summary(cells)])


def summary(cells: Sequence[Cell]) -> list[str]:
    """Median and worst errors, false verdicts, the worst cells by name."""
    ran = [cell for cell in cells if cell["measured"]["outcome"] == "ran"]
    outcomes = [cell["measured"]["outcome"] for cell in cells]
    counted = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in dict.fromkeys(outcomes))
    lines = [f"{len(cells)} cells: {counted}.", ""]
    for name, error in (
        ("peak allocated", lambda cell: off(cell, "peak", "peak")),
        ("cache and activations alone", off_beside_weights),
        ("process memory", lambda cell: off(cell, "total", "process")),
    ):
        lines += _errors(name, error, ran)
    lines += _verdicts(cells)
    named = sorted(
        (cell for cell in ran if off_beside_weights(cell) is not None), key=lambda cell: -abs(off_beside_weights(cell))
    )
    lines += ["", "Furthest off, of cache and activations:", *(f"* {_described(cell)}" for cell in named[:WORST])]
    failed = [cell for cell in cells if cell["measured"]["outcome"] not in ("ran", "skipped")]
    return [
        *lines,
        *(f"* {_place(cell)}: {cell['measured']['outcome']}: {cell['measured']['error']}" for cell in failed),
    ]


def _verdicts(cells: Sequence[Cell]) -> list[str]:
    if not any(cell["measured"].get("process") for cell in cells):
        return ["* No verdict was put to the test: that takes a GPU, for a CPU has kernels of its own."]
    here = [false_verdict(cell) for cell in cells]
    elsewhere = [verdict for cell in cells for verdict in cell["elsewhere"]]
    return [
        f"* {kind}: {here.count(kind)} on the card itself, "
        f"{sum(verdict.startswith(kind) for verdict in elsewhere)} on the other cards of the catalogue"
        for kind in ("false fits", "false no")
    ]


def _errors(name: str, error: Callable[[Cell], float | None], cells: Iterable[Cell]) -> list[str]:
    by_precision: dict[str, list[float]] = {}
    for cell in cells:
        if (found := error(cell)) is not None:
            by_precision.setdefault(cell["precision"], []).append(found)
            by_precision.setdefault("all", []).append(found)
    lines = []
    for precision, offs in sorted(by_precision.items()):
        median = statistics.median(map(abs, offs))
        lines.append(
            f"* {name}, {precision}: {len(offs)} cells, median {median:.2%} off, "
            f"from {min(offs):+.1%} (too little) to {max(offs):+.1%}"
        )
    return lines


def _table(cells: Iterable[Cell]) -> list[str]:
    head = (
        "Model", "Precision", "Context", "Verdict", "Outcome", "Peak promised", "Peak measured", "Off",
        "Off beside weights", "Total promised", "Process measured", "Off",
    )  # fmt: skip
    return [_row(head), _row(["---"] * len(head)), *(_row(_values(cell)) for cell in cells)]


def _values(cell: Cell) -> list[str]:
    promised, found = cell["predicted"], cell["measured"]
    return [
        cell["model"], cell["precision"], f"{cell['context']:,}", promised["verdict"], found["outcome"],
        gb(promised["peak"]), _bytes(found.get("peak")), _percent(off(cell, "peak", "peak")),
        _percent(off_beside_weights(cell)), gb(promised["total"]), _bytes(found.get("process")),
        _percent(off(cell, "total", "process")),
    ]  # fmt: skip


def _described(cell: Cell) -> str:
    promised, found = beside_weights(cell)
    parts = {"cache": cell["predicted"]["cache"], **cell["predicted"]["activations"]}
    largest = ", ".join(f"{name} {gb(count)}" for name, count in sorted(parts.items(), key=lambda part: -part[1])[:3])
    return f"{_place(cell)}: {off_beside_weights(cell):+.1%} ({gb(promised)} promised, {gb(found)} measured; {largest})"


def _place(cell: Cell) -> str:
    return f"{cell['model']} {cell['precision']} at {cell['context']:,}"


def _ending(cell: Cell) -> str:
    return f"{cell['measured']['outcome']}: {cell['measured']['error']}"


def _row(values: Iterable[str]) -> str:
    return f"| {' | '.join(values)} |"


def _bytes(count: int | None) -> str:
    return "" if count is None else gb(count)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1%}"
