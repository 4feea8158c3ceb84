"""How fast a model can be expected to answer: a range, with what it assumes, from memory traffic and launches.

What differs by machine, driver and version is kept as a low and a high figure (`profiles.py`), so chosen
that the published measurements in `data/speeds.json` lie between; `passes.py` turns them into seconds. Nothing
here is measured on the reader's machine: where there is such a measurement, `Measured` narrows the range.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...precision import Precision
from ..hardware import Gpu
from ..inventory import Inventory
from .passes import Case, Pass, case_of, decode, prefill
from .profiles import HIGH, LOW

if TYPE_CHECKING:
    from ..workload import Workload

SAME, OTHER = 0.25, 0.35  # of a range's width kept on each side of a measurement with another model


@dataclass(frozen=True, slots=True)
class SpeedRange:
    """Tokens a second, all sequences together, from `low` to `high`.

    Attributes:
        assumption: for which engine, batch and context it holds, and how far it can be trusted, in words.
        slow: the pass behind `low` before any correction; `fast` the one behind `high`. Both are `None`
            where only a measurement is known.
        corrected: what a measurement on this machine changed, in words; empty without one.
    """

    low: float
    high: float
    assumption: str
    slow: Pass | None = None
    fast: Pass | None = None
    corrected: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """Answers that a model gave on this machine.

    Attributes:
        gpu_id: the device in the catalogue; `cpu` for this machine's processor, whichever it is.
        model_id: and `precision` (an id): what answered.
        low: fewest tokens a second among the answers; `high` most.
        context: tokens in the cache halfway through an answer, on average.
        answers: how many were measured.
        position: where it lay in the range that was expected of it, from 0 (`low`) to 1 (`high`) in
            logarithms, and beyond; `None` where that isn't known.
    """

    gpu_id: str
    model_id: str
    precision: str
    low: float
    high: float
    context: int
    answers: int
    position: float | None = None


def decode_speed(
    inventory: Inventory,
    precision: Precision,
    gpu: Gpu,
    count: int,
    workload: Workload,
    *,
    offloaded_bytes: int = 0,
    measured: Measured | None = None,
) -> SpeedRange | None:
    """Tokens a second while answering, `workload.context` tokens being in the cache of each sequence.

    Args:
        count: like cards in a row. Each token passes them one after the other, so they add no bandwidth.
        offloaded_bytes: of layers kept in system memory, which accelerate copies to the card at each step.
        measured: on this machine; ignored where it was another device.

    Returns:
        `None` where the device's bandwidth isn't known and nothing was measured, or where layers would be
        offloaded on a device that has no memory of its own.
    """
    applies = measured is not None and _same_device(measured, gpu)
    case = case_of(inventory, precision, gpu, workload, offloaded_bytes)
    if case is None:
        return _only_measured(inventory, precision, workload, measured) if applies and not offloaded_bytes else None
    slow, fast = decode(case, LOW), decode(case, HIGH)
    low, high = workload.batch / slow.seconds, workload.batch / fast.seconds
    expected = SpeedRange(low, high, _words(case, count, "in the cache"), slow, fast)
    if not applies:
        return expected
    return _corrected(expected, measured, inventory, precision, gpu, count, workload)


def prefill_speed(
    inventory: Inventory,
    precision: Precision,
    gpu: Gpu,
    count: int,
    workload: Workload,
    *,
    offloaded_bytes: int = 0,
) -> SpeedRange | None:
    """Tokens a second while reading a prompt of `workload.context` tokens in each sequence, images aside.

    Operations: 2 for each weight that a token is multiplied with (the output head only at the last position),
    and in attention 4 for each pair of positions and value of the residual stream, half of them where the
    kernel leaves out what the causal mask hides.

    Returns:
        `None` where the device's bandwidth or its TFLOPS in the dtype of computation aren't known.
    """
    case = case_of(inventory, precision, gpu, workload, offloaded_bytes)
    if case is None or case.rates is None:
        return None
    slow, fast = prefill(case, LOW), prefill(case, HIGH)
    tokens = workload.batch * workload.context
    words = _words(case, count, "of prompt each")
    return SpeedRange(tokens / slow.seconds, tokens / fast.seconds, words, slow, fast)


_OFFLOADED = {
    False: "layers in system memory are copied over PCIe at each pass",
    True: "layers in system memory are computed by the processor, and timed as if they were copied over PCIe",
}


def _words(case: Case, count: int, where: str) -> str:
    workload, profile, gpu = case.workload, case.profile, case.gpu
    sequences = "one sequence" if workload.batch == 1 else f"{workload.batch:,} sequences together"
    parts = [f"{profile.engine}, {sequences}, {workload.context:,} tokens {where}", profile.words]
    if count > 1:
        parts.append(f"{count} cards one after the other, which adds no speed")
    if case.offloaded:
        parts.append(_OFFLOADED[profile.engine == "llama.cpp"])
    elif profile.engine == "llama.cpp":
        parts.append("all layers on the device")
    if case.rates is None:
        parts.append("this device's TFLOPS aren't known and aren't counted")
    if gpu.kind == "apple" and profile.engine != "llama.cpp":
        parts.append("no published figure was found for transformers on Apple's chips")
    return "; ".join(parts) + "."


def _same_device(measured: Measured, gpu: Gpu) -> bool:
    return measured.gpu_id == ("cpu" if gpu.kind == "cpu" else gpu.id)


def _same_model(measured: Measured, inventory: Inventory, precision: Precision) -> bool:
    return (measured.model_id, measured.precision) == (inventory.model_id, precision.id)


def _only_measured(
    inventory: Inventory, precision: Precision, workload: Workload, measured: Measured | None
) -> SpeedRange | None:
    if measured is None or workload.batch > 1 or not _same_model(measured, inventory, precision):
        return None
    assumption = f"transformers, one sequence, about {measured.context:,} tokens in the cache; not scaled to others."
    return SpeedRange(measured.low, measured.high, assumption, corrected=_measured_words(measured))


def _corrected(
    expected: SpeedRange,
    measured: Measured,
    inventory: Inventory,
    precision: Precision,
    gpu: Gpu,
    count: int,
    workload: Workload,
) -> SpeedRange:
    if _same_model(measured, inventory, precision):
        then = decode_speed(
            inventory, precision, gpu, count, replace(workload, context=max(measured.context, 1), batch=1)
        )
        assert then is not None
        scales = (expected.low / then.low, expected.high / then.high)  # 1 where it was measured
        low, high = measured.low * min(scales), measured.high * max(scales)
        return replace(expected, low=low, high=high, corrected=_measured_words(measured))
    if measured.position is None or precision.engine != "transformers":
        return expected
    margin = SAME if measured.precision == precision.id else OTHER
    ratio = expected.high / expected.low
    low, high = (expected.low * ratio ** (measured.position + side) for side in (-margin, margin))
    words = f"Narrowed by what {measured.model_id} ({measured.precision}) reached on this device."
    return replace(expected, low=low, high=high, corrected=words)


def _measured_words(measured: Measured) -> str:
    answers = "1 answer" if measured.answers == 1 else f"{measured.answers} answers"
    where = "on this machine's processor" if measured.gpu_id == "cpu" else "here"
    return f"Measured {where}: {measured.low:.1f} to {measured.high:.1f} tokens/s over {answers}."
