"""What one training step holds for a moment, watched on `meta`: activations, logits, the gradients so far.

A few short steps (forward, loss, backward) give, for each operation, the bytes alive after it as a polynomial
in batch and tokens; the largest one counts. The step is the one that transformers' `Trainer` runs without
autocast: no cache, no padding, the model's output dropped once it has the loss, attention by a fused kernel.
Optimizer states are not here (`optimizers.py`), nor what kernels hold inside one operation.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...errors import shorten
from ..weights import is_quantized
from .kernels import Adapted, FusedTraining, Quantized
from .lora import adapters
from .peak import TrainingPeak, TrainingTerm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from ..inventory import Inventory
    from .workload import FinetuneWorkload

log = logging.getLogger(__name__)

_BATCH = 2  # some operations copy nothing for a batch of one
_PROMPT = 8  # tokens of the shortest step: below every real window


class LiveBytes(TorchDispatchMode):
    """Notes after each operation, of forward and backward, how many new bytes are alive.

    A storage's bytes leave the sum when it is freed: also those that autograd kept, which is most of a step.
    """

    def __init__(self, held: Collection[torch.Tensor]) -> None:
        super().__init__()
        self._kept_alive = [tensor.untyped_storage() for tensor in held]
        self._known = {id(storage) for storage in self._kept_alive}
        self._watched: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._now = 0
        self.timeline: list[int] = []

    @property
    def peak(self) -> int:
        return max(self.timeline)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta and args[0].dtype == torch.bool:
            return True  # what masks ask of their data: are all tokens real, is the batch one sequence a row
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        self.timeline.append(self._now)
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)  # stable: a storage keeps its Python object as long as it lives
        if key in self._known or key in self._watched:
            return
        count = storage.nbytes()

        def freed(_: Any) -> None:
            del self._watched[key]
            self._now -= count

        self._watched[key] = weakref.ref(storage, freed)
        self._now += count


def watch_finetune(
    config: PreTrainedConfig, cls: type[PreTrainedModel], inventory: Inventory, workload: FinetuneWorkload
) -> TrainingPeak | None:
    """`watch_training` for a workload of `finetune.py`, on the class that its inventory was read from.

    Adapters on fused experts are left to the arithmetic: PEFT merges those into a copy of the weight.
    """
    precision = workload.row
    found = () if workload.method == "full" else adapters(inventory, workload.targets, workload.rank)
    quantized = (s.name for s in inventory.tensors if s.tied_to is None and is_quantized(s, precision))
    return watch_training(
        config,
        cls,
        dtype=getattr(torch, precision.dtype),
        rank=0 if workload.method == "full" else workload.rank,
        targets=[adapter.weight for adapter in found if not adapter.merged],
        quantized=list(quantized) if workload.method == "qlora" else (),
        bits=8 if precision.method == "int8" else 4,
        checkpointing=workload.checkpointing,
        window=max((layer.window for layer in inventory.cache if layer.window), default=None),
    )


def watch_training(
    config: PreTrainedConfig,
    cls: type[PreTrainedModel],
    *,
    dtype: torch.dtype,
    rank: int = 0,
    targets: Collection[str] = (),
    quantized: Collection[str] = (),
    bits: int = 4,
    checkpointing: bool = False,
    window: int | None = None,
) -> TrainingPeak | None:
    """The polynomials that can be the peak of a training step, weights and optimizer aside; slow (seconds).

    Args:
        dtype: of the weights; of the computation of quantized layers, whose model is then in float32, as
            `prepare_model_for_kbit_training` leaves it.
        rank: of the adapters on `targets` (names of weights); 0 trains every parameter.
        quantized: names of the weights that bitsandbytes holds in `bits`.
        window: the widest sliding window: past it a step is watched again, for its masks.

    Returns:
        `None` where the class can't run a step without data, or runs other operations at other lengths.
    """
    try:
        model = training_model(config, cls, dtype, rank, targets, quantized, bits, checkpointing)
        short = _terms(model, _PROMPT)
        long = _terms(model, window + 1) if window else short
    except Exception as error:  # a seam: some classes read values of tensors, which `meta` has not
        log.info("a training step of %s can't be watched: %s", cls.__name__, shorten(str(error)))
        return None
    if short is None or long is None:
        return None
    return TrainingPeak(short, long, window)


def training_model(
    config: PreTrainedConfig,
    cls: type[PreTrainedModel],
    dtype: torch.dtype,
    rank: int,
    targets: Collection[str],
    quantized: Collection[str],
    bits: int,
    checkpointing: bool,
) -> PreTrainedModel:
    """The model on `meta`, ready for a step: quantized layers replaced, adapters added, the rest frozen."""
    from ..meta.reader import build_on_meta

    model = build_on_meta(config, cls, dtype)
    model.requires_grad_(rank == 0)
    if quantized:
        for name in quantized:
            _replace(model, name, lambda layer: Quantized(*_sizes(layer), dtype, bits))
        for parameter in model.parameters():
            parameter.data = parameter.data.float()
    with torch.device("meta"):
        for name in targets if rank else ():
            _replace(model, name, lambda layer: Adapted(layer, *reversed(_sizes(layer)), rank))
    if checkpointing:
        # The engine runs what is recomputed without the modes of the forward pass.
        again = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), FusedTraining())}
        model.activation_checkpointing_enable(again)
    return model.train()


def run_step(model: PreTrainedModel, batch: int, length: int) -> LiveBytes:
    """One step as `Trainer` runs it; gradients stay with the result's watch, not with the model."""
    device = next(model.parameters()).device
    tokens = torch.zeros(batch, length, dtype=torch.long, device=device)
    watch = LiveBytes([*model.parameters(), *model.buffers(), tokens])
    with watch:
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
    model.zero_grad(set_to_none=True)
    return watch


