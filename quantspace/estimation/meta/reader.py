"""The inventory of a model, read from its class built on the `meta` device.

The class is the one the loader uses, the dtypes are those of its init context, and which layers get
quantized is asked of transformers' own quantizer (`HfQuantizer.preprocess_model`). The cache is asked
of the real cache object after a forward pass on `meta`. No weights are touched.

Building changes process-wide defaults of torch for a moment (`torch.set_default_dtype`): run it in a
process of its own beside one that generates text. `builder.py` does.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ...errors import ModelUnsupported, shorten
from ...precision import PRECISIONS
from ..architecture import max_context, model_class, parse_config, prequantized_method
from ..inventory import CacheLayer, ImageCost, Inventory, PeakTerm, Role, TensorSpec
from .cache import FLOAT32_BYTES, Watched, cache_from_config, grows_straight, watch
from .config import config_facts
from .image import image_cost

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)

_UNFUSED = (
    "Recurrent layers are counted as PyTorch runs them by itself; with fused kernels installed "
    "(flash-linear-attention, mamba-ssm, causal-conv1d) a long prompt needs less."
)
MAX_LAYERS = 2000
_LAYER_KEYS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "depth",
    "encoder_layers",
    "decoder_layers",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
)


def inventory_from_config(
    config: dict[str, Any],
    model_id: str,
    *,
    revision: str = "main",
    sha: str | None = None,
    source: str = "the model's own class, built without data",
) -> Inventory:
    """Build the class of a `config.json` on `meta` and read every tensor from it.

    Args:
        config: the parsed `config.json`.
        source: where the config came from, kept with the result.

    Raises:
        ModelUnsupported: transformers cannot build the class.
    """
    parsed = parse_config(config)
    _refuse_absurd(parsed)
    cls = model_class(parsed)
    try:
        tensors, model = _read_tensors(parsed, cls)
    except ModelUnsupported:
        raise
    except Exception as error:  # a seam: any value of config.json may break the class in its own way
        raise ModelUnsupported(
            f"transformers could not build {cls.__name__} from this config.json: {shorten(str(error), 160)}",
            "The file may be broken or written for another version of transformers; try another revision.",
        ) from error
    watched, doubt = _watch(parsed, model, tensors)
    notes = [doubt] if doubt else []
    if watched.recurrent and watched.peak:
        notes.append(_UNFUSED)
    image = _image(model)
    if image is None and getattr(parsed, "vision_config", None) is not None:
        notes.append("What images take is not counted: the vision tower of this class could not be watched.")
    native = _native(config, parsed, cls) if prequantized_method(config) else {}
    notes.extend(native.pop("notes", ()))
    return Inventory(
        model_id=model_id,
        revision=revision,
        sha=sha,
        architecture=cls.__name__,
        tensors=tensors,
        cache=watched.cache,
        peak=watched.peak or (_with_cache(_assumed_peak(parsed, tensors), watched.cache),),
        quantized_peak=watched.quantized,
        source=source,
        cache_exact=doubt is None,
        peak_measured=bool(watched.peak),
        max_context=max_context(parsed),
        **native,
        blocks=tuple(_whole_blocks(model)),
        **config_facts(parsed),
        image=image,
        notes=tuple(notes),
    )


def _native(config: dict[str, Any], parsed: PreTrainedConfig, cls: type[PreTrainedModel]) -> dict[str, Any]:
    """The fields of an inventory that tell how a quantized checkpoint is stored, and `notes` where they can't."""
    from ..native import native_method, native_tensors

    stored = prequantized_method(config)
    beside = config.get("hf_quant_config")
    others = f"This checkpoint is stored as {stored}; the other rows show the model as if it were not."
    try:
        tensors, about = native_tensors(config, parsed, cls, beside)
        method = native_method(config, beside)
    except ModelUnsupported as error:
        return {"prequantized": stored, "notes": (others, f"{error.message} Its stored size can't be told.")}
    except Exception as error:  # a seam: how it is quantized is told by somebody else's file
        log.info("what %s stores: %s", cls.__name__, shorten(str(error)))
        return {"prequantized": stored, "notes": (others, "Its config.json does not tell enough of its stored size.")}
    return {
        "prequantized": stored,
        "native": tensors,
        "native_note": about,
        "native_packed": method.stays_packed,
        "native_runs": method.loads,
        "native_capability": method.min_capability,
        "notes": (others,),
    }


