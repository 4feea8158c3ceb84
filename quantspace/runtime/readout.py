"""Read from a loaded model what it really holds and where, in the shape of the estimate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel

from ..estimation.stored import StoredTensor


def held_tensors(model: PreTrainedModel) -> tuple[StoredTensor, ...]:
    """Every parameter and buffer with the bytes of its storage; a shared storage counts at its first name.

    Adds what bitsandbytes keeps beside a weight: `quant_state` of 4-bit, `SCB` of int8. A tensor subclass
    (torchao) counts as the plain tensors that it wraps. What accelerate keeps in system memory or on the disk
    until a module needs it counts as the tensor that it will be.
    """
    return tuple(tensor for tensor, _ in _held(model))


def device_bytes(model: PreTrainedModel) -> tuple[tuple[str, int], ...]:
    """Bytes that each device holds of a model, cards first and the disk last; they sum to what it holds in all."""
    held: Counter[str] = Counter()
    for tensor, device in _held(model):
        if tensor.held_bytes:
            held[device] += tensor.held_bytes
    return tuple(sorted(held.items(), key=lambda item: (item[0] == "disk", item[0] == "cpu", item[0])))


def placement_of(model: PreTrainedModel) -> tuple[tuple[str, str], ...]:
    """Modules and the device of each, as accelerate has placed them; empty where all is on one device."""
    devices = {name: _device_name(device) for name, device in (getattr(model, "hf_device_map", None) or {}).items()}
    return tuple(devices.items()) if len(set(devices.values())) > 1 else ()


class _Place(NamedTuple):
    """Where a storage lies: tensors with equal places share it. `device` is `disk` for what is only in a file."""

    device: str
    at: Any


def _held(model: PreTrainedModel) -> Iterator[tuple[StoredTensor, str]]:
    """Every tensor with its device."""
    owners: dict[_Place, str] = {}
    for name, tensor in _named_tensors(model):
        packed, *scales = _plain_tensors(tensor)
        module = model.get_submodule(name.rpartition(".")[0])
        place, size = _storage(packed, module, name.rpartition(".")[2])
        data, tied_to = _first_bytes(place, size, name, owners)
        scales.extend(_constants(tensor, module, name))
        places = [_storage(scale, module) for scale in scales]
        stored = StoredTensor(
            name=name,
            shape=_logical_shape(tensor, module),
            logical_dtype=_logical_dtype(tensor, module, model),
            storage_dtype=_storage_dtype(tensor, module),
            data_bytes=data,
            constant_bytes=sum(_first_bytes(*found, name, owners)[0] for found in places),
            tied_to=tied_to,
        )
        yield stored, place.device


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


def _storage(tensor: torch.Tensor, module: torch.nn.Module, name: str = "") -> tuple[_Place, int]:
    """Where a tensor's storage lies, and its bytes."""
    size = tensor.untyped_storage().nbytes()
    if tensor.device.type == "meta":
        kept = _kept_elsewhere(module, name)
        if not isinstance(kept, torch.Tensor):
            return _Place("disk", kept or id(tensor)), size
        tensor = kept
    storage = tensor.untyped_storage()
    return _Place(_device_name(tensor.device), storage.data_ptr()), storage.nbytes()


def _first_bytes(place: _Place, size: int, name: str, owners: dict[_Place, str]) -> tuple[int, str | None]:
    """Bytes of a storage, or 0 and the name that was there first."""
    if not size:
        return 0, None  # all empty ones lie at address 0
    owner = owners.setdefault(place, name)
    return (size, None) if owner == name else (0, owner)


def _kept_elsewhere(module: torch.nn.Module, name: str) -> Any:
    """What accelerate has in place of a tensor on `meta`: the tensor in system memory, or its place on the disk."""
    hook = getattr(module, "_hf_hook", None)
    for each in getattr(hook, "hooks", [hook]):
        weights, prefix = getattr(each, "weights_map", None), ""
        while weights is not None and hasattr(weights, "dataset"):  # `PrefixedDataset` of accelerate
            prefix, weights = weights.prefix + prefix, weights.dataset
        key = prefix + name
        in_memory = weights if isinstance(weights, dict) else getattr(weights, "state_dict", {})
        if key in in_memory:
            return in_memory[key]
        if key in getattr(weights, "index", {}):
            found = weights.index[key]
            return (found.get("safetensors_file", ""), found.get("weight_name", key))
    return None


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


def _device_name(device: Any) -> str:
    """`cuda:0`, `cpu`, `disk`, however accelerate or torch wrote it."""
    if isinstance(device, int) or str(device).isdigit():
        return f"cuda:{device}"
    return "cuda:0" if str(device) == "cuda" else str(device)
