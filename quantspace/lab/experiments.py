"""What can be asked of the Lab and what comes of it: plain data that crosses to a process of its own and back.

The page reads this file, so PyTorch is imported only where an experiment runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from ..errors import BadInput, shorten
from ..runtime.job import Failed, Phase

Kind = Literal["lstm", "transformer", "demo"]
KINDS: dict[Kind, str] = {
    "lstm": "LSTM(10, 20, 2) + Linear(20, 5)",
    "transformer": "Linear-only transformer",
    "demo": "The demo chat model",
}
FILES = ("fp32.pt", "q8.pt")  # before and after; a file's name is part of it
BITS = (4, 3, 2)
GROUPS = {64: "64 weights", 32: "32 weights", 0: "one row"}
SPARSITIES = tuple(tenths / 10 for tenths in range(1, 10))
MOST_STEPS = 300
AS_IS, PTQ, QAT, CONTROL = (
    "as it is, bf16",
    "rounded after training (PTQ)",
    "trained to be rounded (QAT)",
    "trained as long unrounded, then rounded",
)


@dataclass(frozen=True, slots=True)
class Shrunk:
    """One model before and after dynamic int8.

    Attributes:
        saved_before: bytes of its file in fp32; `saved_after` in int8.
        held_bytes: of all parameters and buffers in fp32; `left_bytes` of those that stay so, embeddings for one.
        difference: the largest between an output before and after; `scale` is the largest output before.
        seconds_before: of the quickest pass; `seconds_after` in int8.
        loss_before: mean cross-entropy on the lessons, for the model that has learned some.
    """

    kind: Kind
    saved_before: int
    saved_after: int
    held_bytes: int
    left_bytes: int
    difference: float
    scale: float
    seconds_before: float
    seconds_after: float
    loss_before: float | None = None
    loss_after: float | None = None


@dataclass(frozen=True, slots=True)
class DynamicResult:
    """`engine` is PyTorch's name of the kernels that ran."""

    engine: str
    rows: tuple[Shrunk, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerState:
    """One layer in one of the states that pruning takes it through.

    Attributes:
        held_bytes: of its storages in memory; `saved_bytes` of its file.
        nonzero: share of weights that are not zero, from 0 to 1.
        seconds: of the quickest pass.
    """

    name: str
    held_bytes: int
    saved_bytes: int
    nonzero: float
    seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class PrunedModel:
    """The demo model with a share of its feed-forward weights pruned, each way.

    Attributes:
        loss_scattered: with the smallest weights zeroed wherever they are; `loss_rebuilt` without whole neurons.
        held_zeroed: bytes in memory with the zeros in place; `held_rebuilt` without the neurons.
    """

    sparsity: float
    loss_scattered: float
    loss_rebuilt: float
    right_scattered: float
    right_rebuilt: float
    held_zeroed: int
    held_rebuilt: int


@dataclass(frozen=True, slots=True)
class PruningResult:
    """`loss`, `right` and `held_bytes` are the demo model's as it is, `tokens` those it is measured on."""

    sparsity: float  # of the layer
    shape: tuple[int, int]  # of the layer's weight: outputs, inputs
    states: tuple[LayerState, ...]
    loss: float
    right: float
    held_bytes: int
    tokens: int
    models: tuple[PrunedModel, ...] = ()


@dataclass(frozen=True, slots=True)
class Rounded:
    """The demo model in one state of rounding.

    Attributes:
        loss: mean cross-entropy on the lessons; `right` the share of likeliest tokens that are right.
        packed_bytes: of the quantized layers, at so many bits a weight, with their scales; in fp32 where not rounded.
        answer: what it says to `LowBitsResult.question`.
    """

    name: str
    loss: float
    right: float
    packed_bytes: int
    answer: str


@dataclass(frozen=True, slots=True)
class LowBitsResult:
    """What rounding costs, with and without training for it.

    Attributes:
        states: before, rounded after training, trained rounded, and trained exactly then rounded, as far as done.
        curve: training loss of each step so far, with rounded weights.
        held_bytes: of the quantized layers as torchao keeps them here, one byte for every weight.
        seconds: of training with rounded weights so far.
    """

    bits: int
    question: str
    tokens: int
    states: tuple[Rounded, ...] = ()
    curve: tuple[float, ...] = ()
    held_bytes: int = 0
    seconds: float = 0.0

    def state(self, name: str) -> Rounded | None:
        """The state of that name, if it has been reached."""
        return next((state for state in self.states if state.name == name), None)


Result = DynamicResult | PruningResult | LowBitsResult
Event = Phase | Result | Failed


class Experiment(Protocol):
    """Picklable; raises `BadInput` when made with values out of range."""

    def run(self) -> Iterator[Phase | Result]:
        """Yields progress, and the result as it grows; the last one is whole."""


@dataclass(frozen=True, slots=True)
class DynamicInt8:
    """PyTorch's dynamic int8 on small models.

    Raises:
        BadInput: no model is named, or one that isn't there.
    """

    kinds: tuple[Kind, ...] = tuple(KINDS)

    def __post_init__(self) -> None:
        if not self.kinds:
            raise BadInput("No model is chosen.", "Tick at least one.")
        _all_among("Model", self.kinds, tuple(KINDS))

    def run(self) -> Iterator[Phase | Result]:
        from .dynamic_int8 import measure

        yield from measure(self.kinds)


@dataclass(frozen=True, slots=True)
class Pruning:
    """Unstructured and structured pruning: of one layer, in bytes; of the demo model, in loss.

    Raises:
        BadInput: no sparsity is given, or one that isn't offered.
    """

    sparsities: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
    layer_sparsity: float = 0.5
    questions: int = 96

    def __post_init__(self) -> None:
        if not self.sparsities:
            raise BadInput("No share to prune is chosen.", "Tick at least one.")
        _all_among("The share to prune", (*self.sparsities, self.layer_sparsity), SPARSITIES)

    def run(self) -> Iterator[Phase | Result]:
        from .pruning import measure

        yield from measure(self)


@dataclass(frozen=True, slots=True)
class LowBits:
    """Rounding the demo model after training, against training it to be rounded.

    Attributes:
        group: weights that share a scale; 0 for a whole row.
        control: whether to train as long without rounding and round then: what training alone is worth.

    Raises:
        BadInput: a value is out of its range.
    """

    bits: int = 2
    group: int = 64
    steps: int = 100
    control: bool = True
    seed: int = 0
    batch: int = 8  # conversations a step
    questions: int = 96

    def __post_init__(self) -> None:
        _all_among("Bits", (self.bits,), BITS)
        _all_among("Weights a scale", (self.group,), tuple(GROUPS))
        whole = isinstance(self.steps, int) and not isinstance(self.steps, bool)
        if not whole or not 1 <= self.steps <= MOST_STEPS:
            raise BadInput(
                f"Steps is “{shorten(str(self.steps), 40)}”.", f"Give a whole number from 1 to {MOST_STEPS}."
            )

    def run(self) -> Iterator[Phase | Result]:
        from .low_bits import measure

        yield from measure(self)


def _all_among(name: str, values: tuple, offered: tuple) -> None:
    for value in values:
        if value not in offered:
            listed = ", ".join(str(one) for one in offered)
            raise BadInput(f"{name} is “{shorten(str(value), 40)}”.", f"Choose from {listed}.")
