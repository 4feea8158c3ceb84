"""The forward pass of packed experts: those that the tokens at hand visit are unpacked, and no others.

A token visits a few of a layer's experts, so a decoding step unpacks a few hundredths of what the layer holds. The
arithmetic is transformers' own `grouped_mm`, which it chooses by itself for unquantized experts: on a CPU, and on
CUDA from compute capability 8.0; below that it loops over the experts. Classes that transformers gives no choice
(Llama 4) go without this: the parametrization of bitsandbytes unpacks a whole layer for them, once a pass.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.nn.parametrize import Bnb4bitParametrization
from torch.nn.utils.parametrize import is_parametrized
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from .packing import unpack

IMPLEMENTATION = "packed_experts"  # as `from_pretrained(experts_implementation=…)` knows it


def packed_experts_forward(
    self: torch.nn.Module, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """The output (tokens, hidden) of the experts that each token visits.

    Args:
        self: an experts module of transformers, whose weights may be packed.
        hidden_states: (tokens, hidden).
        top_k_index: (tokens, k), the experts of each token.
        top_k_weights: (tokens, k), their shares.
    """
    if not is_parametrized(self):
        return grouped_mm_experts_forward(self, hidden_states, top_k_index, top_k_weights)
    visited, index = torch.unique(top_k_index, return_inverse=True)
    return grouped_mm_experts_forward(_Visited(self, visited), hidden_states, index, top_k_weights)


ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, packed_experts_forward)


class _Visited:
    """An experts module as if it had but some of its experts: their weights are unpacked when they are asked for."""

    def __init__(self, module: torch.nn.Module, experts: torch.Tensor) -> None:
        self._module = module
        self._experts = experts
        self.num_experts = len(experts)

    def __getattr__(self, name: str) -> Any:
        module, experts = self._module, self._experts
        if is_parametrized(module, name):
            weight = module.parametrizations[name]
            assert isinstance(weight[0], Bnb4bitParametrization)
            return unpack(weight.original, weight[0].quant_state, experts)
        if name in module._parameters and module._parameters[name] is not None:  # biases, or a weight left as it is
            return module._parameters[name][experts]
        return getattr(module, name)
