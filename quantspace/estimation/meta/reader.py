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
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...errors import ModelUnsupported, shorten
from ...precision import PRECISIONS
from ..architecture import generates_text, max_context, model_class, parse_config, prequantized_method
from ..inventory import Inventory, Role, TensorSpec
from .config import config_facts
from .generating import generating_facts
from .without_text import facts_without_text

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
    generates = generates_text(cls, parsed)
    if generates:
        computes = generating_facts(parsed, model, tensors)
    else:
        computes = facts_without_text(model, [t.name for t in tensors if t.quantizable])
    native = _native(config, parsed, cls) if prequantized_method(config) else {}
    notes = (*computes.pop("notes"), *native.pop("notes", ()))
    facts = config_facts(parsed)
    if not generates and model.get_output_embeddings() is None:
        facts["vocab_size"] = None  # it has no output head
    return Inventory(
        model_id=model_id,
        revision=revision,
        sha=sha,
        architecture=cls.__name__,
        tensors=tensors,
        source=source if generates else f"{cls.__name__}, {source}",
        max_context=max_context(parsed),
        blocks=tuple(_whole_blocks(model)),
        notes=notes,
        **computes,
        **native,
        **facts,
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


def _refuse_absurd(config: PreTrainedConfig) -> None:
    """Refuse what no published model asks for, in any of its sub-models, before it is built."""
    for key in _LAYER_KEYS:
        asked = _asked(config, key)
        if isinstance(asked, int) and not 0 <= asked <= MAX_LAYERS:
            raise ModelUnsupported(
                f"Its config.json asks for {asked:,} of {key}; 0 to {MAX_LAYERS:,} can be built here.",
                "Check the file: no published model has that many.",
            )
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            _refuse_absurd(part)


def _asked(config: PreTrainedConfig, key: str) -> Any:
    try:
        return getattr(config, key, 0)
    except RuntimeError:  # transformers' answer where layers differ in this: their number is another key
        return 0