def _terms(model: PreTrainedModel, first: int) -> tuple[TrainingTerm, ...] | None:
    with torch.device("meta"), FusedTraining():
        steps = [run_step(model, _BATCH, first + more).timeline for more in range(3)]
        if len(steps[0]) != len(steps[1]):  # a first step may set up what later ones find
            steps[0] = run_step(model, _BATCH, first).timeline
        wider = run_step(model, _BATCH + 1, first).timeline
    if len({len(timeline) for timeline in (*steps, wider)}) != 1:
        return None
    terms = {_through(first, *values) for values in zip(*steps, wider, strict=True)}
    return tuple(sorted(term for term in terms if not any(_dominates(other, term) for other in terms)))


def _through(first: int, low: int, middle: int, high: int, wider: int) -> TrainingTerm:
    """The polynomial through three lengths at `_BATCH` sequences and one length at one more."""
    once = low - _BATCH * (wider - low)
    square = (high - 2 * middle + low) / 2
    token = middle - low - square * (2 * first + 1)
    sequence = low - once - token * first - square * first * first
    return TrainingTerm(round(once), round(sequence / _BATCH), round(token / _BATCH), square / _BATCH)


def _dominates(one: TrainingTerm, other: TrainingTerm) -> bool:
    """Whether `one` is at least as large at every length and batch."""
    pairs = zip(astuple(one), astuple(other), strict=True)
    return one != other and all(mine >= theirs for mine, theirs in pairs)


def _sizes(layer: torch.nn.Module) -> tuple[int, int]:
    """Output and input features of a layer, `Conv1D` included."""
    if isinstance(layer, Quantized | torch.nn.Linear):
        return layer.out_features, layer.in_features
    columns, rows = layer.weight.shape
    return rows, columns


def _replace(model: torch.nn.Module, weight: str, make: Any) -> None:
    name = weight.removesuffix(".weight")
    parent = model.get_submodule(name.rpartition(".")[0])
    leaf = name.rpartition(".")[2]
    setattr(parent, leaf, make(getattr(parent, leaf)))
