"""What a forward pass holds for a moment, watched on `meta`.

Three short passes give, for each operation of the class, the bytes alive after it as a polynomial in the
prompt's tokens: weights aside, cache included. The peak at any length is the largest of them. Attention is
taken as the fused kernel it is on CPU and GPU (no matrix of scores); a class that computes it eagerly shows
its quadratic term.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .inventory import PeakTerm

if TYPE_CHECKING:
    from transformers import PreTrainedModel


YOUNG = 64  # storages that may gather before those that stay are set aside


class FusedAttention(TorchFunctionMode):
    """Gives attention's result as the fused kernels do: a tensor for the output and nothing else."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, _, value = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))[:3]
        batch, heads, length, _ = query.shape
        return query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)


class LiveBytes(TorchDispatchMode):
    """Notes after each operation how many bytes are alive that were not when the watch began."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        held = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
        self._kept_alive = held  # so that no new storage takes one of their addresses
        self._known = {storage._cdata for storage in held}
        self._young: dict[int, tuple[StorageWeakRef, int]] = {}  # looked at after each operation
        self._old: dict[int, tuple[StorageWeakRef, int]] = {}  # what has survived, such as the cache: now and then
        self._old_bytes = 0
        self.timeline: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        self._young = _alive(self._young)
        if len(self._young) > YOUNG:
            self._old = _alive(self._old | self._young)
            self._old_bytes = _sum(self._old)
            self._young = {}
        self.timeline.append(_sum(self._young) + self._old_bytes)
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        if key in self._old:
            if not self._old[key][0].expired():
                return  # a view of it
            self._old_bytes -= self._old.pop(key)[1]  # its address has a new tenant
        self._young[key] = (StorageWeakRef(storage), storage.nbytes())


def _alive(entries: dict[int, tuple[StorageWeakRef, int]]) -> dict[int, tuple[StorageWeakRef, int]]:
    return {key: entry for key, entry in entries.items() if not entry[0].expired()}


def _sum(entries: dict[int, tuple[StorageWeakRef, int]]) -> int:
    return sum(count for _, count in entries.values())


def peak_terms(lengths: Sequence[int], timelines: Sequence[Sequence[int]]) -> tuple[PeakTerm, ...] | None:
    """The polynomials that can be the peak, from timelines at three lengths one token apart.

    `None` where the passes did not run the same operations: a class that loops over tokens.
    """
    if len({len(timeline) for timeline in timelines}) != 1:
        return None
    terms = {_through(lengths[0], *values) for values in zip(*timelines, strict=True)}
    return tuple(sorted(term for term in terms if not any(_dominates(other, term) for other in terms)))


def _through(first: int, low: int, middle: int, high: int) -> PeakTerm:
    """The polynomial through (n, low), (n+1, middle), (n+2, high)."""
    square = (high - 2 * middle + low) / 2
    token = middle - low - square * (2 * first + 1)
    fixed = low - token * first - square * first * first
    return PeakTerm(round(fixed), round(token), square)


def _dominates(one: PeakTerm, other: PeakTerm) -> bool:
    """Whether `one` is at least as large at every length."""
    larger = (one.fixed >= other.fixed, one.token >= other.token, one.square >= other.square)
    return one != other and all(larger)
