"""Quantized storage as the names and shapes in a header tell it: which tensors are one packed weight, and its shape.

Layouts are those of the formats' own writers: GPTQ and AWQ (AutoGPTQ, AutoAWQ), compressed-tensors, NVIDIA's
modelopt, MXFP4 (gpt-oss), FP8 (DeepSeek, FBGEMM), BitNet and bitsandbytes, each as transformers reads it
(`transformers/quantizers/`, `transformers/integrations/`). What such a checkpoint is and what runs it stands in
`native/methods.py`; here nothing but a header is known, no value of a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

from ...hub.safetensors_headers import HeaderTensor

_INTEGERS = ("U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")
_SMALL_FLOATS = ("F8", "F6", "F4")
_PACKED_FROM = 4096  # bytes: an integer tensor that is smaller is a buffer
_UNTOLD_BITS = 4
# Constants of a quantizer that stand beside a weight, or under its name.
_CONSTANT = re.compile(
    r"\.(scales|qzeros|g_idx|SCB|weight_format|weight_shape|weight_scale(_inv|_2)?|weight_(global_scale|zero_point|g_idx)"
    r"|input_(global_)?scale(_ub)?|activation_scale|scale|[kvq]_scale|weight\.(SCB|absmax|quant_map|nested_\w+|quant_state\..+))$"
    r"|_(scales?|scale_inv|scale_2|zero_point)$"
)


@dataclass(frozen=True, slots=True)
class LogicalTensor:
    """A tensor as computation sees it.

    Attributes:
        shape: unpacked.
        floating: whether its elements are numbers that follow the model's dtype.
        stored: the tensor of the header that holds it; its `bytes` are those of the data.
        method: of the packing, by its id in `native/methods.py`, `integers` where that isn't known; else empty.
        constant: whether it is a quantizer's, and no part of the unquantized model.
        shaped: whether `shape` is the true one; else only its elements are.
    """

    name: str
    shape: tuple[int, ...]
    floating: bool
    stored: HeaderTensor
    method: str = ""
    constant: bool = False
    shaped: bool = True


Beside = Mapping[str, HeaderTensor]  # all tensors of a model, by name
_Found = tuple[str, tuple[int, ...], bool] | None  # method, unpacked shape, whether that is its true shape


def unpacked(tensors: Iterable[HeaderTensor], bits: int | None = None) -> list[LogicalTensor]:
    """Every tensor of a header as computation sees it, constants marked.

    Args:
        bits: of a quantized weight, by the config; `None` where that doesn't say.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    return [_logical(tensor, by_name, bits) for tensor in by_name.values()]


def _logical(tensor: HeaderTensor, beside: Beside, bits: int | None) -> LogicalTensor:
    if _is_constant(tensor, beside):
        return LogicalTensor(tensor.name, tensor.shape, False, tensor, constant=True)
    for suffix, name, read in _READERS:
        if tensor.name.endswith(suffix):
            stem = tensor.name[: -len(suffix)]
            if (found := read(tensor, stem, beside, bits)) is not None:
                method, shape, shaped = found
                return LogicalTensor(f"{stem}{name}", shape, True, tensor, method, shaped=shaped)
    if tensor.dtype.startswith(_SMALL_FLOATS):
        return LogicalTensor(tensor.name, tensor.shape, True, tensor, "fp8" if tensor.dtype[1] == "8" else "integers")
    if tensor.dtype in _INTEGERS and tensor.bytes >= _PACKED_FROM and _is_weight(tensor):
        elements = tensor.bytes * 8 // (bits or _UNTOLD_BITS)
        return LogicalTensor(tensor.name, (elements,), True, tensor, "integers", shaped=False)
    floating = tensor.dtype in ("F16", "BF16", "F32", "F64")
    return LogicalTensor(tensor.name, tensor.shape, floating, tensor)


def _is_weight(tensor: HeaderTensor) -> bool:
    return tensor.name.endswith(("weight", "_proj", "W_q", "codes", "Qidxs")) and len(tensor.shape) > 1


