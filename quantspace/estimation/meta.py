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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ModelUnsupported, shorten
from ..precision import PRECISIONS
from .architecture import max_context, model_class, parse_config, prequantized_method
from .inventory import CacheLayer, Inventory, PeakTerm, Role, TensorSpec
from .meta_cache import FLOAT32_BYTES, cache_from_config, grows_straight, watch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)

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
    watched = _watch(parsed, model)
    notes = [watched.doubt] if watched.doubt else []
    prequantized = prequantized_method(config)
    if prequantized:
        notes.append(f"This checkpoint is stored as {prequantized}; rows show the model as if it were not.")
    return Inventory(
        model_id=model_id,
        revision=revision,
        sha=sha,
        architecture=cls.__name__,
        tensors=tensors,
        cache=watched.cache,
        peak=watched.peak or (_with_cache(_assumed_peak(parsed, tensors), watched.cache),),
        source=source,
        cache_exact=watched.doubt is None,
        peak_measured=watched.peak is not None,
        max_context=max_context(parsed),
        prequantized=prequantized,
        notes=tuple(notes),
    )


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

    in_bf16 = build_on_meta(config, cls, torch.bfloat16)
    in_fp32 = {name: tensor.dtype for name, tensor in _named_tensors(build_on_meta(config, cls, torch.float32))}
    rows = _quantized_rows(config, cls)
    kept = _kept_in_float32(in_bf16)
    head = in_bf16.get_output_embeddings()
    specs = []
    for name, tensor in _named_tensors(in_bf16):
        owner = in_bf16.get_submodule(name.rpartition(".")[0])
        follows = tensor.dtype == torch.bfloat16 and in_fp32.get(name) == torch.float32
        specs.append(
            TensorSpec(
                name=name,
                shape=tuple(tensor.shape),
                role=_role(name, tensor, owner, head),
                fixed_dtype=None if follows else str(tensor.dtype).removeprefix("torch."),
                float32_in=kept.get(name, ()),
                rows=rows.get(name, 0),
            )
        )
    specs.extend(_tied_specs(in_bf16))
    return tuple(specs), in_bf16


def _named_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _tied_specs(model: PreTrainedModel) -> Iterator[TensorSpec]:
    """Names that share another tensor's storage; `named_parameters()` gives each storage once."""
    first_name = {id(tensor): name for name, tensor in _named_tensors(model)}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        original = first_name[id(tensor)]
        if name != original:
            role: Role = "head" if name.startswith("lm_head") else "other"
            yield TensorSpec(name, tuple(tensor.shape), role, tied_to=original)


def _quantized_rows(config: PreTrainedConfig, cls: type[PreTrainedModel]) -> dict[str, int]:
    """Names of the weights that bitsandbytes replaces, with their output features.

    int8 and 4-bit share transformers' skip rules (`get_modules_to_not_convert`), so one build tells both.
    """
    import bitsandbytes
    import torch

    quantization = PRECISIONS["nf4"].transformers_kwargs()["quantization_config"]
    model = build_on_meta(config, cls, torch.bfloat16, quantization)
    return {
        f"{name}.weight": module.out_features
        for name, module in model.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit)
    }


def _kept_in_float32(model: PreTrainedModel) -> dict[str, tuple[str, ...]]:
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


def _role(name: str, tensor: torch.Tensor, owner: torch.nn.Module, head: torch.nn.Module | None) -> Role:
    import torch
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
    if isinstance(owner, (torch.nn.Linear, Conv1D)):
        return "linear"
    return "norm" if "norm" in type(owner).__name__.lower() else "other"


@dataclass(frozen=True)
class _Watched:
    """What running the class told, and where it could not be asked."""

    cache: tuple[CacheLayer, ...]
    peak: tuple[PeakTerm, ...] | None
    doubt: str | None = None


def _watch(config: PreTrainedConfig, model: PreTrainedModel) -> _Watched:
    try:
        cache, peak = watch(model)
        uneven = "The cache of this architecture grows in steps: its size is extrapolated from a short prompt."
        return _Watched(cache, peak, None if grows_straight(cache) else uneven)
    except Exception as error:  # a seam: some classes read values of tensors, which `meta` has not
        log.info("cache of %s follows its config: %s", type(model).__name__, shorten(str(error)))
    try:
        doubt = "The cache follows config.json: the class could not run without data."
        return _Watched(cache_from_config(config), None, doubt)
    except AttributeError as error:
        raise ModelUnsupported(
            f"How the cache of {type(model).__name__} grows could not be found: {shorten(str(error), 160)}",
            "Pick another model: an answer without its cache would promise too much.",
        ) from error


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
