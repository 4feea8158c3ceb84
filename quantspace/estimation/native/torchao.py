"""torchao: weights that are tensor subclasses, as torchao itself makes them of a linear layer on `meta`.

`get_memory_footprint()` counts such a weight by the shape and dtype that it claims; here are the tensors inside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...errors import ModelUnsupported, shorten
from ..inventory import TensorSpec
from .skeleton import build, specs_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_HINT = "Pick the repository of the original weights: this app can quantize them while loading."


def torchao_tensors(
    quantization: dict[str, Any], config: PreTrainedConfig, cls: type[PreTrainedModel]
) -> Iterator[TensorSpec]:
    """Layers that transformers' `TorchAoHfQuantizer` quantizes, each weight as the tensors inside it.

    Raises:
        ModelUnsupported: torchao is not installed, or can't make this kind of weight here.
    """
    import torch

    try:
        from torchao.quantization import FqnToConfig
        from transformers.quantizers import AutoHfQuantizer

        quantizer = AutoHfQuantizer.from_config(dict(quantization), pre_quantized=True)
    except ImportError as error:
        raise ModelUnsupported("This checkpoint is stored by torchao, which is not installed here.", _HINT) from error
    kind = quantizer.quantization_config.get_apply_tensor_subclass()
    if isinstance(kind, FqnToConfig):
        raise ModelUnsupported("This checkpoint mixes formats of torchao layer by layer: not known here.", _HINT)
    model = build(config, cls, lambda model: quantizer.preprocess_model(model=model, dtype=torch.bfloat16))
    inside: dict[tuple[int, ...], list[tuple[str, tuple[int, ...], str]]] = {}
    for spec in specs_of(model):
        if spec.tied_to is not None or not quantizer.param_needs_quantization(model, spec.name):
            yield spec
            continue
        if spec.shape not in inside:
            inside[spec.shape] = _parts(spec.shape, kind)
        for position, (leaf, shape, dtype) in enumerate(inside[spec.shape]):
            name = f"{spec.name}.{leaf}" if position else spec.name
            yield TensorSpec(name, shape, "buffer" if position else spec.role, dtype)


def _parts(shape: tuple[int, ...], kind: Any) -> list[tuple[str, tuple[int, ...], str]]:
    """Name, shape and dtype of each tensor inside a weight of `shape`, the data first."""
    import torch
    from torchao.quantization import quantize_

    layer = torch.nn.Linear(shape[1], shape[0], bias=False, device="meta", dtype=torch.bfloat16)
    try:
        quantize_(layer, kind)
    except (AssertionError, ImportError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ModelUnsupported(
            f"torchao can't make the weights of this checkpoint here: {shorten(str(error), 120)}", _HINT
        ) from error
    names, _ = layer.weight.__tensor_flatten__()
    parts = [(name, getattr(layer.weight, name)) for name in names]
    return [(name, tuple(part.shape), str(part.dtype).removeprefix("torch.")) for name, part in parts]
