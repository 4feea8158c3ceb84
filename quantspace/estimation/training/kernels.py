"""Stands for kernels in a training step on `meta`: what each gives, and what it keeps for the backward pass.

Without data the real ones don't run, or run in another form: attention with its matrix of scores, bitsandbytes'
layers not at all. Not for results, which have no values here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _Attention(torch.autograd.Function):
    """Attention as fused kernels leave it for backward: query, key, value, output, a float32 row of log-sums."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: Any) -> torch.Tensor:
        if query.shape[-1] == value.shape[-1]:
            output = torch.empty_like(query)  # laid out as the query, as the kernels do
        else:
            batch, heads, length, _ = query.shape
            output = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, sums, bias)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*(torch.empty_like(given) for given in ctx.saved_tensors[:3]), None)


class _Grouped(torch.autograd.Function):
    """Each expert's weight times its rows, as `torch.nn.functional.grouped_mm` has it."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, weights)
        ctx.shape = rows.shape
        return rows.new_empty(rows.shape[0], weights.shape[-1])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        _, weights = ctx.saved_tensors
        rows, trained = ctx.needs_input_grad
        return gradient.new_empty(ctx.shape) if rows else None, torch.empty_like(weights) if trained else None


class FusedTraining(TorchFunctionMode):
    """Gives scaled dot product attention as the fused kernels do, forward and backward, without scores.

    Where the heads of query and key differ and are not said to be grouped, torch computes with the whole
    matrix of scores (`aten/src/ATen/native/transformers/sdp_utils_cpp.h`), and so does this. The product of
    grouped experts is given too: for `meta`, torch has it in bfloat16 only.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") in ("grouped_mm", "_grouped_mm"):
            return _Grouped.apply(args[0], args[1])
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        names = ("query", "key", "value", "attn_mask")
        given = dict(zip(names, args, strict=False)) | {name: kwargs[name] for name in names if name in kwargs}
        query, key, value, mask = (given.get(name) for name in names)
        grouped = kwargs.get("enable_gqa", False)
        if not grouped and query.shape[-3] != key.shape[-3]:
            return func(*args, **kwargs)
        if mask is not None and mask.dtype == torch.bool:  # the kernels want numbers to add
            mask = torch.zeros_like(mask, dtype=query.dtype)
        return _Attention.apply(query, key, value, mask)


class _FrozenLinear(torch.autograd.Function):
    """A quantized layer: nothing of its input is kept (`MatMul4Bit`), or all of it (`MatMul8bitLt`)."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, rows: int, keep: bool) -> torch.Tensor:
        ctx.shape, ctx.kept = tokens.shape, tokens if keep else None
        return tokens.new_empty(*tokens.shape[:-1], rows)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient.new_empty(ctx.shape), None, None


class Quantized(torch.nn.Module):
    """Stands for `Linear4bit` or `Linear8bitLt` where weights have no data."""

    def __init__(self, rows: int, columns: int, compute: torch.dtype, bits: int) -> None:
        super().__init__()
        self.in_features, self.out_features = columns, rows
        self.compute, self.bits = compute, bits

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.bits == 8:
            return _FrozenLinear.apply(tokens, self.out_features, True)
        return _FrozenLinear.apply(tokens.to(self.compute), self.out_features, False).to(tokens.dtype)


class Adapted(torch.nn.Module):
    """A layer with a LoRA adapter in float32, in the steps of `peft/tuners/lora/layer.py` and `bnb.py`."""

    def __init__(self, base: torch.nn.Module, columns: int, rows: int, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = torch.nn.Linear(columns, rank, bias=False, dtype=torch.float32)
        self.up = torch.nn.Linear(rank, rows, bias=False, dtype=torch.float32)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        result = self.base(tokens)
        dtype = result.dtype
        if isinstance(self.base, Quantized) and self.base.bits == 4:
            result = result.clone()  # as PEFT does before it adds
        tokens = tokens.to(torch.float32)
        if isinstance(self.base, Quantized):
            added = self.up(self.down(tokens)) * 1.0
            added = added.to(dtype)
            return result + added
        result = result + self.up(self.down(tokens)) * 1.0
        return result.to(dtype)
