"""Read from a loaded model what it really holds, in the shape of the estimate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel

from ..estimation.stored import StoredTensor


def held_tensors(model: PreTrainedModel) -> tuple[StoredTensor, ...]:
    """Every parameter and buffer with the bytes of its storage; a shared storage counts at its first name.

    Adds what bitsandbytes keeps beside a weight: `quant_state` of 4-bit, `SCB` of int8. A tensor subclass
    (torchao) counts as the plain tensors that it wraps.
    """
    owners: dict[int, str] = {}
    tensors = []
    for name, tensor in _named_tensors(model):
        packed, *scales = _plain_tensors(tensor)
        data, tied_to = _storage_bytes(packed, name, owners)
        module = model.get_submodule(name.rpartition(".")[0])
        scales.extend(_constants(tensor, module, name))
        constants = sum(_storage_bytes(scale, name, owners)[0] for scale in scales)
        tensors.append(
            StoredTensor(
                name=name,
                shape=_logical_shape(tensor, module),
                logical_dtype=_logical_dtype(tensor, module, model),
                storage_dtype=_storage_dtype(tensor, module),
                data_bytes=data,
                constant_bytes=constants,
                tied_to=tied_to,
            )
        )
    return tuple(tensors)


def _named_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _plain_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors that hold a tensor's values: itself, or those inside of a subclass, data first."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain_tensors(getattr(tensor, name))


def _storage_bytes(tensor: torch.Tensor, name: str, owners: dict[int, str]) -> tuple[int, str | None]:
    """Bytes of a tensor's storage, or 0 and the name that was there first."""
    storage = tensor.untyped_storage()
    if not storage.nbytes():
        return 0, None  # all empty ones lie at address 0
    owner = owners.setdefault(storage.data_ptr(), name)
    if owner != name:
        return 0, owner
    return storage.nbytes(), None


def _constants(tensor: torch.Tensor, module: torch.nn.Module, name: str) -> Iterator[torch.Tensor]:
    if (state := _quant_state(tensor, module)) is not None:
        yield from _quant_state_tensors(state)
    elif tensor.dtype == torch.int8 and name.endswith("weight"):
        # bitsandbytes moves SCB from the weight to the layer's state at the first forward pass.
        scales = getattr(tensor, "SCB", None)
        if scales is None:
            scales = getattr(getattr(module, "state", None), "SCB", None)
        if scales is not None:
            yield scales


def _quant_state(tensor: torch.Tensor, module: torch.nn.Module) -> Any:
    """bitsandbytes' own state of a 4-bit tensor: on the parameter, or on the parametrization that unpacks it."""
    if isinstance(module, ParametrizationList):
        return getattr(module[0], "quant_state", None)
    return getattr(tensor, "quant_state", None)


def _quant_state_tensors(state: Any) -> Iterator[torch.Tensor]:
    for part in (state, state.state2):
        if part is not None:
            yield from (part.absmax, part.code)
    if isinstance(state.offset, torch.Tensor):
        yield state.offset


def _logical_shape(tensor: torch.Tensor, module: torch.nn.Module) -> tuple[int, ...]:
    state = _quant_state(tensor, module)
    return tuple(state.shape if state is not None else tensor.shape)


def _logical_dtype(tensor: torch.Tensor, module: torch.nn.Module, model: PreTrainedModel) -> str:
    state = _quant_state(tensor, module)
    if state is not None:
        return _name(state.dtype)
    if tensor.dtype == torch.int8 and isinstance(tensor, torch.nn.Parameter):
        return _name(model.config.dtype or model.dtype)
    return _name(tensor.dtype)


def _storage_dtype(tensor: torch.Tensor, module: torch.nn.Module) -> str:
    state = _quant_state(tensor, module)
    if state is not None:
        return f"{_name(tensor.dtype)} ({state.quant_type})"
    if is_traceable_wrapper_subclass(tensor):
        return f"{_name(next(_plain_tensors(tensor)).dtype)} (torchao)"
    return _name(tensor.dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
