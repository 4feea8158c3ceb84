"""What a module takes: bytes in memory, bytes of its file, seconds of a pass."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

ROUNDS = 15  # of timing; the quickest pass counts, for what else runs on the machine only adds to it


def held_bytes(module: nn.Module) -> int:
    """Bytes of the storages of all parameters and buffers, each storage once."""
    tensors = (*module.parameters(), *module.buffers())
    storages = (plain.untyped_storage() for tensor in tensors for plain in _plain(tensor))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _plain(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors that hold a tensor's values: itself, or those inside of a subclass (torchao, CSR)."""
    if tensor.layout == torch.sparse_csr:
        yield from (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    elif is_traceable_wrapper_subclass(tensor):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _plain(getattr(tensor, name))
    else:
        yield tensor


def saved_bytes(module: nn.Module, name: str) -> int:
    """Size of the file that `torch.save` writes of the state under `name`.

    The name is part of it: a `.pt` file is a ZIP archive, and every entry in it begins with the file's stem.
    """
    with tempfile.TemporaryDirectory(prefix="quantspace-lab-") as folder:
        path = Path(folder) / name
        torch.save(module.state_dict(), path)
        return path.stat().st_size


def nonzero_share(weight: torch.Tensor) -> float:
    """How many of the values are not zero, from 0 to 1."""
    return torch.count_nonzero(weight).item() / weight.numel()


def seconds_of(*passes: Callable[[], object]) -> list[float]:
    """Seconds of the quickest pass of each, taken in turns so that a busy machine slows all of them alike."""
    for one in passes:
        one()  # the first pass sets things up
    taken: list[list[float]] = [[] for _ in passes]
    for _ in range(ROUNDS):
        for times, one in zip(taken, passes, strict=True):
            began = time.perf_counter()
            one()
            times.append(time.perf_counter() - began)
    return [min(times) for times in taken]
