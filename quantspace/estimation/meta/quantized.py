"""What the kernels of bitsandbytes hold for a moment, at each linear layer of a pass watched on `meta`.

Read in bitsandbytes 0.50: `autograd/_functions.py` (MatMul8bitLt, matmul_4bit), `backends/cuda/ops.py`
(int8_vectorwise_quant, int8_mm_dequant, _dequant_linear_fallback), `backends/cpu/ops.py` and
`backends/default/ops.py`. For a call of T tokens through a weight of `rows` × `columns`, N = rows · columns:

    int8      6·T·columns + 4·T                 the input in fp16 (2), its magnitudes (2), which are outliers (1),
                                                and the quantized input (1), with one scale a token
              T·columns + 4·T + 8·T·rows        quantized input; int32 products (4), in fp16 (2), in bf16 (2)
    int8-cpu  T·columns + 4·T + 16·T·rows       quantized input; int32 products, as float32, scales, the result
    4bit      2·N                               the weight in bf16, while it is multiplied
    4bit-dq   2·N + 8·⌈N/64⌉                    and its block scales in float32, without and with their offset

The copy of a 4-bit weight is made for more than 1,536 tokens, and for fewer where it is faster; it is always
counted here. Columns with outliers (LLM.int8) are not: how many there are depends on the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..inventory import PeakTerm
from .peak import LinearCall, through, undominated

BFLOAT16_BYTES = 2
BLOCK = 64  # elements of a weight that share one scale


def _int8(call: LinearCall) -> int:
    inputs, outputs = call.tokens * call.columns, call.tokens * call.rows
    quantizing = 6 * inputs + 4 * call.tokens
    multiplying = inputs + 4 * call.tokens + 8 * outputs
    return max(quantizing, multiplying) - BFLOAT16_BYTES * outputs


def _int8_cpu(call: LinearCall) -> int:
    inputs, outputs = call.tokens * call.columns, call.tokens * call.rows
    return inputs + 4 * call.tokens + (16 - BFLOAT16_BYTES) * outputs


def _four_bit(call: LinearCall) -> int:
    return BFLOAT16_BYTES * call.rows * call.columns


def _four_bit_nested(call: LinearCall) -> int:
    return _four_bit(call) + 8 * -(-call.rows * call.columns // BLOCK)


TRANSIENTS: dict[str, Callable[[LinearCall], int]] = {
    "int8": _int8,
    "int8-cpu": _int8_cpu,
    "4bit": _four_bit,
    "4bit-dq": _four_bit_nested,
}  # bytes beside the layer's output


def quantized_peaks(
    peak: tuple[PeakTerm, ...],
    lengths: Sequence[int],
    timelines: Sequence[Sequence[int]],
    calls: Sequence[Sequence[LinearCall]],
) -> tuple[tuple[str, tuple[PeakTerm, ...]], ...]:
    """The polynomials that can be the peak of a quantized pass, for each set of kernels.

    Args:
        peak: those of the plain pass.
        lengths: three, one token apart.
        timelines: bytes alive after each operation, at each length.
        calls: of quantizable layers, at each length.
    """
    found = []
    for kernels, transient in TRANSIENTS.items():
        terms = {
            through(
                lengths, [timeline[call.at] + transient(call) for timeline, call in zip(timelines, at, strict=True)]
            )
            for at in zip(*calls, strict=True)
        }
        found.append((kernels, undominated(terms | set(peak))))
    return tuple(found)


def largest_with(kernels: str, timeline: Sequence[int], calls: Sequence[LinearCall]) -> int:
    """The most bytes alive in one pass with these kernels; with none where `kernels` is empty."""
    transient = TRANSIENTS.get(kernels)
    return max(max(timeline), *(timeline[call.at] + transient(call) for call in calls if transient), 0)
