"""How a job's variant becomes a model in memory: what `from_pretrained` is told, by the method of its precision.

The class is the one that was estimated. The quantization is made while loading, stored in the checkpoint, or kept on
this disk from an earlier load. Not here: progress, cancelling and errors (`loader.py`), or where modules go
(`options.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from ..errors import LoadFailed, stored_quantized
from ..estimation.architecture import generating_class, parse_config, prequantized_method
from ..estimation.here import Device
from ..estimation.native.methods import native_method, unpacks
from ..precision import PRECISIONS, Method, Precision
from .job import Job
from .options import from_pretrained_options
from .unpacked import load_unpacked

_REPACKED_ROWS, _REPACKED_COLUMNS = 32, 64


@dataclass(frozen=True)
class Variant:
    """What is to be loaded.

    Attributes:
        precision: the row of the table with the job's options, as the device at hand holds it.
        raw: the parsed `config.json` of the folder that is read.
        config: its config object, as a checkpoint that isn't quantized would have it.
    """

    precision: Precision
    cls: type[PreTrainedModel]
    raw: dict[str, Any]
    config: PreTrainedConfig


def load_variant(job: Job) -> PreTrainedModel:
    """Load the model of a job.

    Raises:
        QuantSpaceError: it can't be loaded so.
        Exception: whatever transformers raises.
    """
    model = load_unpacked(job) if job.gguf is not None else _from_pretrained(job)
    _keep_from_repacking(model)
    return model


def _from_pretrained(job: Job) -> PreTrainedModel:
    folder = job.kept or job.folder
    raw, _ = PreTrainedConfig.get_config_dict(folder, local_files_only=True)
    config = parse_config(raw)
    variant = Variant(precision_of(job), generating_class(config), raw, config)
    kwargs = _kept(variant) if job.kept else _ARGUMENTS[variant.precision.method](variant)
    kwargs |= from_pretrained_options(job, kwargs.get("quantization_config"))
    kwargs |= {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    if not variant.precision.experts:
        model, told = variant.cls.from_pretrained(folder, config=config, output_loading_info=True, **kwargs)
        if not job.kept and variant.precision.method != "stored":  # whose quantizers make weights of other names
            _refuse_if_missing(job, told["missing_keys"])
        return model
    from .experts import load_with_experts  # which also makes known the format of a copy that was kept

    if job.kept:
        return variant.cls.from_pretrained(folder, config=config, **kwargs)
    return load_with_experts(variant.cls, folder, config, device().kind, **kwargs)


def _keep_from_repacking(model: PreTrainedModel) -> None:
    """Leave 4-bit layers as they are whose sizes the kernel for AVX-512 does not take.

    On such a processor bitsandbytes repacks a layer at its first use, and fails where its outputs don't come in
    blocks of 32 or its inputs in blocks of 64 (`bitsandbytes/functional.py`, `_convert_weight_packed_for_cpu`).
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False) and (
            module.out_features % _REPACKED_ROWS or module.in_features % _REPACKED_COLUMNS
        ):
            module.support_avx512bf16_for_cpu = False


def _refuse_if_missing(job: Job, names: Collection[str]) -> None:
    """Refuse a model of which weights are missing: transformers makes random ones, with no more than a warning."""
    if names:
        first = sorted(names)[0]
        others = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        raise LoadFailed(
            f"The files of {job.model_id} lack weights of its architecture: {first}{others}.",
            "Random ones would stand in for them. Its files may be incomplete, or of another architecture.",
        )


def check_format(job: Job) -> None:
    """Raise what a checkpoint's config says against the load, before anything else is read.

    Raises:
        LoadFailed: it is stored quantized, and another format is asked for.
    """
    if job.gguf is not None or job.kept or PRECISIONS[job.precision].method == "stored":
        return
    raw, _ = PreTrainedConfig.get_config_dict(job.folder, local_files_only=True)
    if method := prequantized_method(raw):
        raise stored_quantized(job.model_id, method)


def precision_of(job: Job) -> Precision:
    """The row of a job's precision with its options, as the device at hand holds it."""
    options = job.options
    row = PRECISIONS[job.precision].with_options(options.compute_dtype, options.double_quant, options.skip)
    return row.on_card() if torch.cuda.is_available() else row


def device() -> Device:
    """Where this process loads, as torch sees it; the oldest card where there are several."""
    if not torch.cuda.is_available():
        return Device("cpu")
    return Device("cuda", min(map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))))


def _cast(variant: Variant) -> dict[str, Any]:
    return variant.precision.transformers_kwargs()


def _quantized(variant: Variant) -> dict[str, Any]:
    return variant.precision.transformers_kwargs(_left_out(variant) if variant.precision.skip else None)


def _kept(variant: Variant) -> dict[str, Any]:
    """The settings that this app's own copy was written with."""
    raw = variant.raw
    variant.config.quantization_config = raw.get("quantization_config") or raw["text_config"]["quantization_config"]
    return {"dtype": getattr(torch, variant.precision.dtype)}


def _stored(variant: Variant) -> dict[str, Any]:
    """The checkpoint's own settings: unpacked from the start where it would be later, or in silence."""
    settings = variant.raw.get("quantization_config") or variant.raw["text_config"]["quantization_config"]
    if unpacks(native_method(variant.raw), device()):
        settings = settings | {"dequantize": True}
    variant.config.quantization_config = settings
    return {"dtype": getattr(torch, variant.precision.dtype)}


_ARGUMENTS: dict[Method, Callable[[Variant], dict[str, Any]]] = {
    "cast": _cast,
    "int8": _quantized,
    "4bit": _quantized,
    "torchao": _quantized,
    "stored": _stored,
}


def _left_out(variant: Variant) -> list[str]:
    """All that stays unquantized: a list of names replaces what transformers leaves out by itself."""
    from transformers.quantizers.base import HfQuantizer

    from ..estimation.meta.reader import build_on_meta

    precision = variant.precision
    names = list(precision.skip)
    if precision.method == "torchao":  # which is asked by the name of a weight, not of its module
        names += [f"{name}.weight" for name in names]
    model = build_on_meta(variant.config, variant.cls, getattr(torch, precision.dtype))
    return HfQuantizer.get_modules_to_not_convert(model, names, add_default_skips=True)