def build_on_meta(
    config: PreTrainedConfig, cls: type[PreTrainedModel], dtype: torch.dtype, quantization: Any = None
) -> PreTrainedModel:
    """The model as `from_pretrained` has it just before weights are read.

    Follows `PreTrainedModel.from_pretrained` of transformers 5.23: the same init context, then the
    quantizer's `preprocess_model` inside it (new layers take the context's default dtype).
    """
    from transformers.quantizers import AutoHfQuantizer
    from transformers.utils.generic import ContextManagers

    config = copy.deepcopy(config)
    _set_dtype(config, dtype)
    with ContextManagers(cls.get_init_context(dtype, quantization is not None, False, False)):
        model = cls(config)
        if quantization is not None:
            quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False)
            quantizer.preprocess_model(
                model=model, dtype=dtype, device_map={"": "cpu"}, checkpoint_files=None, use_kernels=False
            )
    model.tie_weights()
    return model.eval()


def _set_dtype(config: PreTrainedConfig, dtype: torch.dtype) -> None:
    """Overwrite the dtype that config.json names, here and one level down, as `_get_dtype` of `from_pretrained`."""
    config.dtype = dtype
    for name in config.sub_configs:
        if (part := getattr(config, name, None)) is not None:
            part.dtype = dtype


def _read_tensors(
    config: PreTrainedConfig, cls: type[PreTrainedModel]
) -> tuple[tuple[TensorSpec, ...], PreTrainedModel]:
    import torch
    from transformers.pytorch_utils import Conv1D

    in_bf16 = build_on_meta(config, cls, torch.bfloat16)
    rows, in_fp32 = _quantized(config, cls)
    kept = kept_in_float32(in_bf16)
    head = in_bf16.get_output_embeddings()
    specs = []
    for name, tensor in _named_tensors(in_bf16):
        owner = in_bf16.get_submodule(name.rpartition(".")[0])
        follows = tensor.dtype == torch.bfloat16 and (name in rows or in_fp32.get(name) == torch.float32)
        specs.append(
            TensorSpec(
                name=name,
                shape=tuple(tensor.shape),
                role=role_of(name, tensor, owner, head),
                fixed_dtype=None if follows else str(tensor.dtype).removeprefix("torch."),
                float32_in=kept.get(name, ()),
                rows=rows.get(name, 0),
                transposed=name in rows and isinstance(owner, Conv1D),
            )
        )
    specs.extend(_tied_specs(in_bf16))
    return tuple(specs), in_bf16


def _named_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _whole_blocks(model: PreTrainedModel) -> Iterator[str]:
    """Names of the outermost modules that `device_map="auto"` keeps on one device."""
    whole = set(model._no_split_modules or ())
    outer: str | None = None
    for name, module in model.named_modules():
        if type(module).__name__ in whole and (outer is None or not name.startswith(f"{outer}.")):
            outer = name
            yield name


def _tied_specs(model: PreTrainedModel) -> Iterator[TensorSpec]:
    """Names that share another tensor's storage; `named_parameters()` gives each storage once."""
    first_name = {id(tensor): name for name, tensor in _named_tensors(model)}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        original = first_name[id(tensor)]
        if name != original:
            role: Role = "head" if name.startswith("lm_head") else "other"
            yield TensorSpec(name, tuple(tensor.shape), role, tied_to=original)


def _quantized(config: PreTrainedConfig, cls: type[PreTrainedModel]) -> tuple[dict[str, int], dict[str, torch.dtype]]:
    """Weights that bitsandbytes replaces with their output features, and the dtype of all tensors, in float32.

    int8 and 4-bit share transformers' skip rules (`get_modules_to_not_convert`), which don't depend on the
    model's dtype, so one build tells both. What it replaces are plain linear layers: they follow the model's.
    """
    import bitsandbytes
    import torch

    quantization = PRECISIONS["nf4"].transformers_kwargs()["quantization_config"]
    model = build_on_meta(config, cls, torch.float32, quantization)
    rows = {
        f"{name}.weight": module.out_features
        for name, module in model.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit)
    }
    return rows, {name: tensor.dtype for name, tensor in _named_tensors(model)}


def kept_in_float32(model: PreTrainedModel) -> dict[str, tuple[str, ...]]:
    """Names of tensors that the loader keeps in float32, with the model dtypes under which it does."""
    import torch
    from transformers.core_model_loading import build_glob_alternation

    kept: dict[str, tuple[str, ...]] = {}
    for dtype in (torch.float16, torch.bfloat16):
        plan = model._get_dtype_plan(dtype)
        if not plan:
            continue
        pattern, _, _ = build_glob_alternation(list(plan))
        for name in model.state_dict():
            if pattern.search(name):
                kept[name] = (*kept.get(name, ()), str(dtype).removeprefix("torch."))
    return kept


