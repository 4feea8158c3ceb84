"""Formats whose layers transformers can make without their kernels: its own classes, built on `meta`.

Quantizers check for a GPU and for packages in `validate_environment`, before they replace layers; only the
replacing is asked for here (`transformers/quantizers/base.py`, `preprocess_model`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..inventory import TensorSpec
from .names import matching, renamer
from .skeleton import build, specs_of, weights_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

BLOCK = 64  # weights that share one absmax in bitsandbytes' 4-bit formats
NESTED_BLOCK = 256  # absmax values that share one nested absmax
MXFP4_BLOCK = 32  # values that share one exponent


def fp8_tensors(
    quantization: dict[str, Any], config: PreTrainedConfig, cls: type[PreTrainedModel]
) -> Iterator[TensorSpec]:
    """Block-wise, per-tensor and static FP8, experts fused and included (`integrations/finegrained_fp8.py`)."""
    return specs_of(fp8_model(quantization, config, cls))


def fp8_model(
    quantization: dict[str, Any], config: PreTrainedConfig, cls: type[PreTrainedModel], with_experts: bool = True
) -> PreTrainedModel:
    """The model on `meta` with transformers' FP8 layers; fused experts left as they were where asked for."""
    from transformers.quantizers.base import HfQuantizer

    def replace_layers(model: PreTrainedModel) -> None:
        settings = _short_skips(quantization, model)
        if not with_experts:
            skipped = HfQuantizer.get_modules_to_not_convert(model, settings.get("modules_to_not_convert"))
            settings = {**settings, "modules_to_not_convert": [*skipped, r".*\.experts"]}
        _preprocess(model, settings)

    with _experts_class_restored():
        return build(config, cls, replace_layers)


def bitnet_tensors(
    quantization: dict[str, Any], config: PreTrainedConfig, cls: type[PreTrainedModel]
) -> Iterator[TensorSpec]:
    """Ternary weights, four a byte (`integrations/bitnet.py`)."""
    return specs_of(build(config, cls, lambda model: _preprocess(model, quantization)))


def bitsandbytes_tensors(
    quantization: dict[str, Any], config: PreTrainedConfig, cls: type[PreTrainedModel]
) -> Iterator[TensorSpec]:
    """LLM.int8 and 4-bit weights with the constants that are stored beside them (`bitsandbytes/nn/modules.py`)."""
    import bitsandbytes

    model = build(config, cls, lambda model: _preprocess(model, quantization))
    layers = {f"{name}.weight": module for name, module in model.named_modules()}
    for spec in specs_of(model):
        layer = layers.get(spec.name)
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            yield from _four_bit(spec, bool(quantization.get("bnb_4bit_use_double_quant")))
        elif isinstance(layer, bitsandbytes.nn.Linear8bitLt):
            yield TensorSpec(spec.name, spec.shape, spec.role, "int8")
            yield TensorSpec(f"{spec.name}.SCB", spec.shape[:1], "buffer", "float32")
        else:
            yield spec


