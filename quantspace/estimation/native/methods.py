"""The ways in which checkpoints are stored quantized: how each is recognised, and what it needs to run so.

Requirements are those that transformers 5.23 checks (`transformers/quantizers/quantizer_*.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import ModelUnsupported, shorten
from ..here import Device, installed


@dataclass(frozen=True, slots=True)
class NativeMethod:
    """A format of quantized checkpoints.

    Attributes:
        id: stable name; the checkpoint's own `quant_method` where that tells enough.
        label: what it is, for people.
        needs: what runs it so, and what happens elsewhere; for people.
        loads: whether transformers loads it at all.
        stays_packed: whether transformers holds it packed while it generates.
        min_capability: compute capability below which transformers won't hold it packed; `None` for any.
        packages: of PyPI, without which it can't be loaded.
        kernels: of PyPI, without which it is unpacked while loading, as on a card that is too old.
        on_a_card: whether it is loaded on a GPU of `min_capability` alone, and not unpacked elsewhere.
    """

    id: str
    label: str
    needs: str
    loads: bool = True
    stays_packed: bool = True
    min_capability: tuple[int, int] | None = None
    packages: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    on_a_card: bool = False


UNTOLD = ModelUnsupported(
    "Which layers of this checkpoint are quantized, and how, is not told in the config given.",
    "Ask for it while the Hub can be reached: that stands in the files beside the weights.",
)
_ENGINES = "vLLM and SGLang run it packed"

METHODS: dict[str, NativeMethod] = {
    method.id: method
    for method in (
        NativeMethod(
            "awq",
            "AWQ, integers with a scale and a zero point a group",
            "Needs the gptqmodel package; transformers loads dense models only, as it fuses experts.",
            packages=("gptqmodel",),
        ),
        NativeMethod(
            "bitnet", "BitNet, four ternary weights a byte", "Runs anywhere; weights are unpacked at each use: slow."
        ),
        NativeMethod(
            "bitsandbytes",
            "bitsandbytes, as stored",
            "Needs the bitsandbytes package; runs on a GPU and on a CPU.",
            packages=("bitsandbytes",),
        ),
        NativeMethod(
            "compressed-tensors",
            "compressed-tensors, as stored",
            "Transformers needs the compressed-tensors package and unpacks the whole model to 16 bits before the first"
            f" token, fused experts while loading: plan for the 16-bit row there. {_ENGINES}.",
            stays_packed=False,
            packages=("compressed-tensors",),
        ),
        NativeMethod(
            "fbgemm_fp8",
            "FP8 with a scale a row (FBGEMM)",
            "Needs the fbgemm-gpu package and compute capability 9.0 (H100) or newer.",
            min_capability=(9, 0),
            packages=("fbgemm-gpu",),
            on_a_card=True,
        ),
        NativeMethod(
            "fp8",
            "FP8, as stored",
            "Needs compute capability 8.9 (L4, RTX 40, H100) or newer and the kernels package; transformers unpacks it"
            " to 16 bits on older cards and on a CPU.",
            min_capability=(8, 9),
            kernels=("kernels",),
        ),
        NativeMethod(
            "fp8+nvfp4",
            "FP8 with routed experts in NVFP4 (modelopt)",
            f"Transformers can't load it; {_ENGINES} on compute capability 10.0 (Blackwell) or newer.",
            loads=False,
            stays_packed=False,
            min_capability=(10, 0),
        ),
        NativeMethod(
            "gptq",
            "GPTQ, integers with a scale and a zero point a group",
            "Needs the optimum and gptqmodel packages; transformers loads dense models only, as it fuses experts.",
            packages=("optimum", "gptqmodel"),
        ),
        NativeMethod(
            "modelopt",
            "NVFP4 or FP8 of NVIDIA's modelopt, as stored",
            f"Transformers can't load it; {_ENGINES}: FP8 on compute capability 8.9 or newer, NVFP4 at full speed on"
            " 10.0 (Blackwell) or newer.",
            loads=False,
            stays_packed=False,
        ),
        NativeMethod(
            "mxfp4",
            "MXFP4 experts, 4.25 bits a weight; the rest in 16 bits",
            "Needs triton 3.4 and the kernels package, and compute capability 7.5 or newer; transformers unpacks it to"
            " 16 bits without them.",
            min_capability=(7, 5),
            kernels=("triton", "kernels"),
        ),
        NativeMethod(
            "torchao",
            "torchao, as stored",
            "Needs the torchao package, near the version that wrote it.",
            packages=("torchao",),
        ),
    )
}

_SAME_LAYOUT = {
    "auto-gptq": "gptq",
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "modelopt_fp4": "modelopt",
    "modelopt_mixed": "modelopt",
    "mxfp8": "fp8",
}
_HINT = "Pick the repository of the original weights, or a GGUF, FP8, AWQ, GPTQ or bitsandbytes copy."


def quantization_of(config: dict[str, Any], hf_quant_config: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The settings under which a checkpoint was quantized, or `None` where it was not.

    They stand in config.json (`quantization_config`, of the model or of its text part: `text_only` is then added)
    or, for modelopt, in `hf_quant_config.json` under `quantization`.
    """
    if isinstance(found := config.get("quantization_config"), dict):
        return _flat(_with_expert_dtype(found, config))
    text_config = config.get("text_config")
    if isinstance(text_config, dict) and isinstance(found := text_config.get("quantization_config"), dict):
        return {**_flat(found), "text_only": True}
    if isinstance(hf_quant_config, dict) and isinstance(hf_quant_config.get("quantization"), dict):
        return _flat(hf_quant_config)
    return None


