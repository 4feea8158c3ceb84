"""What a forward pass holds for a moment, watched on `meta`.

Three short passes give, for each operation of the class, the bytes alive after it as a polynomial in the
prompt's tokens: weights aside, cache included. The peak at any length is the largest of them. Attention is
taken as the fused kernel it is on CPU and GPU (no matrix of scores); a class that computes it eagerly shows
its quadratic term.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..inventory import PeakTerm

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_WEIGHT_AT = {torch.nn.functional.linear: 1, torch.addmm: 2}  # of the arguments; `Conv1D` calls the latter
_VALUE = torch.ops.aten._local_scalar_dense.default


@dataclass(frozen=True, slots=True)
class LinearCall:
    """A call of a layer that a quantizer replaces: where in the timeline it ended, and its sizes."""

    at: int
    tokens: int
    columns: int
    rows: int


class FusedAttention(TorchFunctionMode):
    """Gives attention's result as the fused kernels do: a tensor for the output and nothing else.

    Args:
        alive: the watch that runs beside it; calls of layers in `quantizable` are noted by its timeline.
        quantizable: ids of the weights that a quantizer replaces.
    """

    def __init__(self, alive: LiveBytes, quantizable: Collection[int] = ()) -> None:
        super().__init__()
        self._alive = alive
        self._quantizable = quantizable
        self.calls: list[LinearCall] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _attended(*args, **kwargs)
        result = func(*args, **kwargs)
        weight = args[_WEIGHT_AT[func]] if func in _WEIGHT_AT and len(args) > _WEIGHT_AT[func] else None
        if id(weight) in self._quantizable:
            rows = result.shape[-1]
            tokens = result.numel() // rows
            self.calls.append(LinearCall(len(self._alive.timeline) - 1, tokens, weight.numel() // rows, rows))
        return result


def _attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """What attention gives: by a fused kernel, or step by step where no kernel takes these shapes.

    A single head of keys that is spread over all queries without `enable_gqa` (Falcon-7B) has none, on CPU and
    GPU alike (PyTorch's `sdp_utils`, `check_batch_size_and_num_heads_dense`).
    """
    if key.shape[1] == query.shape[1] or enable_gqa:
        batch, heads, length, _ = query.shape
        return query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
    if attn_mask is not None:
        attn_mask = torch.empty(attn_mask.shape, dtype=query.dtype, device=query.device)  # what it adds to the scores
    stepwise = torch.ops.aten._scaled_dot_product_attention_math.default
    return stepwise(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)[0]


class LiveBytes(TorchDispatchMode):
    """Notes after each operation how many bytes are alive that were not when the watch began.

    A storage's Python object lives as long as the storage itself, so that a weak reference tells its end.
    What a class asks of the values of a tensor on `meta` is answered with yes, as of a prompt without padding.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self._held = {id(storage): storage for storage in _storages((*model.parameters(), *model.buffers()))}
        self._alive: dict[int, _Alive] = {}
        self._bytes = 0
        self.timeline: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _VALUE and args[0].is_meta:
            return True
        result = func(*args, **(kwargs or {}))
        for storage in _storages(tree_leaves(result)):
            self._note(storage)
        self.timeline.append(self._bytes)
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key not in self._held and key not in self._alive:
            self._alive[key] = entry = _Alive(storage, self._gone)
            entry.key, entry.bytes = key, storage.nbytes()
            self._bytes += entry.bytes

    def _gone(self, entry: _Alive) -> None:
        self._bytes -= self._alive.pop(entry.key).bytes


class _Alive(weakref.ref):
    """A storage that is counted, without keeping it alive."""

    __slots__ = ("bytes", "key")
    key: int
    bytes: int


def _storages(tensors: Iterable[Any]) -> Iterator[torch.UntypedStorage]:
    return (tensor.untyped_storage() for tensor in tensors if isinstance(tensor, torch.Tensor))


def peak_terms(lengths: Sequence[int], timelines: Sequence[Sequence[int]]) -> tuple[PeakTerm, ...] | None:
    """The polynomials that can be the peak, from timelines at three lengths one token apart.

    `None` where the passes did not run the same operations: a class that loops over tokens.
    """
    if len({len(timeline) for timeline in timelines}) != 1:
        return None
    terms = {through(lengths, values) for values in zip(*timelines, strict=True)}
    return undominated(terms)


def undominated(terms: Iterable[PeakTerm]) -> tuple[PeakTerm, ...]:
    """Those that are the largest at some length."""
    every = set(terms)
    return tuple(sorted(term for term in every if not any(_dominates(other, term) for other in every)))


def through(lengths: Sequence[int], values: Sequence[int]) -> PeakTerm:
    """The polynomial through three lengths and what is alive at each."""
    (first, second, third), (low, middle, high) = lengths, values
    slope = (middle - low) / (second - first)
    square = ((high - middle) / (third - second) - slope) / (third - first)
    token = slope - square * (first + second)
    fixed = low - token * first - square * first * first
    return PeakTerm(round(fixed), round(token), square)


def _dominates(one: PeakTerm, other: PeakTerm) -> bool:
    """Whether `one` is at least as large at every length."""
    larger = (one.fixed >= other.fixed, one.token >= other.token, one.square >= other.square)
    return one != other and all(larger)
