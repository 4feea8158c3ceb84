"""Bytes that new tensors hold while something runs, seen operation by operation."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from quantspace.estimation.meta.peak import LiveBytes, _storages


class Allocated(LiveBytes):
    """A context that notes how many bytes of new tensors are alive; those on `meta` hold none.

    Tensors that lie in a mapped file are not seen. A checkpoint in float32 that is loaded in bfloat16 is copied
    tensor by tensor, as one is that goes to a GPU, and then all that a load holds is seen.
    """

    def __init__(self) -> None:
        super().__init__(torch.nn.Module())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in _storages(tree_leaves((args, kwargs))):  # what was there before is not new in a view of it
            if id(storage) not in self._alive:
                self._held[id(storage)] = storage
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage.device.type != "meta":
            super()._note(storage)

    @property
    def peak(self) -> int:
        """Most bytes that were alive at once."""
        return max(self.timeline, default=0)

    @property
    def now(self) -> int:
        """Bytes that are alive now."""
        return self._bytes
