"""Read from a loaded model what it really holds, in the shape of the estimate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from ..estimation.stored import StoredTensor


def held_tensors(model: PreTrainedModel) -> tuple[StoredTensor, ...]:
    """Every parameter and buffer with the bytes of its storage; a shared storage counts at its first name.

    Adds what bitsandbytes keeps beside a weight: `quant_state` of 4-bit, `SCB` of int8.
    """
    owners: dict[int, str] = {}
    tensors = []
    for name, tensor in _named_tensors(model):
        data, tied_to = _storage_bytes(tensor, name, owners)
        module = model.get_submodule(name.rpartition(".")[0])
        constants = sum(_storage_bytes(c, name, owners)[0] for c in _constants(tensor, module, name))
        tensors.append(
            StoredTensor(
                name=name,
                shape=_logical_shape(tensor),
                logical_dtype=_logical_dtype(tensor, model),
                storage_dtype=_storage_dtype(tensor),
                data_bytes=data,
                constant_bytes=constants,
                tied_to=tied_to,
            )
        )
    return tuple(tensors)


def _named_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


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
    if (state := getattr(tensor, "quant_state", None)) is not None:
        yield from _quant_state_tensors(state)
    elif tensor.dtype == torch.int8 and name.endswith("weight"):
        # bitsandbytes moves SCB from the weight to the layer's state at the first forward pass.
        scales = getattr(tensor, "SCB", None)
        if scales is None:
            scales = getattr(getattr(module, "state", None), "SCB", None)
        if scales is not None:
            yield scales


def _quant_state_tensors(state: Any) -> Iterator[torch.Tensor]:
    for part in (state, state.state2):
        if part is not None:
            yield from (part.absmax, part.code)
    if isinstance(state.offset, torch.Tensor):
        yield state.offset


def _logical_shape(tensor: torch.Tensor) -> tuple[int, ...]:
    state = getattr(tensor, "quant_state", None)
    return tuple(state.shape if state is not None else tensor.shape)


def _logical_dtype(tensor: torch.Tensor, model: PreTrainedModel) -> str:
    state = getattr(tensor, "quant_state", None)
    if state is not None:
        return _name(state.dtype)
    if tensor.dtype == torch.int8 and isinstance(tensor, torch.nn.Parameter):
        return _name(model.config.dtype or model.dtype)
    return _name(tensor.dtype)


def _storage_dtype(tensor: torch.Tensor) -> str:
    state = getattr(tensor, "quant_state", None)
    return f"{_name(tensor.dtype)} ({state.quant_type})" if state is not None else _name(tensor.dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
