"""From bytes to a verdict: does a model fit a card at a precision, why, and how far could one go. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from ..formula import Term
from ..precision import PRECISIONS, Precision
from ..settings import settings
from ..units import gb
from .cache import kept_dtype
from .demand import Bytes, Demand, largest
from .engines.tensor_parallel import TensorParallel, tensor_parallel
from .gguf.engine import told_before
from .gguf.file import GgufFile
from .gguf.layers import on_gpus, slots
from .gguf.model import gguf_model
from .gguf.rows import file_behind, file_precisions
from .hardware import Gpu
from .inventory import Inventory
from .loadable import why_not
from .loading import loading_peak
from .placement import Share, Split
from .speed.expected import Measured, SpeedRange, decode_speed
from .verdict import Verdict, verdict_on
from .weights import WeightBytes, largest_quantized, weight_bytes
from .workload import Hardware, Workload

# What was measured on this machine for a card, a model's id and a precision's; `None` where nothing was.
Measurements = Callable[[Gpu, str, str], Measured | None]

OVERFLOWING = ("Gemma3", "T5")  # classes whose activations are known to exceed float16
# What vLLM keeps where transformers would quantize: it has FP8, and nothing smaller.
_VLLM_CACHES = {"fp8": "float8_e4m3fn", "int4": "bfloat16", "int2": "bfloat16"}
# From most to least faithful to the published weights; FP32 only doubles bytes that were published in 16 bits.
PREFERENCE = ("native", "bf16", "fp16", "int8", "nf4", "nf4-dq", "nf4-moe", "fp4", "fp32")


@dataclass(frozen=True)
class FitRow:
    """One row of the fit table. Bytes are integers over all cards; `free_bytes` is negative where memory is short.

    Attributes:
        shares: what each card holds, where there are several.
        split: which modules stay in system memory, where the verdict is `offload`.
        speed: tokens a second to expect while answering; `None` where it can't run or can't be told.
        why_not: what keeps this app from loading it on the machine where it runs; empty where it is `loadable`.
    """

    precision: Precision
    demand: Demand = field(repr=False)
    workload: Workload
    weights: WeightBytes
    needed: Bytes
    gpu_count: int
    usable_bytes: int
    verdict: Verdict
    reason: str
    max_context: int
    max_batch: int
    loadable: bool
    exact: bool
    split: Split | None = None
    speed: SpeedRange | None = None
    notes: tuple[str, ...] = ()
    why_not: str = ""

    @property
    def cache_bytes(self) -> int:
        return self.needed.cache

    @property
    def loading_peak(self) -> int:
        """The most that a load holds at once, the model included; on this row's kind of device."""
        return loading_peak(
            self.demand.inventory, self.demand.precision, "cuda" if self.demand.gpu.kind == "gpu" else "cpu"
        )

    @property
    def activation_bytes(self) -> int:
        return self.needed.activations

    @property
    def overhead_bytes(self) -> int:
        return self.needed.overhead

    @property
    def total_bytes(self) -> int:
        return self.needed.total

    @property
    def free_bytes(self) -> int:
        return self.usable_bytes - self.total_bytes

    @property
    def runs(self) -> bool:
        """Whether the engine that the row is counted for runs it at all."""
        return self.precision.method != "stored" or self.demand.inventory.native_runs

    @property
    def file(self) -> GgufFile | None:
        """The GGUF file that the row stands for, `None` where it stands for none."""
        return self.demand.file

    @property
    def layers(self) -> int | None:
        """Layers of that file that can be on the GPU, the output as one; `None` where it isn't known."""
        return slots(self.file) if self.file is not None and self.file.layers else None

    @property
    def gpu_layers(self) -> int | None:
        """How many of them are, as `--n-gpu-layers` is told; `None` without a GPU or a file with layers."""
        if self.layers is None or self.demand.gpu.kind != "gpu":
            return None
        if self.split is not None:
            return on_gpus(self.split)
        return 0 if self.verdict == "no" else self.layers

    @property
    def shares(self) -> tuple[Share, ...]:
        return self.demand.shares

    @cached_property
    def tensor_parallel(self) -> TensorParallel | None:
        """The same over several cards as vLLM divides it, every layer over all; `None` for one card."""
        if self.gpu_count == 1:
            return None
        demand, workload = self.demand, self.workload
        kv_dtype = _VLLM_CACHES.get(demand.kv_dtype, demand.kv_dtype)
        asked = (self.gpu_count, workload.context, workload.batch, kv_dtype)
        return tensor_parallel(demand.inventory, self.precision, demand.gpu, *asked)

    def terms(self) -> dict[str, list[Term]]:
        """`weights`, `cache`, `activations` and `overhead`, each as terms that sum to it."""
        return self.demand.terms(self.workload.context, self.workload.batch)


