"""The methods themselves, each a small function that the page shows as it runs here.

Imports stand inside, so that every function can be copied as it is, and so that the page can read this file
without PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def quantize_dynamic_int8(model: nn.Module) -> nn.Module:
    """A copy with the weights of its LSTM and Linear layers in int8; activations are rounded as they come."""
    import torch
    from torch.ao.quantization import quantize_dynamic

    return quantize_dynamic(model.eval(), {torch.nn.LSTM, torch.nn.Linear}, dtype=torch.qint8)


def prune_unstructured(layer: nn.Linear, sparsity: float, permanent: bool = True) -> None:
    """Zero the smallest weights, wherever they are. The mask is held beside them until it is made permanent."""
    from torch.nn.utils import prune

    prune.l1_unstructured(layer, "weight", amount=sparsity)
    if permanent:
        prune.remove(layer, "weight")


def prune_rows(layer: nn.Linear, sparsity: float) -> None:
    """Zero the rows with the smallest norm: whole outputs of the layer. Zeros take as much room as any number."""
    from torch.nn.utils import prune

    prune.ln_structured(layer, "weight", amount=sparsity, n=2, dim=0)
    prune.remove(layer, "weight")


def without_rows(layer: nn.Linear) -> nn.Linear:
    """The layer rebuilt without the rows that are zero: this is what saves memory and time."""
    import torch

    alive = layer.weight.abs().sum(dim=1) > 0
    smaller = torch.nn.Linear(layer.in_features, int(alive.sum()), bias=layer.bias is not None)
    smaller.weight.data = layer.weight.data[alive]
    if layer.bias is not None:
        smaller.bias.data = layer.bias.data[alive]
    return smaller


def shrink_feed_forward(mlp: nn.Module) -> None:
    """Rebuild a Llama feed-forward without the neurons whose gate is zero: `silu(0) × up` adds nothing to `down`."""
    import torch

    alive = mlp.gate_proj.weight.abs().sum(dim=1) > 0
    for name in ("gate_proj", "up_proj"):
        layer = getattr(mlp, name)
        layer.weight = torch.nn.Parameter(layer.weight.data[alive])
        layer.out_features = int(alive.sum())
    mlp.down_proj.weight = torch.nn.Parameter(mlp.down_proj.weight.data[:, alive].contiguous())
    mlp.down_proj.in_features = int(alive.sum())


def few_bits(bits: int, group: int):
    """What torchao is told: signed integers of `bits` bits; one scale for `group` weights, or a row where it is 0."""
    import torch
    from torchao.quantization import IntxWeightOnlyConfig, PerAxis, PerGroup

    granularity = PerGroup(group) if group else PerAxis(0)
    return IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{bits}"), granularity=granularity)


def is_layer(module: nn.Module, name: str) -> bool:
    """The linear layers, but for the output head."""
    import torch

    return isinstance(module, torch.nn.Linear) and "lm_head" not in name


def quantize_after_training(model: nn.Module, bits: int, group: int) -> nn.Module:
    """Post-training quantization: every weight goes to the nearest level, once."""
    from torchao.quantization import quantize_

    quantize_(model, few_bits(bits, group), is_layer)
    return model


def prepare_for_training(model: nn.Module, bits: int, group: int) -> nn.Module:
    """Quantization-aware training: each pass sees rounded weights, while the optimizer moves the exact ones."""
    from torchao.quantization import quantize_
    from torchao.quantization.qat import QATConfig

    quantize_(model, QATConfig(few_bits(bits, group), step="prepare"), is_layer)
    return model


def finish_training(model: nn.Module, bits: int, group: int) -> nn.Module:
    """Round for good what was trained to be rounded."""
    from torchao.quantization import quantize_
    from torchao.quantization.qat import QATConfig

    quantize_(model, QATConfig(few_bits(bits, group), step="convert"), is_layer)
    return model
