"""NVIDIA's modelopt: NVFP4 and FP8 with per-tensor scales, alone or mixed layer by layer.

Layout of a layer of `out` × `in` features, as modelopt exports it for vLLM and TensorRT-LLM
(`modelopt/torch/export/quant_utils.py`):

    NVFP4, W4A16_NVFP4   weight uint8 (out, in/2), weight_scale float8 (out, in/16), weight_scale_2 float32
    FP8                  weight float8 (out, in), weight_scale float32
    NVFP4, FP8           input_scale float32 besides

transformers 5.23 knows no quantizer of that name. Experts are stored one by one; they are counted so, stacked.
Scales of an FP8 cache, 8 bytes a layer, are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ...errors import ModelUnsupported, shorten
from ...formula import ceil
from ..inventory import TensorSpec
from .library import fp8_model
from .methods import UNTOLD
from .names import globbed, renamer
from .skeleton import Weight, build, packed_specs

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

NVFP4_BLOCK = 16


def modelopt_tensors(
    quantization: dict[str, Any], config: PreTrainedConfig, cls: type[PreTrainedModel]
) -> Iterator[TensorSpec]:
    """Layers in the format that the settings give all of them, or each by name.

    Raises:
        ModelUnsupported: a layer has a format whose layout is not known here.
    """
    listed = quantization.get("quantized_layers")
    if not listed and not quantization.get("quant_algo"):
        raise UNTOLD
    model = build(config, cls)
    renamed = renamer(model)
    own = {renamed(name): values for name, values in (listed or {}).items()}
    skips = [*quantization.get("ignore", []), *(quantization.get("exclude_modules") or [])]
    skipped = globbed([*skips, *map(renamed, skips)])

    def pack(weight: Weight) -> tuple[TensorSpec, ...] | None:
        settings = _listed_settings(weight.module, own) if listed else quantization
        if settings is None or skipped(weight.module) or (weight.role == "head" and not listed):
            return None
        return _layout(settings)(weight, settings)

    if quantization.get("quant_algo") == "MIXED_PRECISION" and not listed:
        raise ModelUnsupported(
            "This checkpoint mixes formats layer by layer, and the list of its layers is not in the config given.",
            "Ask for it while the Hub can be reached: the list is in the model's own config.json.",
        )
    return packed_specs(model, pack)


def fp8_with_nvfp4_experts(
    quantization: dict[str, Any], config: PreTrainedConfig, cls: type[PreTrainedModel]
) -> Iterator[TensorSpec]:
    """A block-wise FP8 model of which only the routed experts were quantized again, to NVFP4."""
    model = fp8_model(quantization, config, cls, with_experts=False)
    return packed_specs(model, lambda weight: _nvfp4(weight, quantization) if weight.stack else None)


def _listed_settings(module: str, own: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Settings of the nearest module above that is listed: experts are listed as one."""
    while module:
        if module in own:
            return own[module]
        module = module.rpartition(".")[0]
    return None


def _nvfp4(weight: Weight, settings: dict[str, Any], input_scale: bool = True) -> tuple[TensorSpec, ...]:
    block = settings.get("group_size") or NVFP4_BLOCK
    return (
        weight.packed("weight", (*weight.stack, weight.rows, ceil(weight.columns, 2)), "uint8"),
        weight.constant("weight_scale", (*weight.stack, weight.rows, ceil(weight.columns, block)), "float8_e4m3fn"),
        weight.constant("weight_scale_2", _scalar(weight), "float32"),
        *((weight.constant("input_scale", _scalar(weight), "float32"),) if input_scale else ()),
    )


def _nvfp4_weight_only(weight: Weight, settings: dict[str, Any]) -> tuple[TensorSpec, ...]:
    return _nvfp4(weight, settings, input_scale=False)


def _fp8(weight: Weight, settings: dict[str, Any]) -> tuple[TensorSpec, ...]:
    return (
        weight.packed("weight", (*weight.stack, weight.rows, weight.columns), "float8_e4m3fn"),
        weight.constant("weight_scale", _scalar(weight), "float32"),
        weight.constant("input_scale", _scalar(weight), "float32"),
    )


def _scalar(weight: Weight) -> tuple[int, ...]:
    return weight.scalars if weight.stack else ()


_Layout = Callable[[Weight, dict[str, Any]], "tuple[TensorSpec, ...]"]
_LAYOUTS: dict[str, _Layout] = {"NVFP4": _nvfp4, "W4A16_NVFP4": _nvfp4_weight_only, "FP8": _fp8}


def _layout(settings: dict[str, Any]) -> _Layout:
    name = settings.get("quant_algo")
    if name not in _LAYOUTS:
        raise ModelUnsupported(
            f"modelopt stored a layer of this checkpoint as {shorten(str(name), 40)}, "
            "whose layout in memory is not known here.",
            f"Formats known are {', '.join(_LAYOUTS)}; pick another copy of this model.",
        )
    return _LAYOUTS[name]
