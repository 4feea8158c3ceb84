"""What fine-tuning a model takes on one card: full, LoRA or QLoRA, term by term. Pure arithmetic.

Weights, adapters, gradients and optimizer states follow from the tensors. Activations are read from watched
training steps where there are some (`watch.py`); without them they are assumed, on the safe side.
Recipe: transformers' `Trainer` without autocast, no padding, adapters in float32 as PEFT makes them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import BadWorkload, ModelUnsupported
from ...formula import Formula, Term, counted
from ...precision import DTYPE_BYTES
from ...settings import settings
from ...units import gb
from ..demand import largest
from ..hardware import Gpu
from ..inventory import Inventory
from ..overhead import overhead_terms
from ..stored import layer_of
from ..verdict import Verdict, verdict_of
from ..weights import WeightBytes, is_quantized, largest_quantized, store
from .assumed import assumed_terms
from .lora import Adapter, adapters, converts_experts
from .optimizers import OptimizerBytes, optimizer_bytes
from .peak import ACTIVATIONS, TrainingPeak, TrainingTerm
from .workload import FLOAT32, METHODS, FinetuneWorkload

INT32 = 4

__all__ = ["METHODS", "FinetuneFit", "FinetuneWorkload", "base_terms", "finetune"]

_VALUES = Formula("elements * size", elements="values", size="B")
_FACTORS = Formula("parameters * size", parameters="parameters", size="B")
_PRODUCTS = Formula("batch * tokens * rows * each", tokens="tokens", rows="rows", each="B")


@dataclass(frozen=True)
class FinetuneFit:
    """Whether a fine-tuning fits, and why. Bytes are integers; the sum of `terms` is `total_bytes`.

    Attributes:
        paged_bytes: optimizer states that leave the card for system memory where it is full; not in the total.
        max_sequence: longest sequence that fits at this batch; 0 when none does. `max_batch` likewise.
        watched: whether activations were read from training steps of this class, or assumed.
    """

    workload: FinetuneWorkload
    gpu: Gpu
    terms: tuple[Term, ...]
    trainable_parameters: int
    adapter_parameters: int
    paged_bytes: int
    verdict: Verdict
    reason: str
    max_sequence: int
    max_batch: int
    watched: bool
    notes: tuple[str, ...] = field(default=())

    @property
    def total_bytes(self) -> int:
        return sum(term.bytes for term in self.terms)

    @property
    def usable_bytes(self) -> int:
        return self.gpu.usable_bytes

    @property
    def free_bytes(self) -> int:
        return self.usable_bytes - self.total_bytes

    def as_data(self) -> dict[str, Any]:
        """The JSON object that the API answers with; all bytes are integers."""
        work = self.workload
        targets = work.targets if isinstance(work.targets, str) else list(work.targets)
        return {
            "method": work.method,
            "precision": work.precision,
            "rank": work.rank if work.method != "full" else None,
            "targets": targets if work.method != "full" else None,
            "batch": work.batch,
            "sequence": work.sequence,
            "optimizer": work.optimizer,
            "checkpointing": work.checkpointing,
            "accumulation": work.accumulation,
            "gpu": self.gpu.id,
            "gpu_count": 1,
            "trainable_parameters": self.trainable_parameters,
            "adapter_parameters": self.adapter_parameters,
            "terms": [
                {"name": term.name, "bytes": term.bytes, "formula": term.shown, "note": term.note}
                for term in self.terms
            ],
            "total_bytes": self.total_bytes,
            "usable_bytes": self.usable_bytes,
            "free_bytes": self.free_bytes,
            "paged_bytes": self.paged_bytes,
            "verdict": self.verdict,
            "reason": self.reason,
            "max_sequence": self.max_sequence,
            "max_batch": self.max_batch,
            "watched": self.watched,
            "notes": list(self.notes),
        }


def finetune(
    inventory: Inventory, gpu: Gpu, workload: FinetuneWorkload, peak: TrainingPeak | None = None
) -> FinetuneFit:
    """Lay a fine-tuning against one card.

    Args:
        peak: training steps of this class, watched by `watch.watch_finetune` for this very workload's
            method, precision, rank, targets and checkpointing; without it activations are assumed.

    Raises:
        BadWorkload: the model has no layer that the targets name, or none that QLoRA could quantize.
        ModelUnsupported: it is no text model in a format that is trained.
    """
    _check_trainable(inventory)
    need = _Need(inventory, gpu, workload, peak)
    terms = need.terms(workload.sequence, workload.batch)
    verdict, reason = verdict_of(sum(term.bytes for term in terms), gpu.usable_bytes)
    limit = inventory.max_context or settings().max_context
    return FinetuneFit(
        workload=workload,
        gpu=gpu,
        terms=tuple(terms),
        trainable_parameters=need.trainable,
        adapter_parameters=sum(adapter.parameters for adapter in need.adapters),
        paged_bytes=need.optimizer.paged,
        verdict=verdict,
        reason=reason,
        max_sequence=largest(lambda n: need.total(n, workload.batch), gpu.usable_bytes, limit),
        max_batch=largest(lambda n: need.total(workload.sequence, n), gpu.usable_bytes, settings().max_batch),
        watched=peak is not None,
        notes=_notes(need),
    )


def _check_trainable(inventory: Inventory) -> None:
    if inventory.source_kind == "gguf":
        raise ModelUnsupported(
            f"{inventory.model_id} has GGUF files alone: they are for answering, not for training.",
            "Name the repository of the original weights.",
        )
    if not inventory.generates:
        raise ModelUnsupported(
            f"What training {inventory.model_id} takes is not counted: it does not answer text with text.",
            "Name a text-generating model, with or without vision.",
        )


class _Need:
    """What a fine-tuning asks of its card at any length and batch: what doesn't change is worked out once."""

    def __init__(self, inventory: Inventory, gpu: Gpu, work: FinetuneWorkload, peak: TrainingPeak | None) -> None:
        self.inventory, self.gpu, self.work, self.peak = inventory, gpu, work, peak
        self.adapters: tuple[Adapter, ...] = ()
        if work.method != "full":
            self.adapters = adapters(inventory, work.targets, work.rank)
        if work.method == "qlora" and not inventory.quantizable_elements:
            raise BadWorkload("bitsandbytes finds no layer to quantize in this model.", "Use LoRA in bf16 instead.")
        self.trained = _trained(inventory, work, self.adapters)
        self.trainable = sum(elements * count for (elements, _), count in self.trained.items())
        self.gradients = sum(elements * size * count for (elements, size), count in self.trained.items())
        self.optimizer: OptimizerBytes = optimizer_bytes(work.optimizer, self.trained)
        self.held = [*base_terms(inventory, work), *self._adapter_terms(), *self.optimizer.terms]
        self.merged = _merged_bytes(inventory, work, self.adapters)
        self._held_bytes = sum(term.bytes for term in self.held)
        self._tensors = (
            sum(spec.tied_to is None for spec in inventory.tensors)
            + 2 * sum(self.trained.values()) + self.optimizer.tensors
        )  # fmt: skip

    def total(self, sequence: int, batch: int) -> int:
        moment = sum(term.bytes for term in self._moment(sequence, batch))
        return self._held_bytes + moment + sum(term.bytes for term in self._overhead(moment))

    def terms(self, sequence: int, batch: int) -> list[Term]:
        moment = self._moment(sequence, batch)
        overhead = self._overhead(sum(term.bytes for term in moment))
        return [term for term in (*self.held, *moment, *overhead) if term.bytes]

    def _overhead(self, transient: int) -> list[Term]:
        return overhead_terms(self.gpu, WeightBytes(0, 0, self._tensors), transient)

    def _adapter_terms(self) -> list[Term]:
        if not self.adapters:
            return []
        operands = {"parameters": sum(adapter.parameters for adapter in self.adapters), "size": FLOAT32}
        return [Term("adapters", _FACTORS, operands, "float32, as PEFT makes them (cast_adapter_dtype)")]

    def _moment(self, sequence: int, batch: int) -> list[Term]:
        terms = self._watched(sequence, batch) if self.peak else self._assumed(sequence, batch)
        if self.merged:
            note = "peft/tuners/lora/layer.py, ParamWrapper: weight plus adapter, kept for the backward pass"
            terms.append(counted("copies of experts with their adapters", self.merged, note))
        return [*terms, *self._dequantized(sequence * batch)]

    def _watched(self, sequence: int, batch: int) -> list[Term]:
        widest = self._widest(sequence, batch)
        operands = {
            "batch": batch, "tokens": sequence,
            "sequence": widest.sequence, "token": widest.token, "square": widest.square,
        }  # fmt: skip
        source = "watched in training steps of the model's own class, built without data"
        gradients = counted("gradients at the widest moment", widest.once, source)
        return [gradients, Term("activations and logits at the widest moment", ACTIVATIONS, operands, source)]

    def _widest(self, sequence: int, batch: int) -> TrainingTerm:
        """The operation that holds most; at the optimizer's step all gradients, and nothing else."""
        assert self.peak is not None
        widest = self.peak.widest(sequence, batch)
        if self.work.accumulation:  # all gradients stand from the start; a new one is added to its sum
            new = max((elements * size for elements, size in self.trained), default=0)
            rest = max(self.peak.at(sequence), key=lambda term: term.at(sequence, batch) - term.once)
            return replace(rest, once=self.gradients + new)
        at_step = TrainingTerm(self.gradients, 0, 0)
        return max(widest, at_step, key=lambda term: term.at(sequence, batch))

    def _assumed(self, sequence: int, batch: int) -> list[Term]:
        return assumed_terms(self.inventory, self.work, self.adapters, self.gradients, sequence, batch)

    def _dequantized(self, tokens: int) -> list[Term]:
        if self.work.method != "qlora":
            return []
        precision = self.work.row
        elements, _ = largest_quantized(self.inventory, precision)
        four_bit = precision.method == "4bit"
        size = DTYPE_BYTES[precision.dtype] if four_bit else FLOAT32
        name = "MatMul4Bit" if four_bit else "MatMul8bitLt"
        note = f"bitsandbytes/autograd/_functions.py, {name}.backward"
        copy = Term("dequantized copy of the largest layer", _VALUES, {"elements": elements, "size": size}, note)
        if four_bit:
            return [copy]
        operands = {"batch": 1, "tokens": tokens, "rows": self.inventory.widest_quantizable, "each": INT32 + 1}
        return [copy, Term("int8 input and int32 products of the widest layer", _PRODUCTS, operands, note)]