def fit_table(
    inventory: Inventory, hardware: Hardware, workload: Workload, measured: Measurements | None = None
) -> list[FitRow]:
    """A row for every precision that means something for this model, in the order of the table of precisions.

    Its GGUF files come after them, the largest first; they are the only rows of a repository of such files.
    """
    rows = [precision for precision in PRECISIONS.values() if applies(precision, inventory)]
    rows.extend(file_precisions(inventory).values())
    return [fit(inventory, precision, hardware, workload, measured) for precision in rows]


def applies(precision: Precision, inventory: Inventory) -> bool:
    """Whether a precision of the table is a row for this model.

    None is where only GGUF files are; what engines of text run is none where no text is generated.
    """
    if inventory.source_kind == "gguf":
        return False
    if not inventory.generates and precision.method in ("gguf", "packed"):
        return False
    if precision.id == "native":
        return bool(inventory.native)
    if precision.id == "nf4-moe":
        return bool(inventory.expert_elements)
    return True


def fit(
    inventory: Inventory,
    precision: Precision,
    hardware: Hardware,
    workload: Workload,
    measured: Measurements | None = None,
) -> FitRow:
    """Lay one precision against the hardware; `measured` tells how fast this very machine was, if it was."""
    demand = demand_of(inventory, precision, hardware, workload)
    usable = hardware.usable_bytes
    needed = demand.at(workload.context, workload.batch)
    verdict, reason, split = verdict_on(demand, needed, hardware, workload)
    context_limit = inventory.max_context or settings().max_context
    refused = why_not(inventory, precision)
    return FitRow(
        precision=precision,
        demand=demand,
        workload=workload,
        weights=demand.weights,
        needed=needed,
        gpu_count=hardware.count,
        usable_bytes=usable,
        verdict=verdict,
        reason=reason,
        max_context=largest(lambda n: demand.total(n, workload.batch), usable, context_limit),
        max_batch=largest(lambda n: demand.total(workload.context, n), usable, settings().max_batch),
        loadable=not refused,
        exact=_exact(inventory, precision),
        split=split,
        speed=None if verdict == "no" else _speed(demand, hardware, workload, split, measured),
        notes=_notes(inventory, precision, demand.precision, hardware.gpu),
        why_not=refused,
    )


def recommend(rows: list[FitRow]) -> str | None:
    """The most faithful precision that fits, else that is tight, else none; FP32 only where nothing else does.

    Among GGUF files the largest is the most faithful; they come after what the app loads itself.
    """
    if not rows:
        return None
    files = sorted((row for row in rows if row.file is not None), key=_faithful, reverse=True)
    preferred = (*preference(rows[0].demand.inventory, rows[0].demand.gpu), *(row.precision.id for row in files))
    for verdict in ("fits", "tight"):
        fitting = {row.precision.id for row in rows if row.verdict == verdict and row.runs}
        for precision in preferred:
            if precision in fitting:
                return precision
    return None


def _faithful(row: FitRow) -> tuple[bool, int]:
    return row.precision.label != "F32", row.weights.footprint


def preference(inventory: Inventory, gpu: Gpu) -> tuple[str, ...]:
    """Precisions from most to least faithful to the published weights.

    A card without native bfloat16 is given float16, unless the model is known to overflow in it.
    """
    if gpu.bf16_native is not False or inventory.architecture.startswith(OVERFLOWING):
        return PREFERENCE
    native, bf16, fp16, *others = PREFERENCE
    return (native, fp16, bf16, *others)


