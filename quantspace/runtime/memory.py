"""How much memory a load may take, on the device where it will happen."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")


def device_name() -> str:
    """Where models are loaded, as people know it."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def free_bytes() -> int:
    """Bytes that a load can still have: of the GPU where there is one, else of this machine or its container."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return host_bytes()


class Peak:
    """The most that tensors hold at once on the GPUs meanwhile, beyond what they held before: `bytes`.

    `None` on a processor, whose allocator keeps no such count.
    """

    def __init__(self) -> None:
        self.bytes: int | None = None

    def __enter__(self) -> Peak:
        self._before = [torch.cuda.memory_allocated(card) for card in _cards()]
        for card in _cards():
            torch.cuda.reset_peak_memory_stats(card)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            peaks = map(torch.cuda.max_memory_allocated, _cards())
            self.bytes = sum(peak - before for peak, before in zip(peaks, self._before, strict=True))


def _cards() -> range:
    return range(torch.cuda.device_count() if torch.cuda.is_available() else 0)


def host_bytes() -> int:
    """Bytes of system memory that are free, of this machine or its container."""
    free = psutil.virtual_memory().available
    limit = _container_bytes()
    return free if limit is None else min(free, limit)


def _container_bytes() -> int | None:
    """What the container's limit leaves (cgroup v2), which psutil does not see; `None` without a limit."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such limit: the file is missing, or says "max"
        return None
    return limit - used + int(stat.get("inactive_file", 0))  # the page cache gives way


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out; of system memory PyTorch says so in words alone."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
