"""A checkpoint that is already quantized, tensor by tensor, as stored.

One module a format. Where transformers can make the layers of a format without its kernels, its own quantizer
makes them on the `meta` device (`library.py`, `torchao.py`); the rest is arithmetic from each format's own source
(`integers.py`, `compressed.py`, `modelopt.py`). What a format is and needs stands in `methods.py`.

Not here: what our precisions make of an unquantized checkpoint (`precision.py`), and GGUF files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..inventory import TensorSpec
from .compressed import compressed_tensors
from .integers import awq_tensors, gptq_tensors
from .library import bitnet_tensors, bitsandbytes_tensors, fbgemm_tensors, fp8_tensors, mxfp4_tensors
from .methods import NativeMethod, native_method, quantization_of
from .modelopt import fp8_with_nvfp4_experts, modelopt_tensors
from .torchao import torchao_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["NativeMethod", "native_method", "native_tensors", "outside_footprint", "quantization_of"]

_READERS: dict[str, Callable[..., Iterator[TensorSpec]]] = {
    "awq": awq_tensors,
    "bitnet": bitnet_tensors,
    "bitsandbytes": bitsandbytes_tensors,
    "compressed-tensors": compressed_tensors,
    "fbgemm_fp8": fbgemm_tensors,
    "fp8": fp8_tensors,
    "fp8+nvfp4": fp8_with_nvfp4_experts,
    "gptq": gptq_tensors,
    "modelopt": modelopt_tensors,
    "mxfp4": mxfp4_tensors,
    "torchao": torchao_tensors,
}

# What bitsandbytes keeps in a weight's attributes, torchao inside it, and the kernel of MXFP4 in its own objects.
_BITSANDBYTES = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "nested_offset", "SCB")
_OUTSIDE = (
    *(f".weight.{leaf}" for leaf in (*_BITSANDBYTES, "scale", "zero_point")),
    *(f".experts.{leaf}_proj_{part}" for leaf in ("gate_up", "down") for part in ("blocks", "scales")),
)


def native_tensors(
    config: dict[str, Any],
    parsed: PreTrainedConfig,
    cls: type[PreTrainedModel],
    hf_quant_config: dict[str, Any] | None = None,
) -> tuple[tuple[TensorSpec, ...], str]:
    """Every tensor of a quantized checkpoint as memory holds it, and a sentence on what runs it.

    Args:
        config: the parsed `config.json`.
        parsed: its config object, as `architecture.parse_config` gives it.
        cls: the class that is built, as `architecture.model_class` gives it.
        hf_quant_config: the parsed `hf_quant_config.json` of a modelopt checkpoint, where there is one.

    Returns:
        Packed weights under the role of the weight they stand for, constants as `buffer`, each with the shape
        and dtype it is held in, `rows` 0 throughout; and what the format is and needs.

    Raises:
        ModelUnsupported: the checkpoint is not quantized, or in a way whose layout is not known here.
    """
    method = native_method(config, hf_quant_config)
    quantization = quantization_of(config, hf_quant_config)
    return tuple(_READERS[method.id](quantization, parsed, cls)), f"{method.label}. {method.needs}"


def outside_footprint(tensors: tuple[TensorSpec, ...]) -> frozenset[str]:
    """Names of the tensors that `get_memory_footprint()` misses, being neither parameters nor buffers."""
    return frozenset(t.name for t in tensors if t.name.endswith(_OUTSIDE))