def mxfp4_tensors(
    quantization: dict[str, Any], config: PreTrainedConfig, cls: type[PreTrainedModel]
) -> Iterator[TensorSpec]:
    """gpt-oss with its experts packed (`integrations/mxfp4.py`, `Mxfp4GptOssExperts`).

    Once loaded, blocks are the kernel's own tensors and scales are in its `PrecisionConfig`, one byte for 32
    values; both go here by the checkpoint's names. Some cards pad and reorder the blocks for their kernel: that
    is not counted.
    """
    from transformers.integrations.mxfp4 import Mxfp4GptOssExperts

    model = build(config, cls, lambda model: _replace_gpt_oss_experts(model, quantization))
    packed = {
        f"{name}.{leaf}"
        for name, module in model.named_modules()
        if isinstance(module, Mxfp4GptOssExperts)
        for leaf in ("gate_up_proj", "down_proj")
    }
    for spec in specs_of(model):
        if spec.name in packed:
            *stack, bytes_a_row = spec.shape
            yield replace(spec, name=f"{spec.name}_blocks")
            yield TensorSpec(f"{spec.name}_scales", (*stack, bytes_a_row * 2 // MXFP4_BLOCK), "buffer", "uint8")
        else:
            yield spec


def fbgemm_tensors(
    quantization: dict[str, Any], config: PreTrainedConfig, cls: type[PreTrainedModel]
) -> Iterator[TensorSpec]:
    """FP8 with a scale a row (`integrations/fbgemm_fp8.py`)."""
    return specs_of(build(config, cls, lambda model: _replace_for_fbgemm(model, quantization)))


def _preprocess(model: PreTrainedModel, quantization: dict[str, Any]) -> None:
    import torch
    from transformers.quantizers import AutoHfQuantizer

    quantizer = AutoHfQuantizer.from_config(dict(quantization, dequantize=False), pre_quantized=True)
    quantizer.preprocess_model(
        model=model, dtype=torch.bfloat16, device_map={"": "cpu"}, checkpoint_files=None, use_kernels=False
    )


@contextmanager
def _experts_class_restored() -> Iterator[None]:
    """transformers wraps `FP8Experts` anew for each layer that it replaces and never unwraps it
    (`integrations/moe.py`, `use_experts_implementation`): a dozen large models later, calls nest too deep."""
    from transformers.integrations.finegrained_fp8 import FP8Experts

    init, forward = FP8Experts.__init__, FP8Experts.forward
    try:
        yield
    finally:
        FP8Experts.__init__, FP8Experts.forward = init, forward


def _short_skips(quantization: dict[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """The settings without those skipped names that name nothing which could be converted."""
    key = "modules_to_not_convert" if quantization.get("modules_to_not_convert") else "ignored_layers"
    if not (skipped := quantization.get(key)):
        return quantization
    convertible = [weight.name.removesuffix(".weight") for weight in weights_of(model)]
    convertible += [name for name, _ in model.named_modules() if name.endswith("experts")]
    return {**quantization, key: matching(skipped, convertible, renamer(model))}


def _four_bit(spec: TensorSpec, double_quant: bool) -> Iterator[TensorSpec]:
    """Names are those under which bitsandbytes stores its `QuantState` (`bitsandbytes/functional.py`)."""

    def constant(leaf: str, shape: tuple[int, ...], dtype: str) -> TensorSpec:
        return TensorSpec(f"{spec.name}.{leaf}", shape, "buffer", dtype)

    blocks = -(-spec.elements // BLOCK)
    yield TensorSpec(spec.name, (-(-spec.elements // 2), 1), spec.role, "uint8")
    yield constant("absmax", (blocks,), "uint8" if double_quant else "float32")
    yield constant("quant_map", (16,), "float32")
    if double_quant:
        yield constant("nested_absmax", (-(-blocks // NESTED_BLOCK),), "float32")
        yield constant("nested_quant_map", (256,), "float32")
        yield constant("nested_offset", (), "float32")


def _skipped(model: PreTrainedModel, quantization: dict[str, Any]) -> list[str]:
    from transformers.quantizers.base import HfQuantizer

    return HfQuantizer.get_modules_to_not_convert(
        model, quantization.get("modules_to_not_convert"), model._keep_in_fp32_modules
    )


def _replace_gpt_oss_experts(model: PreTrainedModel, quantization: dict[str, Any]) -> None:
    """As `replace_with_mxfp4_linear`, which fetches a kernel first."""
    import torch
    from transformers.integrations.mxfp4 import Mxfp4GptOssExperts, Mxfp4GptOssMLP
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
    from transformers.quantizers.quantizers_utils import should_convert_module

    skipped = _skipped(model, quantization)
    for name, module in list(model.named_modules()):
        if isinstance(module, GptOssMLP) and should_convert_module(f"{name}.experts", skipped):
            with torch.device("meta"):
                model.set_submodule(name, Mxfp4GptOssMLP(module.router, Mxfp4GptOssExperts(model.config)))


def _replace_for_fbgemm(model: PreTrainedModel, quantization: dict[str, Any]) -> None:
    """As `replace_with_fbgemm_fp8_linear`, which asks for the kernel first."""
    import torch
    from transformers.integrations.fbgemm_fp8 import FbgemmFp8Linear, FbgemmFp8Llama4TextExperts
    from transformers.models.llama4.modeling_llama4 import Llama4TextExperts
    from transformers.quantizers.quantizers_utils import should_convert_module

    skipped = _skipped(model, quantization)
    for name, module in list(model.named_modules()):
        if not should_convert_module(name, skipped):
            continue
        replacement: torch.nn.Module | None = None
        with torch.device("meta"):
            if isinstance(module, Llama4TextExperts):
                replacement = FbgemmFp8Llama4TextExperts(model.config.get_text_config())
            elif isinstance(module, torch.nn.Linear):
                replacement = FbgemmFp8Linear(module.in_features, module.out_features, module.bias is not None)
        if replacement is not None:
            model.set_submodule(name, replacement)
