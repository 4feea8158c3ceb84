"""The controls of fine-tuning, as a link carries them. `links.py` reads and writes them beside the calculator's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..estimation.calculator import hardware_and_workload
from ..estimation.training.lora import ALL_LINEAR, ATTENTION
from ..estimation.training.optimizers import OPTIMIZERS
from ..estimation.training.workload import METHODS, FinetuneWorkload
from ..precision import PRECISIONS
from .spelling import read_precision

# Other names of a parameter: those of PEFT and transformers, and what people type from memory.
NAMES = {
    "method": "finetune_method",
    "base": "base_precision base_weights",
    "rank": "r lora_rank lora_r",
    "targets": "target_modules",
    "sequence": "seq seq_len sequence_length max_seq_length",
    "step_batch": "train_batch per_device_train_batch_size",
    "optimizer": "optim",
    "checkpointing": "gradient_checkpointing",
}
_OPTIMIZERS = {"adamw-torch": "adamw", "adamw-bnb-8bit": "adamw-8bit"}  # transformers' names of them
_YES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True)
class Finetuning:
    """How a model is to be fine-tuned: what the form opens with, and what a link changes of it.

    Attributes:
        method: `qlora`, `lora` or `full`.
        base: id of the precision of the base weights; empty for the first that the method takes.
        rank: of the adapters.
        targets: `all-linear` or `attention`.
        sequence: tokens in each sequence.
        step_batch: sequences in a step; `batch` is what runs the model.
        optimizer: one of `OPTIMIZERS`.
        checkpointing: whether layers are computed again in the backward pass.
    """

    method: str = "qlora"
    base: str = ""
    rank: int = 16
    targets: str = ALL_LINEAR
    sequence: int = 2048
    step_batch: int = 1
    optimizer: str = "paged-adamw-8bit"
    checkpointing: bool = True

    @property
    def precision(self) -> str:
        """The precision of the base weights."""
        return self.base or METHODS[self.method][0]

    def settled(self) -> Finetuning:
        """The same in one spelling: a base that the method takes by itself, or not at all, is not named."""
        own = self.base in METHODS[self.method][1:]
        return self if own or not self.base else replace(self, base="")


FIELDS = tuple(part.name for part in fields(Finetuning))


def read(name: str, text: str) -> Any:
    """The value of one control from a text.

    Raises:
        ValueError, QuantSpaceError: it is no value of that control.
    """
    return _READERS[name](text.strip().lower())


def from_controls(values: Mapping[str, Any]) -> Finetuning:
    """What a form's controls say.

    Raises:
        ValueError, QuantSpaceError: some of it is no value.
    """
    return Finetuning(**{name: read(name, str(values[name])) for name in FIELDS}).settled()


def _one_of(known: Mapping[str, Any] | tuple[str, ...]) -> Callable[[str], str]:
    def choose(text: str) -> str:
        named = text.replace("_", "-")
        if named not in known:
            raise ValueError(text)
        return named

    return choose


def _base(text: str) -> str:
    named = read_precision(text) if text else ""
    if named and not any(named in taken for taken in METHODS.values()):
        raise ValueError(f"{PRECISIONS[named].label} is not trained on")
    return named


def _sequence(text: str) -> int:
    _, workload = hardware_and_workload("t4", 1, text, 1, "auto", 0)  # reads `2k` too
    return FinetuneWorkload(sequence=workload.context).sequence


def _optimizer(text: str) -> str:
    named = text.replace("_", "-")
    return _one_of(OPTIMIZERS)(_OPTIMIZERS.get(named, named))


_READERS: dict[str, Callable[[str], Any]] = {
    "method": _one_of(METHODS),
    "base": _base,
    "rank": lambda text: FinetuneWorkload(rank=int(text)).rank,
    "targets": _one_of((ALL_LINEAR, ATTENTION)),
    "sequence": _sequence,
    "step_batch": lambda text: FinetuneWorkload(batch=int(text)).batch,
    "optimizer": _optimizer,
    "checkpointing": lambda text: _YES[text],
}
