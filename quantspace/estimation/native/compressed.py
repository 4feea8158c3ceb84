"""compressed-tensors: what llm-compressor writes, in its `float-`, `int-`, `pack-` and `nvfp4-pack-quantized` formats.

Layouts of compressed-tensors 0.20 (`quantization/lifecycle/initialize.py`, `compressors/*/base.py`), for a layer
of `out` × `in` features; a scale has the shape of its strategy:

    tensor (1,)   channel (out, 1)   group, tensor_group (out, in/g)   block (⌈out/b₀⌉, ⌈in/b₁⌉)

    float-, int-, naive-quantized   weight float8 or int8 (out, in), weight_scale in the model's dtype
    pack-quantized                  weight_packed int32 (out, ⌈in·b/32⌉), weight_scale, weight_shape int64 (2,)
    nvfp4-pack-quantized            weight_packed uint8 (out, in/2), weight_scale float8, weight_global_scale float32

Zero points are stored for asymmetric weights only, activation scales where they are static. Experts are counted
as the checkpoint has them, packed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ...errors import ModelUnsupported, shorten
from ...formula import ceil
from ..inventory import TensorSpec
from .methods import UNTOLD
from .names import renamer
from .skeleton import Weight, build, decoder_prefix, packed_specs

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

WORD = 32  # bits


def compressed_tensors(
    quantization: dict[str, Any], config: PreTrainedConfig, cls: type[PreTrainedModel]
) -> Iterator[TensorSpec]:
    """Layers that a group of the config targets and that it does not ignore, in the group's format.

    Raises:
        ModelUnsupported: a group has a format whose layout is not known here.
    """
    if not quantization.get("config_groups"):
        raise UNTOLD
    model = build(config, cls)
    renamed = renamer(model)
    ignored = _matcher([*quantization.get("ignore", []), *map(renamed, quantization.get("ignore", []))])
    groups = [
        (_matcher(group["targets"]), _layout(group, quantization), group)
        for group in quantization["config_groups"].values()
    ]

    within = decoder_prefix(model) if quantization.get("text_only") else ""

    def pack(weight: Weight) -> tuple[TensorSpec, ...] | None:
        if ignored(weight.module) or not weight.module.startswith(within):
            return None
        for targeted, layout, group in groups:
            if targeted(weight.module):
                return (*layout(weight, group["weights"]), *_activation_scales(weight, group))
        return None

    return packed_specs(model, pack)


def _matcher(patterns: list[str]) -> Callable[[str], bool]:
    """Whether a linear layer's name, or its class, is one of `patterns`; `re:` starts a regular expression."""
    names = {pattern for pattern in patterns if not pattern.startswith("re:")}
    expressions = [re.compile(pattern[3:]) for pattern in patterns if pattern.startswith("re:")]
    return lambda name: "Linear" in names or name in names or any(e.match(name) for e in expressions)


_Layout = Callable[[Weight, dict[str, Any]], "tuple[TensorSpec, ...]"]


def _layout(group: dict[str, Any], quantization: dict[str, Any]) -> _Layout:
    name = group.get("format") or quantization.get("format") or "dense"
    if name not in _LAYOUTS:
        raise ModelUnsupported(
            f"This checkpoint is stored in the {shorten(str(name), 40)} format of compressed-tensors, "
            "whose layout in memory is not known here.",
            "Pick the repository of the original weights, or a copy in FP8 or pack-quantized INT4.",
        )
    return _LAYOUTS[name]


def _one_value_each(weight: Weight, args: dict[str, Any]) -> tuple[TensorSpec, ...]:
    """A value an element: 8 bits, as float or integer."""
    data = "float8_e4m3fn" if args.get("type") == "float" else "int8"
    whole = weight.packed("weight", (*weight.stack, weight.rows, weight.columns), data)
    zeros = () if args.get("symmetric", True) else (weight.constant("weight_zero_point", _scales(weight, args), data),)
    return whole, _scale(weight, args), *zeros


def _words(weight: Weight, args: dict[str, Any]) -> tuple[TensorSpec, ...]:
    """Integers of any width in 32-bit words; zero points are packed along the output."""
    bits, scales = args["num_bits"], _scales(weight, args)
    zeros = (*weight.stack, ceil(weight.rows * bits, WORD), scales[-1])
    return (
        weight.packed("weight_packed", (*weight.stack, weight.rows, ceil(weight.columns * bits, WORD)), "int32"),
        _scale(weight, args),
        *(() if args.get("symmetric", True) else (weight.constant("weight_zero_point", zeros, "int32"),)),
        weight.constant("weight_shape", (*weight.scalars, 2) if weight.stack else (2,), "int64"),
    )


def _nvfp4(weight: Weight, args: dict[str, Any]) -> tuple[TensorSpec, ...]:
    """Two values a byte, a float8 scale for each 16 of them, and one float32 scale over all."""
    group = args.get("group_size") or 16
    return (
        weight.packed("weight_packed", (*weight.stack, weight.rows, ceil(weight.columns, 2)), "uint8"),
        weight.constant("weight_scale", (*weight.stack, weight.rows, ceil(weight.columns, group)), "float8_e4m3fn"),
        weight.constant("weight_global_scale", weight.scalars, "float32"),
    )


_LAYOUTS: dict[str, _Layout] = {
    "float-quantized": _one_value_each,
    "int-quantized": _one_value_each,
    "naive-quantized": _one_value_each,
    "nvfp4-pack-quantized": _nvfp4,
    "pack-quantized": _words,
}


def _scale(weight: Weight, args: dict[str, Any]) -> TensorSpec:
    return TensorSpec(weight.beside("weight_scale"), _scales(weight, args), "buffer")


def _scales(weight: Weight, args: dict[str, Any]) -> tuple[int, ...]:
    match args.get("strategy"):
        case "channel":
            return (*weight.stack, weight.rows, 1)
        case "group" | "tensor_group":
            return (*weight.stack, weight.rows, ceil(weight.columns, args["group_size"]))
        case "block":
            high, wide = args["block_structure"]
            return (*weight.stack, ceil(weight.rows, high), ceil(weight.columns, wide))
        case _:
            return weight.scalars


def _activation_scales(weight: Weight, group: dict[str, Any]) -> Iterator[TensorSpec]:
    """Scales of inputs that were measured beforehand; none where they are found as the model runs."""
    inputs = group.get("input_activations") or {"dynamic": True}
    if inputs.get("dynamic") is True:
        return
    if inputs.get("strategy") == "tensor_group":
        yield weight.constant("input_global_scale", weight.scalars, "float32")
    else:
        yield TensorSpec(weight.beside("input_scale"), weight.scalars, "buffer")