def base_terms(inventory: Inventory, work: FinetuneWorkload) -> list[Term]:
    """The model's own tensors as they are while it is trained.

    For QLoRA after `prepare_model_for_kbit_training` (`peft/utils/other.py`): every parameter in 16 bits that
    is not quantized becomes float32, fused experts included; buffers stay.
    """
    precision = work.row
    quantized = 0
    upcast = 0
    cast: Counter[int] = Counter()
    for spec, count in inventory.shapes.items():
        stored = store(spec, precision)
        size = DTYPE_BYTES[stored.storage_dtype.partition(" ")[0]]
        if work.method == "qlora" and is_quantized(spec, precision):
            quantized += count * stored.held_bytes
        elif work.method == "qlora" and spec.role != "buffer" and size == 2:
            upcast += count * spec.elements
        else:
            cast[size] += count * spec.elements
    terms = []
    if quantized:
        assert precision.layout is not None
        terms.append(counted(f"quantized layers ({precision.label})", quantized, precision.layout.source))
    if upcast:
        note = "prepare_model_for_kbit_training: what is not quantized goes to float32"
        terms.append(Term("other weights in float32", _VALUES, {"elements": upcast, "size": FLOAT32}, note))
    for size, elements in sorted(cast.items(), reverse=True):
        terms.append(Term(f"weights and buffers of {size} bytes", _VALUES, {"elements": elements, "size": size}))
    return terms


