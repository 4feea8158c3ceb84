"""The model of a quantized checkpoint on the `meta` device, and its tensors as specs.

`build` follows `from_pretrained` up to the moment before weights are read, with the layers of the format put
in by a callback inside the init context, where transformers lets its quantizers do so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ..inventory import Role, TensorSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight that a format may pack: of a linear layer, or of all experts of one layer, fused.

    Attributes:
        name: of the parameter.
        module: name by which a checkpoint's settings know the layer; of the first expert where they are fused.
        stack: `(experts,)`, or `()` for a linear layer.
        rows, columns: output and input features of each.
        parts: projections that transformers fuses into one and checkpoints store apart.
        role: of the tensor.
    """

    name: str
    module: str
    stack: tuple[int, ...]
    rows: int
    columns: int
    parts: int
    role: Role

    def beside(self, leaf: str) -> str:
        """Name of a tensor that stands where this weight stood: `…q_proj.weight` → `…q_proj.<leaf>`."""
        return f"{self.name.removesuffix('.weight')}.{leaf}"

    def constant(self, leaf: str, shape: tuple[int, ...], dtype: str) -> TensorSpec:
        return TensorSpec(self.beside(leaf), shape, "buffer", dtype)

    def packed(self, leaf: str, shape: tuple[int, ...], dtype: str) -> TensorSpec:
        return TensorSpec(self.beside(leaf), shape, self.role, dtype)

    @property
    def scalars(self) -> tuple[int, ...]:
        """Shape of what is kept once for each projection as a checkpoint stores them."""
        return (*self.stack, self.parts)

    @property
    def elements(self) -> int:
        return prod(self.stack) * self.rows * self.columns


Pack = Callable[[Weight], "tuple[TensorSpec, ...] | None"]


def build(
    config: PreTrainedConfig, cls: type[PreTrainedModel], replace: Callable[[PreTrainedModel], None] | None = None
) -> PreTrainedModel:
    """The model on `meta` in bfloat16, with the layers that `replace` puts in."""
    import torch
    from transformers.initialization import no_init_weights
    from transformers.utils.generic import ContextManagers

    config = copy.deepcopy(config)
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if part is not None:
            part.dtype = torch.bfloat16
    contexts = cls.get_init_context(torch.bfloat16, replace is not None, False, False)
    with ContextManagers([*contexts, no_init_weights()]):
        model = cls(config)
        if replace is not None:
            replace(model)
    model.tie_weights()
    return model


def specs_of(model: PreTrainedModel) -> Iterator[TensorSpec]:
    """Every parameter and buffer of a model on `meta`; names that share a storage follow as tied ones."""
    import torch

    from ..meta.reader import kept_in_float32

    kept = kept_in_float32(model)
    head = model.get_output_embeddings()
    first: dict[int, str] = {}
    tied = []
    for name, tensor in _named_tensors(model):
        original = first.setdefault(id(tensor), name)
        owner = model.get_submodule(name.rpartition(".")[0])
        role = _role(name, tensor, owner, head)
        shape = tuple(tensor.shape)
        if original != name:
            tied.append(TensorSpec(name, shape, "head" if owner is head else "other", tied_to=original))
            continue
        fixed = None if tensor.dtype == torch.bfloat16 else str(tensor.dtype).removeprefix("torch.")
        yield TensorSpec(name, shape, role, fixed, () if fixed else kept.get(name, ()))
    yield from tied


def packed_specs(model: PreTrainedModel, pack: Pack) -> Iterator[TensorSpec]:
    """The tensors of an unquantized model, those of each weight that `pack` takes replaced by what it gives."""
    weights = {weight.name: weight for weight in weights_of(model)}
    for spec in specs_of(model):
        weight = weights.get(spec.name)
        replaced = pack(weight) if weight is not None and spec.tied_to is None else None
        yield from (spec,) if replaced is None else replaced


def weights_of(model: PreTrainedModel) -> Iterator[Weight]:
    """What formats pack: linear layers, and fused experts projection by projection."""
    import torch

    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            role: Role = "head" if module is head else "linear"
            yield Weight(f"{name}.weight", name, (), *module.weight.shape, 1, role)
        elif name.endswith("experts"):
            yield from _expert_weights(name, module)


def decoder_prefix(model: PreTrainedModel) -> str:
    """What names of modules in the text decoder start with: `model.` or `model.language_model.`"""
    decoder = model.get_decoder()
    return next((f"{name}." for name, module in model.named_modules() if module is decoder and name), "")


def _expert_weights(name: str, module: torch.nn.Module) -> Iterator[Weight]:
    fused = {leaf: p for leaf, p in module.named_parameters(recurse=False) if p.dim() == 3}
    if not fused:
        return
    # Some classes hold (experts, in, out), most (experts, out, in): the way down ends where the way up began.
    up, down = fused.get("gate_up_proj", fused.get("up_proj")), fused.get("down_proj")
    turned = up is not None and down is not None and up.shape[-1] != down.shape[-2]
    for leaf, parameter in fused.items():
        experts, rows, columns = parameter.shape
        if turned:
            rows, columns = columns, rows
        parts = 2 if leaf == "gate_up_proj" else 1
        stored_as = "gate_proj" if parts == 2 else leaf
        yield Weight(f"{name}.{leaf}", f"{name}.0.{stored_as}", (experts,), rows, columns, parts, "experts")


def _named_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _role(name: str, tensor: torch.Tensor, owner: torch.nn.Module, head: torch.nn.Module | None) -> Role:
    """The role of a tensor: what is packed keeps the role of the weight, what a format adds is a `buffer`."""
    from ..meta.reader import role_of

    leaf = name.rpartition(".")[2]
    packed = leaf == "weight" and "Linear" in type(owner).__name__
    if "_scale" in leaf or (leaf in owner._buffers and not packed):
        return "buffer"
    if packed:
        return "head" if owner is head else "linear"
    return role_of(name, tensor, owner, head)