def _is_constant(tensor: HeaderTensor, beside: Beside) -> bool:
    match = None if tensor.name.endswith(".weight") else _CONSTANT.search(tensor.name)
    if match is None:
        return False
    stem = tensor.name[: match.start()]
    if match[0].startswith("_"):  # of a parameter that is no module: `experts.down_proj_scale`
        weight = beside.get(f"{stem}_blocks") or beside.get(stem)
        return weight is not None and _is_packed(weight)
    if match[0] in (".k_scale", ".v_scale", ".q_scale"):
        return True
    packed = (beside.get(f"{stem}.{leaf}") for leaf in ("weight", "qweight", "weight_packed"))
    return any(weight and _is_packed(weight) for weight in packed)


def _is_packed(weight: HeaderTensor) -> bool:
    return weight.dtype in _INTEGERS or weight.dtype.startswith(_SMALL_FLOATS)


def _integers(tensor: HeaderTensor, stem: str, beside: Beside, bits: int | None) -> _Found:
    """GPTQ packs inputs, AWQ packs outputs, both into int32; zero points are packed along the outputs."""
    scales, zeros = beside.get(f"{stem}.scales"), beside.get(f"{stem}.qzeros")
    if tensor.dtype != "I32" or scales is None or len(tensor.shape) != 2 or len(scales.shape) != 2:
        return None
    outputs = scales.shape[1]
    if tensor.shape[1] != outputs:
        return "awq", (outputs, tensor.shape[0]), True
    order = beside.get(f"{stem}.g_idx")
    if order is not None and len(order.shape) == 1 and order.shape[0] >= tensor.shape[0]:
        return "gptq", (outputs, order.shape[0]), True
    if zeros is not None and len(zeros.shape) == 2 and zeros.shape[1]:
        return "gptq", (outputs, tensor.shape[0] * outputs // zeros.shape[1]), True
    return "gptq", (outputs, tensor.shape[0] * 32 // (bits or _UNTOLD_BITS)), bits is not None


def _compressed(tensor: HeaderTensor, stem: str, beside: Beside, bits: int | None) -> _Found:
    """compressed-tensors packs inputs: eight of 4 bits into an int32, or two of NVFP4 into a byte."""
    if len(tensor.shape) < 2:
        return None
    *outer, columns = tensor.shape
    if tensor.dtype == "U8":
        return "compressed-tensors", (*outer, 2 * columns), True
    return "compressed-tensors", (*outer, columns * 32 // (bits or _UNTOLD_BITS)), bits is not None


def _weight(tensor: HeaderTensor, stem: str, beside: Beside, bits: int | None) -> _Found:
    """Eight bits or fewer under a weight's own name: what stands beside it tells which."""
    scale = beside.get(f"{stem}.weight_scale") or beside.get(f"{stem}.scale")
    if tensor.dtype == "U8" and f"{stem}.weight.absmax" in beside:
        return "bitsandbytes", (2 * tensor.bytes,), False
    if tensor.dtype == "I8" and (f"{stem}.SCB" in beside or f"{stem}.weight.SCB" in beside):
        return "bitsandbytes", tensor.shape, True
    if len(tensor.shape) < 2 or scale is None:
        return None
    *outer, columns = tensor.shape
    if tensor.dtype in ("U8", "I8") and len(scale.shape) == len(tensor.shape):
        block = {"F8_E4M3": 16, "F8_E8M0": 32}.get(scale.dtype)  # NVFP4, MXFP4
        if block and scale.shape[-1] * block == 2 * columns:
            return "modelopt" if block == 16 else "fp8", (*outer, 2 * columns), True
    if tensor.dtype == "U8" and prod(scale.shape) == 1:
        return "bitnet", (4 * tensor.shape[0], *tensor.shape[1:]), True
    return ("compressed-tensors", tensor.shape, True) if tensor.dtype == "I8" else None


def _blocks(tensor: HeaderTensor, stem: str, beside: Beside, bits: int | None) -> _Found:
    """MXFP4 of gpt-oss: `(experts, rows, groups, 16)` bytes, two values each."""
    if tensor.dtype != "U8" or f"{stem}_scales" not in beside or len(tensor.shape) != 4:
        return None
    experts, rows, groups, width = tensor.shape
    return "mxfp4", (experts, rows, 2 * groups * width), True


# Suffix of the packed tensor, suffix of the weight that it stands for, and what reads its shape.
_READERS: tuple[tuple[str, str, Callable[[HeaderTensor, str, Beside, int | None], _Found]], ...] = (
    (".qweight", ".weight", _integers),
    (".weight_packed", ".weight", _compressed),
    ("_blocks", "", _blocks),
    (".weight", ".weight", _weight),
)
