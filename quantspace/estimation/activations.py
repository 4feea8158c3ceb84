"""What a forward pass holds for a moment: a first, stated approximation of the peak in prefill.

The whole prompt goes through one layer at a time. At a layer's widest point the residual stream, its
normalized copy and three feed-forward rows (gate, up, their product) are alive. Then come the logits of
the last position only, with the float32 copy that sampling makes (`transformers/generation/utils.py`).
4-bit layers add the dequantized copy of one weight (`bitsandbytes/autograd/_functions.py`, MatMul4Bit).
Sliding layers pin the prompt's keys and values until the first decode step.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..precision import DTYPE_BYTES, Precision
from .cache import pinned_prompt_bytes
from .inventory import Inventory

RESIDUAL_ROWS = 2
MLP_ROWS = 3
LOGITS_COPY_BYTES = 4


@dataclass(frozen=True, slots=True)
class ActivationBytes:
    """The terms of the peak; `total` adds what is alive together."""

    layer: int
    logits: int
    dequantized: int
    pinned_prompt: int

    @property
    def total(self) -> int:
        return max(self.layer + self.dequantized, self.logits) + self.pinned_prompt


def activation_bytes(
    inventory: Inventory, precision: Precision, context: int, batch: int, kv_dtype: str
) -> ActivationBytes:
    """Bytes at the peak of a prefill of `context` tokens in each of `batch` sequences."""
    shape = inventory.activations
    element = DTYPE_BYTES[precision.dtype]
    widest = RESIDUAL_ROWS * shape.hidden + MLP_ROWS * shape.mlp
    dequantized = inventory.largest_quantizable * element if precision.method == "4bit" else 0
    return ActivationBytes(
        layer=batch * context * widest * element,
        logits=batch * shape.vocab * (element + LOGITS_COPY_BYTES),
        dequantized=dequantized,
        pinned_prompt=pinned_prompt_bytes(inventory, context, batch, kv_dtype),
    )
