"""What a GPU process takes besides its tensors: a first, stated approximation."""

from __future__ import annotations

from ..formula import Formula, Term
from .hardware import Gpu
from .weights import WeightBytes

ALLOCATION_UNIT = 512  # bytes to which CUDA's caching allocator rounds each tensor
FRAGMENTATION_PERCENT = 2  # of what comes and goes: blocks of the allocator that are held but not full

PROCESS_BYTES = 10**9  # Python, torch and transformers themselves, where they share the memory of the model

PROCESS = Formula("process", process="B")
CONTEXT = Formula("cards * context", context="B")
ROUNDING = Formula("tensors * unit // 2", tensors="tensors", unit="B")  # on average half a unit each
FRAGMENTATION = Formula("transient * percent // 100", transient="B", percent="%")
IMBALANCE = Formula("cards * fullest - shared", fullest="B", shared="B")


def overhead_terms(gpu: Gpu, weights: WeightBytes, transient: int, cards: int = 1) -> list[Term]:
    """CUDA contexts, rounding of each tensor, fragmentation; where memory is the system's, the process itself.

    Args:
        transient: bytes of cache and activations, which the allocator hands out and takes back.
    """
    if gpu.kind != "gpu":
        return [Term("the process itself", PROCESS, {"process": PROCESS_BYTES}, "measured on CPU: about 0.8 GB")]
    percent = {"transient": transient, "percent": FRAGMENTATION_PERCENT}
    source = gpu.context_source or "not measured on this card: the safe side of those that were"
    return [
        Term("CUDA context", CONTEXT, {"cards": cards, "context": gpu.context_bytes_or_default}, source),
        Term("rounding of tensors to 512 B", ROUNDING, {"tensors": weights.tensors, "unit": ALLOCATION_UNIT}),
        Term("fragmentation of cache and activations", FRAGMENTATION, percent),
    ]


def overhead_total(gpu: Gpu, weights: WeightBytes, transient: int, cards: int = 1) -> int:
    """The sum of `overhead_terms`, for searches that ask thousands of times."""
    if gpu.kind != "gpu":
        return PROCESS(process=PROCESS_BYTES)
    rounding = ROUNDING(tensors=weights.tensors, unit=ALLOCATION_UNIT)
    fragmentation = FRAGMENTATION(transient=transient, percent=FRAGMENTATION_PERCENT)
    return CONTEXT(cards=cards, context=gpu.context_bytes_or_default) + rounding + fragmentation


def imbalance_term(cards: int, fullest: int, shared: int) -> Term:
    """What the fullest card has more than an even share: layers are kept whole, so cards differ."""
    operands = {"cards": cards, "fullest": fullest, "shared": shared}
    return Term("what whole layers leave unfilled on the other cards", IMBALANCE, operands)
