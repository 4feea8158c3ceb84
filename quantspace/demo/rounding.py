"""Rounds weights the way bitsandbytes stores them in 4 bits, so that training can get used to it.

Quantization-aware fine-tuning with a straight-through estimator: the forward and backward pass see the
rounded weights, the optimizer moves the exact ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from bitsandbytes.functional import get_4bit_type

BLOCK = 64  # weights that share a scale; the default of bitsandbytes


def levels(kind: str) -> torch.Tensor:
    """(16,) the sorted levels of `nf4` or `fp4` between -1 and 1, as bitsandbytes defines them."""
    return get_4bit_type(kind, device="cpu").sort().values


def round_to_levels(weight: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    """`weight` with every block of 64 scaled by its absmax and rounded to the nearest level of `code` (16,)."""
    blocks = weight.reshape(-1, BLOCK)
    scale = blocks.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
    middle = (code[1:] + code[:-1]) / 2
    return (code[torch.bucketize(blocks / scale, middle)] * scale).reshape(weight.shape)


@contextmanager
def rounded(weights: Sequence[torch.nn.Parameter], code: torch.Tensor | None) -> Iterator[None]:
    """Within the block the weights are rounded to `code`; afterwards they are exact again. None changes nothing."""
    if code is None:
        yield
        return
    exact = [weight.data for weight in weights]
    for weight in weights:
        weight.data = round_to_levels(weight.data, code)
    try:
        yield
    finally:
        for weight, data in zip(weights, exact, strict=True):
            weight.data = data
