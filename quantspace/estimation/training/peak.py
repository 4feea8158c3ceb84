"""What a training step holds at its peak, as data: polynomials in batch and tokens. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from ...formula import Formula

ACTIVATIONS = Formula(
    "batch * (sequence + token * tokens + round(square * tokens ** 2))",
    batch="sequences", sequence="B", token="B", tokens="tokens", square="B",
)  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class TrainingTerm:
    """Bytes alive at one operation of a training step, weights and optimizer aside.

    For n tokens in each of b sequences: once + b × (sequence + token × n + square × n²).
    """

    once: int  # whatever the batch: gradients of weights so far, casts of weights
    sequence: int
    token: int
    square: float = 0.0

    def at(self, sequence: int, batch: int) -> int:
        return self.once + batch * (self.sequence + self.token * sequence + round(self.square * sequence**2))


@dataclass(frozen=True, slots=True)
class TrainingPeak:
    """The operations that can be the peak, up to the widest sliding window and past it, where masks grow."""

    short: tuple[TrainingTerm, ...]
    long: tuple[TrainingTerm, ...]
    window: int | None = None

    def at(self, sequence: int) -> tuple[TrainingTerm, ...]:
        """The operations that count at this length."""
        return self.long if self.window is not None and sequence > self.window else self.short

    def widest(self, sequence: int, batch: int) -> TrainingTerm:
        """The operation that holds most."""
        return max(self.at(sequence), key=lambda term: term.at(sequence, batch))
