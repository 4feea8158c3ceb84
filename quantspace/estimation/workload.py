"""What is asked of a model, and of what hardware. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

from .hardware import Gpu


@dataclass(frozen=True, slots=True)
class Workload:
    """What a model is asked to do: tokens in each sequence, sequences at once, dtype of the cache, images in each."""

    context: int = 8192
    batch: int = 1
    kv_dtype: str = "auto"
    images: int = 0


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a model is asked to run on: like cards in one machine, and its system memory in bytes."""

    gpu: Gpu
    count: int = 1
    host_bytes: int = 0

    @property
    def usable_bytes(self) -> int:
        return self.gpu.usable_bytes * self.count
