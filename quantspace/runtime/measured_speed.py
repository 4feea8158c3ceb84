"""How fast models really answered on this machine: the last few answers, kept in this process only.

What is kept narrows the estimates of `estimation/speed.py`: of the same model and precision directly, of others on
the same device by where in their expected range the measured ones lay. Nothing is written to disk or sent anywhere.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from math import log
from statistics import mean, median

from cachetools import LRUCache

from ..errors import UnknownGpu
from ..estimation.gguf.rows import precision_for
from ..estimation.hardware import Gpu, find_gpu
from ..estimation.inventory import Inventory
from ..estimation.speed.expected import Measured, decode_speed
from ..estimation.workload import Workload
from .job import Stats

MIN_TOKENS = 16  # of an answer that counts: the first steps of a model are slower than the rest
ANSWERS = 8  # kept of one model, precision and device
MODELS = 64  # of such triples
INVENTORIES = 8
SPREAD = 0.05  # least spread told to each side of what was measured

CPU = "cpu"
# Slices and pools, which PyTorch names after the whole card.
_SLICES = {"rtx pro 6000": "zerogpu-rtx-pro-6000-half", "h200": "zerogpu-h200-slice"}
_SAME_CARD = {"zerogpu-rtx-pro-6000-full": "rtx-pro-6000-server"}

_Key = tuple[str, str, str]  # device in the catalogue, model, precision


@dataclass(frozen=True, slots=True)
class _Answer:
    tokens_per_s: float
    context: int  # halfway through
    position: float | None  # in the range that was expected, see `Measured`


class Measurements:
    """The last answers by device, model and precision. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: LRUCache[_Key, deque[_Answer]] = LRUCache(MODELS)
        self._inventories: LRUCache[str, Inventory] = LRUCache(INVENTORIES)

    def expect(self, inventory: Inventory) -> None:
        """Remember a model that is about to answer, so that its answers can tell of other models too."""
        with self._lock:
            self._inventories[inventory.model_id] = inventory

    def record(self, device: str, model_id: str, precision: str, stats: Stats) -> bool:
        """Keep an answer.

        Args:
            device: as PyTorch names it, or `CPU`; what isn't in the catalogue is passed over.
            stats: of an answer that has ended.

        Returns:
            Whether it counts: it has ended, is long enough, and came from a known device.
        """
        gpu = device_of(device)
        if gpu is None or stats.ended == "running" or stats.new_tokens < MIN_TOKENS or not stats.tokens_per_s:
            return False
        with self._lock:
            inventory = self._inventories.get(model_id)
        context = stats.prompt_tokens + stats.new_tokens // 2
        position = _position(inventory, precision, gpu, context, stats.tokens_per_s) if inventory else None
        with self._lock:
            answers = self._answers.setdefault((_id(gpu), model_id, precision), deque(maxlen=ANSWERS))
            answers.append(_Answer(stats.tokens_per_s, context, position))
        return True

    def on(self, gpu: Gpu, model_id: str, precision: str) -> Measured | None:
        """What was measured on `gpu`: of this model and precision, else of the likest that answered there.

        On a machine without a GPU only the very same model and precision tell something, since the speed of
        its memory isn't known.
        """
        with self._lock:
            here = [(key, list(answers)) for key, answers in self._answers.items() if key[0] == _id(gpu)]
        if not here:
            return None
        # By likeness; among equals the one that came into the store last.
        key, answers = max(enumerate(here), key=lambda item: (_likeness(item[1][0], model_id, precision), item[0]))[1]
        if key[1:] != (model_id, precision) and _id(gpu) == CPU:
            return None
        speeds = [answer.tokens_per_s for answer in answers]
        return Measured(
            gpu_id=CPU if _id(gpu) == CPU else gpu.id,
            model_id=key[1],
            precision=key[2],
            low=min(speeds) * (1 - SPREAD),
            high=max(speeds) * (1 + SPREAD),
            context=round(mean(answer.context for answer in answers)),
            answers=len(answers),
            position=_middle(answers),
        )

    def efficiency_of(self, gpu: Gpu) -> float | None:
        """Where in their expected ranges all answers on `gpu` lay, 0 to 1 and beyond; `None` without any."""
        with self._lock:
            answers = [a for key, kept in self._answers.items() if key[0] == _id(gpu) for a in kept]
        return _middle(answers)


def device_of(name: str) -> Gpu | None:
    """The device in the catalogue that PyTorch names so; slices of a card (MIG) are those that ZeroGPU gives."""
    if "mig" in name.lower().split():
        found = [gpu_id for card, gpu_id in _SLICES.items() if card in name.lower()]
        return find_gpu(found[0]) if found else None
    try:
        return find_gpu(name)
    except UnknownGpu:
        return None


def _id(gpu: Gpu) -> str:
    return CPU if gpu.kind == "cpu" else _SAME_CARD.get(gpu.id, gpu.id)


def _likeness(key: _Key, model_id: str, precision: str) -> int:
    return 2 * (key[1:] == (model_id, precision)) + (key[2] == precision)


def _middle(answers: list[_Answer]) -> float | None:
    positions = [answer.position for answer in answers if answer.position is not None]
    return median(positions) if positions else None


def _position(inventory: Inventory, precision: str, gpu: Gpu, context: int, speed: float) -> float | None:
    expected = decode_speed(inventory, precision_for(inventory, precision), gpu, 1, Workload(context, 1))
    if expected is None:
        return None
    return log(speed / expected.low) / log(expected.high / expected.low)


measurements = Measurements()