def _speed(
    demand: Demand, hardware: Hardware, workload: Workload, split: Split | None, measured: Measurements | None
) -> SpeedRange | None:
    return decode_speed(
        demand.inventory,
        demand.precision,
        hardware.gpu,
        hardware.count,
        workload,
        offloaded_bytes=split.host.weights if split else 0,
        measured=measured(hardware.gpu, demand.inventory.model_id, demand.precision.id) if measured else None,
    )


def demand_of(inventory: Inventory, precision: Precision, hardware: Hardware, workload: Workload) -> Demand:
    """What a precision asks of the hardware, counted as this hardware would hold it."""
    counted = held_as(precision, inventory, hardware.gpu)
    kv_dtype = kept_dtype(inventory, workload.kv_dtype, counted.dtype)
    return Demand(inventory, counted, hardware.gpu, hardware.count, kv_dtype, workload.images)


def held_as(precision: Precision, inventory: Inventory, gpu: Gpu) -> Precision:
    """What a row is counted as: a stored format that transformers can't keep packed on this card is unpacked."""
    if precision.method != "stored" or not inventory.native_runs:
        return precision.on_card() if gpu.kind == "gpu" else precision
    if inventory.native_packed and _capable(gpu, inventory.native_capability):
        return precision
    return PRECISIONS["bf16"]


def _capable(gpu: Gpu, wanted: tuple[int, int] | None) -> bool:
    if wanted is None:
        return True
    found = tuple(int(part) for part in (gpu.compute_capability or "0.0").split("."))
    return found >= wanted


def _exact(inventory: Inventory, precision: Precision) -> bool:
    """Whether these are the very bytes that a load would hold, and not a format's arithmetic."""
    if (file := file_behind(inventory, precision.id)) is not None:
        return inventory.exact and file.exact
    if precision.method == "gguf":
        return inventory.exact and gguf_model(inventory).exact
    if precision.method == "stored" and not inventory.native_runs:
        return False
    return inventory.exact and precision.method != "packed"


def _notes(inventory: Inventory, precision: Precision, counted: Precision, gpu: Gpu) -> tuple[str, ...]:
    notes = []
    if precision.method == "stored" and counted is not precision:
        packed = gb(weight_bytes(inventory, precision).held)
        notes.append(
            f"Counted as transformers holds it here, unpacked to {counted.dtype}; the files hold {packed} of weights."
        )
    if (file := file_behind(inventory, precision.id)) is not None:
        notes.extend(_file_notes(file, gpu))
        if told := told_before(inventory, file):
            notes.append(told)
    elif precision.method == "gguf":
        notes.extend(gguf_model(inventory).notes)
    if precision.method in ("int8", "4bit", "torchao") and not precision.experts and inventory.expert_elements:
        share = inventory.expert_elements / inventory.parameters
        library = "torchao" if precision.method == "torchao" else "bitsandbytes"
        notes.append(
            f"{share:.0%} of the parameters are fused experts, which {library} leaves in {precision.dtype}: "
            "“NF4, experts too” is the row that quantizes them."
        )
    if precision.quantizes and precision.layout and largest_quantized(inventory, precision) == (0, 0):
        notes.append("There is no layer in this architecture that it quantizes.")
    if precision.dtype == "bfloat16" and precision.engine == "transformers" and gpu.bf16_native is False:
        notes.append(f"{gpu.name} has no native bfloat16: it computes, but slowly.")
    if precision.dtype == "float16" and inventory.architecture.startswith(OVERFLOWING):
        notes.append("Activations of this family are known to overflow in float16.")
    if precision.method == "stored" and inventory.native_note:
        notes.append(inventory.native_note)
    return tuple(notes)


def _file_notes(file: GgufFile, gpu: Gpu) -> Iterator[str]:
    if not file.exact:
        yield "Its own header was not read: what it holds is told by its size."
    if file.weights > file.on_gpu and gpu.kind == "gpu":
        apart = gb(file.weights - file.on_gpu)
        yield f"{apart} of token embeddings stay in system memory, where llama.cpp keeps them beside any GPU."
