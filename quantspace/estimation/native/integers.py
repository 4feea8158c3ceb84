"""GPTQ and AWQ: integers packed into 32-bit words, with a scale and a zero point for each group of inputs.

Layouts of gptqmodel 7.7 (`gptqmodel/nn_modules/qlinear/__init__.py`: `GPTQQuantLinear`, `AWQuantLinear`), which
transformers loads them with, for a layer of `in` × `out` features with groups of g inputs and b bits:

    GPTQ  qweight int32 (⌈in·b/32⌉, out)   qzeros int32 (⌈in/g⌉, ⌈out·b/32⌉)   scales float16 (⌈in/g⌉, out)
          g_idx int32 (in,)
    AWQ   qweight int32 (in, ⌈out·b/32⌉)   qzeros int32 (in/g, ⌈out·b/32⌉)     scales float16 (in/g, out)

Checkpoints store experts one by one; where transformers fuses them, they are counted so, stacked. Kernels may
reorder the words and pad layers to their tile sizes: that is not counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...formula import ceil
from ..inventory import TensorSpec
from .names import renamer
from .skeleton import Weight, build, decoder_prefix, packed_specs

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

WORD = 32  # bits


def gptq_tensors(
    quantization: dict[str, Any], config: PreTrainedConfig, cls: type[PreTrainedModel]
) -> Iterator[TensorSpec]:
    """Linear layers of the decoder's blocks, as GPTQ stores them; `dynamic` rules override bits or skip layers."""
    model = build(config, cls)
    block = re.compile(rf"{re.escape(decoder_prefix(model))}.*\.\d+\.")
    listed = quantization.get("modules_in_block_to_quantize") or []
    endings = tuple(name for group in listed for name in group) or ("",)

    def pack(weight: Weight) -> tuple[TensorSpec, ...] | None:
        in_a_block = block.match(weight.module) and weight.module.endswith(endings)
        if not in_a_block and not (weight.role == "head" and quantization.get("lm_head")):
            return None
        settings = _own_settings(weight.module, quantization)
        return None if settings is None else _gptq(weight, settings)

    return packed_specs(model, pack)


def awq_tensors(
    quantization: dict[str, Any], config: PreTrainedConfig, cls: type[PreTrainedModel]
) -> Iterator[TensorSpec]:
    """Linear layers that aren't skipped, as AWQ's GEMM layout stores them."""
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    model = build(config, cls)
    named = quantization.get("modules_to_not_convert") or []
    skipped = HfQuantizer.get_modules_to_not_convert(
        model, [*named, *map(renamer(model), named)], model._keep_in_fp32_modules, add_default_skips=True
    )

    def pack(weight: Weight) -> tuple[TensorSpec, ...] | None:
        return _awq(weight, quantization) if should_convert_module(weight.module, skipped) else None

    return packed_specs(model, pack)


def _gptq(weight: Weight, settings: dict[str, Any]) -> tuple[TensorSpec, ...]:
    bits, group = settings["bits"], _group(weight, settings)
    groups = ceil(weight.columns, group)
    return (
        weight.packed("qweight", (*weight.stack, ceil(weight.columns * bits, WORD), weight.rows), "int32"),
        weight.constant("qzeros", (*weight.stack, groups, ceil(weight.rows * bits, WORD)), "int32"),
        weight.constant("scales", (*weight.stack, groups, weight.rows), "float16"),
        weight.constant("g_idx", (*weight.stack, weight.parts * weight.columns), "int32"),
    )


def _awq(weight: Weight, settings: dict[str, Any]) -> tuple[TensorSpec, ...]:
    bits = settings.get("bits", settings.get("w_bit", 4))
    groups = weight.columns // _group(weight, settings)
    words = ceil(weight.rows * bits, WORD)
    zeros = (weight.constant("qzeros", (*weight.stack, groups, words), "int32"),)
    return (
        weight.packed("qweight", (*weight.stack, weight.columns, words), "int32"),
        *(zeros if settings.get("zero_point", True) else ()),
        weight.constant("scales", (*weight.stack, groups, weight.rows), "float16"),
    )


def _group(weight: Weight, settings: dict[str, Any]) -> int:
    """Inputs that share a scale; −1 stands for all of them."""
    group = settings.get("group_size", settings.get("q_group_size", 128))
    return group if group > 0 else weight.columns


def _own_settings(module: str, quantization: dict[str, Any]) -> dict[str, Any] | None:
    """Settings of one layer after gptqmodel's `dynamic` rules: `-:` skips what matches, others override."""
    for rule, values in (quantization.get("dynamic") or {}).items():
        if re.match(rule.removeprefix("+:").removeprefix("-:"), module):
            return None if rule.startswith("-:") else {**quantization, **(values or {})}
    return quantization
