"""Hardware as one can have it: cards alone and in pairs, fours and eights, Spaces' flavors, whole machines.

Each list is in the order in which a small need should be met. What fits on them is for `advice.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .hardware import DEFAULTS, Gpu, SpaceFlavor, gpus

COUNTS = (1, 2, 4, 8)  # like cards that machines are built with
_ZEROGPU = "Free by the hour: each run draws on the daily ZeroGPU quota of the visitor."
_NOTES = {
    DEFAULTS["zerogpu large"]: _ZEROGPU,
    DEFAULTS["zerogpu xlarge"]: f"{_ZEROGPU} It takes the size “xlarge”, which draws twice as much.",
}


@dataclass(frozen=True, slots=True)
class Offer:
    """A number of like devices, with the flavor and the price where Spaces offer it, and what is to know of it."""

    gpu: Gpu
    count: int = 1
    flavor: SpaceFlavor | None = None
    note: str = ""

    @property
    def usable_bytes(self) -> int:
        return self.count * self.gpu.usable_bytes

    @property
    def usd_per_hour(self) -> float | None:
        """US dollars an hour for all of it; 0 for ZeroGPU, `None` where Spaces don't offer it."""
        return self.flavor.usd_per_hour if self.flavor else None


@lru_cache(maxsize=1)
def cards() -> tuple[Offer, ...]:
    """Cards in every count: the fewest first, then by memory of each, then by price an hour."""
    known = [gpu for gpu in gpus().values() if gpu.kind == "gpu" and not _is_zerogpu(gpu)]
    offers = [Offer(gpu, count) for count in COUNTS for gpu in known if count == 1 or gpu.combines]
    return tuple(sorted(offers, key=lambda offer: (offer.count, offer.gpu.usable_bytes, _hourly(offer.gpu))))


@lru_cache(maxsize=1)
def flavors() -> tuple[Offer, ...]:
    """Flavors of Spaces that have GPUs: the cheapest first, then by memory."""
    offers = [
        Offer(gpu, flavor.gpus, flavor, _NOTES.get(gpu.id, ""))
        for gpu in gpus().values()
        for flavor in gpu.space_flavors
        if flavor.gpus
    ]
    return tuple(sorted(offers, key=lambda offer: (offer.usd_per_hour, offer.usable_bytes)))


@lru_cache(maxsize=1)
def dedicated_flavors() -> tuple[Offer, ...]:
    """Those of them that are billed by the hour."""
    return tuple(offer for offer in flavors() if offer.usd_per_hour)


@lru_cache(maxsize=2)
def machines(kind: str) -> tuple[Offer, ...]:
    """Devices of kind `apple` or `cpu`, by memory."""
    offers = [Offer(gpu, flavor=next(iter(gpu.space_flavors), None)) for gpu in gpus().values() if gpu.kind == kind]
    return tuple(sorted(offers, key=lambda offer: offer.usable_bytes))


def _is_zerogpu(gpu: Gpu) -> bool:
    return gpu.id.startswith("zerogpu-")


def _hourly(gpu: Gpu) -> float:
    """US dollars an hour of one such card on Spaces; endless where they don't offer it."""
    prices = (flavor.usd_per_hour / flavor.gpus for flavor in gpu.space_flavors if flavor.gpus)
    return min(prices, default=float("inf"))
