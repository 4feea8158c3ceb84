"""transformers' 4-bit quantizer of bitsandbytes, extended to fused experts.

transformers 5 reads a checkpoint parameter by parameter: it merges the experts of a layer into one, then asks the
quantizer whether it takes that, and hands it over (`core_model_loading.py`). So a layer's experts are there in 16
bits only until they are packed, and the model never is.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit
from bitsandbytes.nn.parametrize import replace_parameter_4bit_prequantized
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightTransform
from transformers.integrations.bitsandbytes import Bnb4bitQuantize
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import QuantizationMethod

from ...estimation.meta.reader import role_of
from .forward import IMPLEMENTATION
from .packing import pack

_PARTS = (
    "",
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
    ".quant_state.bitsandbytes__nf4",
    ".quant_state.bitsandbytes__fp4",
)  # of a packed parameter in a file, after its name
METHOD = "bitsandbytes_experts"  # `quant_method` of a config.json


def load_with_experts(
    cls: type[PreTrainedModel], folder: str | Path, config: PreTrainedConfig, device: str, **kwargs: Any
) -> PreTrainedModel:
    """`cls.from_pretrained` with linear layers and fused experts in 4 bits.

    Args:
        folder: of the checkpoint, in 16 or 32 bits.
        device: where the model goes, unless `device_map` says more.
        kwargs: of `from_pretrained`. A `quantization_config` for 4 bits is followed for the experts too (type,
            double quantization, modules to skip); without one it is NF4 with double quantization.

    A folder that `save_pretrained` wrote of such a model is read as it is, with the quantization it was written with.
    """
    asked, dtype = kwargs.pop("quantization_config", None), kwargs.setdefault("dtype", torch.bfloat16)
    kwargs.setdefault("device_map", {"": device})
    kwargs.setdefault("experts_implementation", IMPLEMENTATION)
    stored = PreTrainedConfig.get_config_dict(folder, local_files_only=True)[0].get("quantization_config") or {}
    if stored.get("quant_method") == METHOD:
        config = copy.deepcopy(config)
        config.quantization_config = stored
    else:
        kwargs["quantization_config"] = ExpertsConfig.like(asked, dtype)
    return cls.from_pretrained(folder, config=config, **kwargs)


def experts_of(model: PreTrainedModel) -> list[str]:
    """Names of the parameters that hold fused experts, as the estimate finds them."""
    head = model.get_output_embeddings()
    return [
        name
        for name, parameter in model.named_parameters()
        if role_of(name, parameter, model.get_submodule(name.rpartition(".")[0]), head) == "experts"
    ]


@register_quantization_config(METHOD)
class ExpertsConfig(BitsAndBytesConfig):
    """`BitsAndBytesConfig` of 4 bits that fused experts share."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "load_in_4bit": True})
        self.quant_method = METHOD

    def to_dict(self) -> dict[str, Any]:
        """What a config.json tells of it: by its own name, or transformers would take it for plain bitsandbytes."""
        return {key: value for key, value in super().to_dict().items() if not key.lstrip("_").startswith("load_in")}

    @classmethod
    def like(cls, other: BitsAndBytesConfig | None, dtype: torch.dtype) -> ExpertsConfig:
        """The same as `other`, with experts; NF4 with double quantization, computing in `dtype`, without one."""
        if other is None:
            return cls(bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
        return cls(
            bnb_4bit_quant_type=other.bnb_4bit_quant_type,
            bnb_4bit_use_double_quant=other.bnb_4bit_use_double_quant,
            bnb_4bit_compute_dtype=other.bnb_4bit_compute_dtype,
            llm_int8_skip_modules=other.llm_int8_skip_modules,
            llm_int8_enable_fp32_cpu_offload=other.llm_int8_enable_fp32_cpu_offload,
        )


class _Quantize(Bnb4bitQuantize):
    """Packs experts as they have been merged; linear layers as ever."""

    def convert(
        self, input_dict: dict[str, Any], model: torch.nn.Module | None = None, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        quantizer: ExpertsQuantizer = self.hf_quantizer
        packed = {}
        for name in [name for name in input_dict if name in quantizer.experts]:
            value = input_dict.pop(name)
            packed[name] = quantizer.pack(name, value[0] if isinstance(value, list) else value)
        return packed | super().convert(input_dict, model=model, **kwargs)


class _Restore(ConversionOps):
    """Takes packed experts with what unpacks them from a file that `save_pretrained` wrote."""

    def __init__(self, hf_quantizer: ExpertsQuantizer) -> None:
        self.hf_quantizer = hf_quantizer

    def __deepcopy__(self, memo: dict[int, Any]) -> _Restore:
        return self  # transformers copies operations for each parameter; the quantizer must stay the one there is

    def convert(self, input_dict: dict[str, Any], full_layer_name: str = "", **kwargs: Any) -> dict[str, torch.Tensor]:
        tensors = {key: value[0] if isinstance(value, list) else value for key, value in input_dict.items()}
        target = min(tensors, key=len)
        packed = tensors.pop(target)
        if tensors:  # else experts that were skipped
            constants = {key.removeprefix(f"{target}."): value for key, value in tensors.items()}
            self.hf_quantizer.states[full_layer_name] = QuantState.from_dict(constants, packed.device)
        return {target: packed}


@register_quantizer(METHOD)
class ExpertsQuantizer(Bnb4BitHfQuantizer):
    """`Bnb4BitHfQuantizer` that takes fused experts too, but for modules that are skipped."""

    quantization_config: ExpertsConfig

    def __init__(self, quantization_config: ExpertsConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.experts: frozenset[str] = frozenset()
        self.states: dict[str, QuantState] = {}  # of packed experts, until the model has all of its weights

    def pack(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Pack the experts of this name; what unpacks them is kept until the model is complete."""
        config = self.quantization_config
        packed, self.states[name] = pack(weight, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant)
        return packed

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        return param_name in self.experts or super().param_needs_quantization(model, param_name, **kwargs)

    def get_quantize_ops(self) -> _Quantize:
        return _Quantize(self)

    def get_weight_conversions(self) -> list[WeightConverter]:
        ends = sorted({".".join(name.split(".")[-2:]) for name in self.experts}) if self.pre_quantized else []
        restored = [WeightConverter([f"{end}{part}" for part in _PARTS], end, [_Restore(self)]) for end in ends]
        return super().get_weight_conversions() + restored

    def _stays_behind(self, conversion: WeightTransform) -> bool:
        """Whether saving must not undo this conversion: it would take packed experts apart, or it unpacked a file."""
        if not isinstance(conversion, WeightConverter):
            return False
        by_quantizer = any(hasattr(operation, "hf_quantizer") for operation in conversion.operations)
        targets = [target.removeprefix("\\1") for target in conversion.target_patterns]
        return by_quantizer or any(target in name for target in targets for name in self.states)

    def _process_model_before_weight_loading(self, model: PreTrainedModel, device_map: Any, **kwargs: Any) -> None:
        super()._process_model_before_weight_loading(model, device_map, **kwargs)
        skipped = self.modules_to_not_convert
        self.experts = frozenset(
            name for name in experts_of(model) if should_convert_module(name.rpartition(".")[0], skipped)
        )

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        model._weight_conversions = [one for one in model._weight_conversions if not self._stays_behind(one)]
        while self.states:
            name, state = self.states.popitem()
            owner, _, leaf = name.rpartition(".")
            module = model.get_submodule(owner)
            replace_parameter_4bit_prequantized(module, leaf, state.as_dict(), getattr(module, leaf).device)
        _spare_processors(model)
        model.quantization_method = QuantizationMethod.BITS_AND_BYTES  # what that can't do, this can't: `.to(dtype)`
        return super()._process_model_after_weight_loading(model, **kwargs)


def _spare_processors(model: PreTrainedModel) -> None:
    """Keep bitsandbytes 0.50 from packing anew, for processors with AVX-512 BF16, layers whose shape it can't.

    It wants 32 outputs and blocks of 64 inputs at a time (`functional.py`, `_convert_weight_packed_for_cpu`), and
    fails otherwise at the first pass: the gate of a shared expert (Qwen2-MoE, Qwen3-Next) has one output.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit) and (module.out_features % 32 or module.in_features % 64):
            module.support_avx512bf16_for_cpu = False