def native_method(config: dict[str, Any], hf_quant_config: dict[str, Any] | None = None) -> NativeMethod:
    """The format of a quantized checkpoint.

    Raises:
        ModelUnsupported: it is not quantized, or in a way whose layout is not known here.
    """
    quantization = quantization_of(config, hf_quant_config)
    if quantization is None:
        raise ModelUnsupported(
            "Neither config.json nor hf_quant_config.json says that this checkpoint is quantized.",
            "Pick one of the rows that quantize while loading.",
        )
    name = _method_name(quantization)
    if name not in METHODS:
        raise ModelUnsupported(
            f"This checkpoint is stored as {shorten(name, 40)}, whose layout in memory is not known here.", _HINT
        )
    return METHODS[name]


def method_named(name: str) -> NativeMethod | None:
    """The format of a `quant_method`, as an inventory keeps it; `None` where it isn't known here."""
    return METHODS.get(_SAME_LAYOUT.get(name.lower(), name.lower()))


def unpacks(method: NativeMethod, device: Device) -> bool:
    """Whether a load on `device` makes 16 bits of it: for want of a card or of kernels, or of ways to compute in it."""
    if not method.stays_packed:
        return True
    if not method.kernels:
        return False
    return not device.can(method.min_capability) or not all(map(installed, method.kernels))


def _method_name(quantization: dict[str, Any]) -> str:
    if quantization.get("load_in_4bit") or quantization.get("load_in_8bit"):
        return "bitsandbytes"
    name = str(quantization.get("quant_method", "an unnamed format")).lower()
    if name == "fp8" and quantization.get("moe_quant_algo") == "NVFP4":
        return "fp8+nvfp4"
    if name == "auto-round":
        layouts = (layout for layout in ("gptq", "awq") if layout in str(quantization.get("packing_format")))
        return next(layouts, name)
    return _SAME_LAYOUT.get(name, name)


def _flat(quantization: dict[str, Any]) -> dict[str, Any]:
    """Settings of modelopt with those of its inner `quantization` lifted, and its name where it gave none."""
    inner = quantization.get("quantization")
    flat = {**quantization, **inner} if isinstance(inner, dict) else quantization
    if "quant_algo" in flat and "quant_method" not in flat:
        return {**flat, "quant_method": "modelopt"}
    return flat


def _with_expert_dtype(quantization: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """DeepSeek-V4 names the dtype of its experts beside `quantization_config`
    (`transformers/models/deepseek_v4/configuration_deepseek_v4.py`)."""
    expert_dtype = config.get("expert_dtype")
    if isinstance(expert_dtype, str) and config.get("model_type") == "deepseek_v4":
        return {"expert_dtype": expert_dtype, **quantization}
    return quantization
