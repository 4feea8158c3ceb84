"""Bytes of optimizer states, tensor by tensor, as the libraries allocate them. Pure arithmetic.

Sources: `torch/optim/adam.py` (`Adam._init_group`) and `bitsandbytes/optim/optimizer.py`
(`Optimizer2State.init_state`, `Optimizer8bit.get_state_buffer`). What a step needs for a moment is not here:
the fused AdamW that transformers' `Trainer` takes by default needs nothing, the `foreach` one a copy of all
second moments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...formula import Formula, Term

OPTIMIZERS = {
    "adamw": "AdamW (torch)",
    "adamw-8bit": "AdamW 8-bit (bitsandbytes)",
    "paged-adamw-8bit": "Paged AdamW 8-bit (bitsandbytes)",
    "sgd": "SGD without momentum (torch)",
}

SMALL = 4096  # elements: smaller tensors keep float32 states (`min_8bit_size`)
BLOCK = 256  # elements that share one float32 absmax
PAGED = 100_000  # elements: smaller tensors are never paged
TABLES = 2 * 256 * 4  # bytes of the two maps from 8 bits to values, shared by all tensors

_MOMENTS = Formula("2 * elements * size + 4 * tensors", elements="values", size="B", tensors="steps")
_EIGHT_BIT = Formula(
    "2 * elements + 2 * 4 * blocks + 2 * 4 * small + tables",
    elements="values", blocks="blocks", small="values_in_small_tensors", tables="B",
)  # fmt: skip
_IN_USE = Formula("2 * elements", elements="values")

Tensors = Mapping[tuple[int, int], int]  # (elements, bytes an element) of a trained tensor → how many such


@dataclass(frozen=True, slots=True)
class OptimizerBytes:
    """What an optimizer holds.

    Attributes:
        terms: of what must be on the card; their sum is `on_card`.
        paged: bytes that may leave the card for system memory where the card is full.
        tensors: separate allocations on the card.
    """

    terms: tuple[Term, ...]
    paged: int
    tensors: int

    @property
    def on_card(self) -> int:
        return sum(term.bytes for term in self.terms)


def optimizer_bytes(optimizer: str, trained: Tensors) -> OptimizerBytes:
    """States of one of `OPTIMIZERS` for tensors that are trained.

    Paged states live in memory that the driver moves: only the one in use has to be on the card, the largest
    at most.
    """
    if optimizer == "sgd":
        return OptimizerBytes((), 0, 0)
    if optimizer == "adamw":
        return _adamw(trained)
    return _adamw_8bit(trained, paged=optimizer.startswith("paged"))


def _adamw(trained: Tensors) -> OptimizerBytes:
    note = "torch/optim/adam.py: both moments in the dtype of the weight, and a float32 step count a tensor"
    by_size: dict[int, list[int]] = {}
    for (elements, size), count in trained.items():
        held = by_size.setdefault(size, [0, 0])
        held[0] += elements * count
        held[1] += count
    terms = tuple(
        Term("AdamW states", _MOMENTS, {"elements": elements, "size": size, "tensors": tensors}, note)
        for size, (elements, tensors) in sorted(by_size.items())
    )
    return OptimizerBytes(terms, 0, 3 * sum(trained.values()))


def _adamw_8bit(trained: Tensors, paged: bool) -> OptimizerBytes:
    resident = blocks = small = in_8bit = away = largest = 0
    for (elements, _), count in trained.items():
        if elements < SMALL:
            small += elements * count
            continue
        in_8bit += count
        blocks += count * -(-elements // BLOCK)
        if paged and elements >= PAGED:
            away += elements * count
            largest = max(largest, elements)
        else:
            resident += elements * count
    note = (
        f"bitsandbytes/optim/optimizer.py: 8 bits a moment and an absmax a block of {BLOCK}; float32 below "
        f"{SMALL:,} elements"
    )
    tables = TABLES if in_8bit else 0
    operands = {"elements": resident, "blocks": blocks, "small": small, "tables": tables}
    terms = [Term("8-bit AdamW states", _EIGHT_BIT, operands, note)]
    if largest:
        terms.append(Term("largest paged state, while it is updated", _IN_USE, {"elements": largest}))
    return OptimizerBytes(tuple(terms), 2 * away, 2 * sum(trained.values()) + 2 * in_8bit)
