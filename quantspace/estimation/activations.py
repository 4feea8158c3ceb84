"""What a prefill holds for a moment, besides weights and the cache that stays.

The pass itself was watched on `meta` (`meta_peak.py`): the bytes alive at its widest operation, as a
polynomial in tokens, logits and the float32 copy that sampling makes included. What a quantized layer and a
sliding window add is stated here.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..precision import DTYPE_BYTES, Precision
from .cache import pinned_prompt_bytes, prefilled_bytes
from .inventory import Inventory, PeakTerm

INT32_BYTES = 4
MASK_DRAFTS = 3  # bytes a pair of tokens while a mask is put together (transformers/masking_utils.py)
PROMPT_BYTES = 3 * 8  # a token: its id, its place in the attention mask, its position, each int64


@dataclass(frozen=True, slots=True)
class ActivationBytes:
    """Terms of the peak; `total` is the most that is alive at once.

    Attributes:
        widest: the term of `Inventory.peak` that counts at this length.
        prompt: bytes of the encoded prompt.
        forward: bytes of that term, less the cache that is in it.
        quantization: what a quantized layer adds: in 4-bit the dequantized copy of one weight
            (`bitsandbytes/autograd/_functions.py`, MatMul4Bit), in int8 the int32 products of the widest
            layer and the int8 copy of its input (`MatMul8bitLt`).
        mask: one byte for each pair of tokens, where a sliding layer needs a mask of its own.
        pinned_prompt: keys and values beyond the window, which views keep until the first decode step.
    """

    widest: PeakTerm
    prompt: int
    forward: int
    quantization: int
    mask: int
    pinned_prompt: int

    @property
    def at_once(self) -> int:
        """Bytes alive at the widest operation."""
        return self.prompt + self.forward + self.quantization + self.mask + self.pinned_prompt

    @property
    def drafts(self) -> int:
        """Bytes alive while masks are put together, before any layer has run."""
        return self.prompt + MASK_DRAFTS * self.mask

    @property
    def total(self) -> int:
        return max(self.at_once, self.drafts)


def activation_bytes(
    inventory: Inventory, precision: Precision, context: int, batch: int, kv_dtype: str
) -> ActivationBytes:
    """Bytes at the peak of a prefill of `context` tokens in each of `batch` sequences."""
    widest = max(inventory.peak, key=lambda term: term.at(context, batch))
    alive = widest.at(context, batch) * scale(precision)
    contained = prefilled_bytes(inventory, context, batch, precision.dtype)
    return ActivationBytes(
        widest=widest,
        prompt=PROMPT_BYTES * context * batch,
        forward=max(alive - contained, 0),
        quantization=_quantization_bytes(inventory, precision, context * batch),
        mask=_mask_bytes(inventory, context),
        pinned_prompt=pinned_prompt_bytes(inventory, context, batch, kv_dtype),
    )


def scale(precision: Precision) -> int:
    """The passes were watched in bfloat16; in float32 everything is taken as twice as large."""
    return DTYPE_BYTES[precision.dtype] // DTYPE_BYTES["bfloat16"]


def _quantization_bytes(inventory: Inventory, precision: Precision, tokens: int) -> int:
    if precision.method == "4bit":
        return inventory.largest_quantizable * DTYPE_BYTES[precision.dtype]
    if precision.method == "int8":
        return tokens * inventory.widest_quantizable * (INT32_BYTES + 1)
    return 0


def _mask_bytes(inventory: Inventory, context: int) -> int:
    windows = {layer.window for layer in inventory.cache if layer.window and layer.window < context}
    return len(windows) * context * context
