"""How a model is fine-tuned: the choices, and which of them go together. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import BadWorkload, shorten
from ...precision import DTYPE_BYTES, PRECISIONS, Precision
from ...settings import settings
from .lora import ALL_LINEAR, ATTENTION, Targets
from .optimizers import OPTIMIZERS

# Which precisions of the base weights a method takes.
METHODS = {
    "full": ("bf16", "fp32"),
    "lora": ("bf16", "fp16", "fp32"),
    "qlora": ("nf4-dq", "nf4", "fp4", "int8"),
}
MAX_RANK = 4096
FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class FinetuneWorkload:
    """How a model is fine-tuned.

    Attributes:
        method: `full`, `lora` or `qlora`.
        precision: id of what the base weights are held in: one of `METHODS`.
        rank: of the adapters; without meaning for `full`.
        targets: `attention`, `all-linear`, or names of modules.
        batch: sequences in a step on the card.
        sequence: tokens in each.
        optimizer: one of `OPTIMIZERS`.
        checkpointing: whether layers are computed again in the backward pass.
        accumulation: whether gradients are kept over several steps.

    Raises:
        BadWorkload: a value is out of range, or the method doesn't take that precision.
    """

    method: str = "qlora"
    precision: str = "nf4-dq"
    rank: int = 16
    targets: Targets = ALL_LINEAR
    batch: int = 1
    sequence: int = 2048
    optimizer: str = "adamw"
    checkpointing: bool = True
    accumulation: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.targets, list):
            object.__setattr__(self, "targets", tuple(self.targets))
        if not isinstance(self.checkpointing, bool):
            raise BadWorkload(f"Checkpointing is “{shorten(str(self.checkpointing), 40)}”.", "Give true or false.")
        _choose("Method", self.method, tuple(METHODS))
        _choose(f"Precision for {self.method}", self.precision, METHODS[self.method])
        _choose("Optimizer", self.optimizer, tuple(OPTIMIZERS))
        _between("Rank", self.rank, MAX_RANK)
        _between("Batch", self.batch, settings().max_batch)
        _between("Sequence", self.sequence, settings().max_context)
        if not self.targets or not all(isinstance(name, str) and name for name in self.targets):
            raise BadWorkload("No target modules are named.", f"Use {ATTENTION}, {ALL_LINEAR} or names of modules.")

    @property
    def row(self) -> Precision:
        return PRECISIONS[self.precision]

    @property
    def stream_bytes(self) -> int:
        """Bytes of a value of the residual stream: float32 after `prepare_model_for_kbit_training`."""
        return FLOAT32 if self.method == "qlora" else DTYPE_BYTES[self.row.dtype]


def _choose(label: str, value: object, options: tuple[str, ...]) -> None:
    if value not in options:
        raise BadWorkload(f"{label} is “{shorten(str(value), 40)}”.", f"Use one of {', '.join(options)}.")


def _between(label: str, value: object, limit: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
        raise BadWorkload(f"{label} is “{shorten(str(value), 40)}”.", f"Give a whole number from 1 to {limit:,}.")