def role_of(name: str, tensor: torch.Tensor, owner: torch.nn.Module, head: torch.nn.Module | None) -> Role:
    """What a tensor is for, by its name and the module that owns it; `head` is the output embedding."""
    import torch
    from torch.nn.modules.linear import NonDynamicallyQuantizableLinear  # inside MultiheadAttention
    from transformers.pytorch_utils import Conv1D

    leaf = name.rpartition(".")[2]
    if leaf in owner._buffers:
        return "buffer"
    if owner is head:
        return "head"
    if leaf.endswith("bias"):
        return "bias"
    if isinstance(owner, torch.nn.Embedding):
        return "embedding"
    if "expert" in name and tensor.dim() == 3:
        return "experts"
    if isinstance(owner, (torch.nn.Linear, Conv1D)) and not isinstance(owner, NonDynamicallyQuantizableLinear):
        return "linear"
    return "norm" if "norm" in type(owner).__name__.lower() else "other"


def _watch(
    config: PreTrainedConfig, model: PreTrainedModel, tensors: Iterable[TensorSpec]
) -> tuple[Watched, str | None]:
    """What passes of the class told, and in what it can't be trusted."""
    try:
        watched = watch(model, [t.name for t in tensors if t.quantizable])
        uneven = "The cache of this architecture grows in steps: its size is extrapolated from a short prompt."
        return watched, None if grows_straight(watched.cache) else uneven
    except Exception as error:  # a seam: some classes read values of tensors, which `meta` has not
        log.info("cache of %s follows its config: %s", type(model).__name__, shorten(str(error)))
    try:
        doubt = "The cache follows config.json: the class could not run without data."
        return Watched(cache_from_config(config)), doubt
    except AttributeError as error:
        raise ModelUnsupported(
            f"How the cache of {type(model).__name__} grows could not be found: {shorten(str(error), 160)}",
            "Pick another model: an answer without its cache would promise too much.",
        ) from error


def _image(model: PreTrainedModel) -> ImageCost | None:
    try:
        return image_cost(model)
    except Exception as error:  # a seam: each class asks for pixels in its own way
        log.info("images of %s could not be watched: %s", type(model).__name__, shorten(str(error)))
        return None


def _refuse_absurd(config: PreTrainedConfig) -> None:
    """Refuse what no published model asks for, in any of its sub-models, before it is built."""
    for key in _LAYER_KEYS:
        asked = getattr(config, key, 0)
        if isinstance(asked, int) and not 0 <= asked <= MAX_LAYERS:
            raise ModelUnsupported(
                f"Its config.json asks for {asked:,} of {key}; 0 to {MAX_LAYERS:,} can be built here.",
                "Check the file: no published model has that many.",
            )
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            _refuse_absurd(part)


def _assumed_peak(config: PreTrainedConfig, tensors: Iterable[TensorSpec]) -> PeakTerm:
    """A generous guess for a class that can't be watched: six rows of the residual stream and four of the MLP."""
    text = config.get_text_config()
    hidden = _first_int(text, "hidden_size", "d_model", "n_embd") or 1
    dense = _first_int(text, "intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size") or 4 * hidden
    expert = _first_int(text, "moe_intermediate_size", "expert_ffn_hidden_size") or dense
    visited = _first_int(text, "num_experts_per_tok", "moe_topk", "top_k_experts") or 1
    routed = visited if any(t.role == "experts" for t in tensors) else 0
    vocab = _first_int(text, "vocab_size") or max((t.shape[0] for t in tensors if t.role == "embedding"), default=0)
    elements = 6 * hidden + 4 * max(dense, routed * expert) + 2 * routed * hidden
    return PeakTerm(vocab * (2 + FLOAT32_BYTES), 2 * elements)


def _with_cache(peak: PeakTerm, cache: tuple[CacheLayer, ...]) -> PeakTerm:
    """Terms of a peak contain the cache; an assumed one is given it."""
    token = sum(layer.count * (2 * layer.token_elements + layer.token_bytes) for layer in cache)
    fixed = sum(layer.count * (2 * layer.state_elements + layer.state_bytes) for layer in cache)
    return PeakTerm(peak.fixed + fixed, peak.token + token, peak.square)


def _first_int(config: PreTrainedConfig, *keys: str) -> int | None:
    values = (getattr(config, key, None) for key in keys)
    return next((value for value in values if isinstance(value, int) and value > 0), None)
