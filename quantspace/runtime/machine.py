"""What a load may use here: cards, system memory, and what the cards can compute in. Torch is asked only when it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec

from ..errors import UnknownGpu
from ..estimation.hardware import Gpu, find_gpu
from ..estimation.verdict import HOST_ALLOWANCE
from ..estimation.workload import Hardware

_ANY_CARD = "t4"  # stands for a card that is not in the catalogue, in all but its name, memory and dtypes


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a model can be put.

    Attributes:
        card: the card, the smallest where there are several; `None` where everything is computed on the processor.
        cards: how many; each is taken to have no more than `card.usable_bytes`.
        host_bytes: system memory that a model may still take.
        zero_gpu: whether the card is lent for a call at a time, so that memory can't be asked about before.
    """

    card: Gpu | None = None
    cards: int = 0
    host_bytes: int = 0
    zero_gpu: bool = False

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices that a map may name, those that compute first."""
        return (*(f"cuda:{number}" for number in range(self.cards)), "cpu", "disk")

    @property
    def main(self) -> str:
        """The device of a model that is on one."""
        return self.devices[0]

    @property
    def name(self) -> str:
        return self.card.name if self.card else "the processor"

    @property
    def hardware(self) -> Hardware | None:
        """The same as the estimate takes it; `None` without a card."""
        if self.card is None:
            return None
        return Hardware(self.card, self.cards, self.host_bytes + HOST_ALLOWANCE)  # what is free is already less that


def machine() -> Machine:
    """This machine. On ZeroGPU the size that a call gets by default, since CUDA lies in the parent there."""
    from .gpu import on_zero_gpu

    if on_zero_gpu():
        return Machine(find_gpu("zerogpu"), 1, zero_gpu=True)
    import torch

    from .memory import host_bytes

    cards = [_card(number) for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if not cards:
        return Machine(host_bytes=host_bytes())
    smallest = min(cards, key=lambda card: card.usable_bytes)
    return Machine(smallest, len(cards), host_bytes())


def importable(module: str) -> bool:
    """Whether a module can be imported; it is not."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be in is missing
        return False


def _card(number: int) -> Gpu:
    """A card as the estimate takes it, with the memory that a load can have once the kept model has gone."""
    import torch

    name = torch.cuda.get_device_name(number)
    try:
        known = find_gpu(name)
    except UnknownGpu:
        native = torch.cuda.get_device_capability(number) >= (8, 0)
        known = replace(find_gpu(_ANY_CARD), name=name, bf16_native=native)
    free = torch.cuda.mem_get_info(number)[0] + torch.cuda.memory_reserved(number)
    return replace(known, usable_bytes=free)