def _trained(inventory: Inventory, work: FinetuneWorkload, found: tuple[Adapter, ...]) -> Counter[tuple[int, int]]:
    """Tensors that are trained, by elements and bytes an element."""
    if work.method != "full":
        return Counter((elements, FLOAT32) for adapter in found for elements in adapter.tensors)
    trained: Counter[tuple[int, int]] = Counter()
    for spec, count in inventory.shapes.items():
        if spec.role != "buffer":
            trained[spec.elements, DTYPE_BYTES[spec.dtype_under(work.row.dtype)]] += count
    return trained


def _merged_bytes(inventory: Inventory, work: FinetuneWorkload, found: tuple[Adapter, ...]) -> int:
    """Copies of experts that stand at once, and the gradient of the largest; with checkpointing of one layer."""
    by_layer: Counter[str] = Counter()
    for adapter in found:
        by_layer[layer_of(adapter.weight)] += adapter.merged
    copies = max(by_layer.values(), default=0) if work.checkpointing else sum(by_layer.values())
    return work.stream_bytes * (copies + max((adapter.merged for adapter in found), default=0))


def _notes(need: _Need) -> tuple[str, ...]:
    work, inventory = need.work, need.inventory
    notes = []
    if need.peak is None:
        notes.append("Activations are assumed from the sizes of the layers, on the safe side; they can be watched.")
    if work.method == "full" and work.precision == "bf16":
        notes.append(
            "Everything is in bf16: weights, gradients and states. Mixed precision with float32 master weights "
            "takes what fp32 takes, less some activations."
        )
    if work.method != "full" and inventory.expert_elements:
        notes.append(_experts_note(need))
    if need.optimizer.paged:
        notes.append(
            f"{gb(need.optimizer.paged)} of optimizer states are paged: they go to system memory where the card is "
            "full, and are not counted on it."
        )
    if inventory.max_context and work.sequence > inventory.max_context:
        notes.append(f"This model was made for at most {inventory.max_context:,} tokens.")
    return tuple(notes)


def _experts_note(need: _Need) -> str:
    left = ""
    if need.work.method == "qlora":
        left = " bitsandbytes leaves them unquantized, and prepare_model_for_kbit_training makes them float32."
    if need.merged:
        return f"PEFT adapts the fused experts too, each time through a copy of their weights.{left}"
    if converts_experts(need.inventory):
        return f"The fused experts are not adapted: these targets leave them out.{left}"
    return f"The fused experts are not linear layers: PEFT does not adapt them.{left}"
