"""Fused experts packed into 4 bits, in the format of bitsandbytes, without a temporary copy of them all.

A weight (experts, a, b) becomes bytes of two values each, with a scale for each block of 64 values (absmax), which
double quantization packs into a byte each with a float32 for each 256 of them. Blocks know nothing of each other:
packing some experts at a time gives the very bytes that `bitsandbytes.functional.quantize_4bit` gives for all, and
some can be unpacked without the others.
"""

from __future__ import annotations

from math import prod

import torch
from bitsandbytes.functional import (
    QuantState,
    dequantize_4bit,
    dequantize_blockwise,
    get_4bit_type,
    quantize_4bit,
    quantize_blockwise,
)

BLOCK = 64  # values that share a scale
NESTED_BLOCK = 256  # scales that share a scale of theirs
CHUNK = 2**20  # values packed at a time: on a CPU bitsandbytes takes some 16 B for each meanwhile


def pack(weight: torch.Tensor, quant_type: str, double_quant: bool) -> tuple[torch.Tensor, QuantState]:
    """Quantize `weight` (experts, a, b).

    Args:
        quant_type: `nf4` or `fp4`.

    Returns:
        The packed values (⌈n/2⌉, 1) uint8 on the weight's device, and what unpacks them into its shape and dtype.
    """
    packed, scales = _pack_in_chunks(weight, quant_type)
    nested: dict[str, torch.Tensor | QuantState] = {"absmax": scales}
    if double_quant:
        offset = scales.mean()
        small, state = quantize_blockwise(scales - offset, blocksize=NESTED_BLOCK)
        nested = {"absmax": small, "offset": offset, "state2": state}
    return packed, QuantState(
        shape=weight.shape,
        dtype=weight.dtype,
        blocksize=BLOCK,
        code=get_4bit_type(quant_type, device=weight.device),
        quant_type=quant_type,
        **nested,
    )


def _pack_in_chunks(weight: torch.Tensor, quant_type: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed values and float32 scales, a few experts at a time where their blocks don't overlap."""
    expert = prod(weight.shape[1:])
    at_once = max(1, CHUNK // expert) if expert % BLOCK == 0 else len(weight)
    packed = torch.empty((-(-weight.numel() // 2), 1), dtype=torch.uint8, device=weight.device)
    scales = torch.empty(-(-weight.numel() // BLOCK), dtype=torch.float32, device=weight.device)
    for first in range(0, len(weight), at_once):
        part, state = quantize_4bit(weight[first : first + at_once].contiguous(), quant_type=quant_type)
        packed[first * expert // 2 :][: len(part)] = part
        scales[first * expert // BLOCK :][: len(state.absmax)] = state.absmax
    return packed, scales


def unpack(packed: torch.Tensor, state: QuantState, experts: torch.Tensor) -> torch.Tensor:
    """The weights (len(experts), a, b) of some experts, bit for bit those of unpacking all.

    Args:
        experts: sorted indices without repetition.
    """
    count, *shape = state.shape
    size = prod(shape)
    if len(experts) == count:
        return dequantize_4bit(packed, state)
    if size % BLOCK:
        return dequantize_4bit(packed, state)[experts]
    some = QuantState(
        absmax=_scales(state, experts, size // BLOCK),
        shape=torch.Size((len(experts), *shape)),
        dtype=state.dtype,
        blocksize=BLOCK,
        code=state.code,
        quant_type=state.quant_type,
    )
    return dequantize_4bit(packed.view(count, -1)[experts].view(-1, 1), some)


def _scales(state: QuantState, experts: torch.Tensor, each: int) -> torch.Tensor:
    """The float32 scales of some experts, `each` of them a one."""
    if not state.nested:
        return state.absmax.view(-1, each)[experts].view(-1)
    if each % NESTED_BLOCK:
        return _scales_across(state, experts, each)
    outer = QuantState(
        absmax=state.state2.absmax.view(-1, each // NESTED_BLOCK)[experts].view(-1),
        blocksize=NESTED_BLOCK,
        code=state.state2.code,
        dtype=state.state2.dtype,
    )
    return dequantize_blockwise(state.absmax.view(-1, each)[experts].view(-1), outer) + state.offset


def _scales_across(state: QuantState, experts: torch.Tensor, each: int) -> torch.Tensor:
    """The same where an expert ends within a block of scales."""
    scales = dequantize_blockwise(state.absmax, state.state2)
    return scales.view(-1, each)[experts].view(-1) + state.offset
