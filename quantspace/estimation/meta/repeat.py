"""Shorter passes on `meta`: of like layers the first and the last run, those between are played back.

A decoder repeats its layer a hundred times. Layers of one class, with parameters of the same shapes and the
same plain attributes, do the same to the memory: the first shows what a layer gives back and what it puts
into the cache, and the last runs with the whole cache beside it. `LikeLayers.sound` tells afterwards whether
the two agreed; where they did not, a full pass is due. For passes that fill an empty cache only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FEWEST = 3  # like layers: below that there is none between the first and the last
_INTERNAL = frozenset(vars(torch.nn.Module()))
_PLACE = frozenset({"layer_idx", "layer_id"})
_PLAIN = (int, float, str, bool, type(None), torch.dtype)


class LikeLayers:
    """While entered, layers of a model between the first and the last of their kind are played back.

    Enter it anew for each pass: what is played back is what a layer did in that very pass.

    Attributes:
        sound: whether all that was played back agreed with what ran; read it after the passes.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._kinds = [kind for layers in _layer_lists(model) for kind in _kinds(layers)]
        self._saved: list[torch.nn.Module] = []
        self.sound = True

    def __enter__(self) -> LikeLayers:
        for kind in self._kinds:
            player = _Player(self._doubt)
            self._replace(kind[0], player.really(kind[0]))
            for layer in kind[1:-1]:
                self._replace(layer, player.played(layer))
            self._replace(kind[-1], player.really(kind[-1]))
        return self

    def __exit__(self, *_: object) -> None:
        for layer in self._saved:
            del layer.forward
        self._saved.clear()

    def _replace(self, layer: torch.nn.Module, forward: Callable[..., Any]) -> None:
        layer.forward = forward
        self._saved.append(layer)

    def _doubt(self) -> None:
        self.sound = False


@dataclass(frozen=True)
class _Tensor:
    """A tensor that a layer made: how to make one like it, in the same piece of memory as its siblings."""

    storage: int  # which of the storages that the call made
    storage_elements: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class _Input:
    """Something that came in and was handed on, such as a position bias."""

    leaf: int


@dataclass(frozen=True)
class _Call:
    """What a layer did: the same for all layers of its kind, their places aside."""

    place: int  # of the layer, in the cache
    outputs: tuple[Any, ...]
    structure: TreeSpec
    filled: tuple[tuple[int, Any, Any], ...]  # which cache, the layer of it before and after, in words


class _Player:
    """Records what layers of one kind do with each sort of input, and plays it back for others."""

    def __init__(self, doubt: Callable[[], None]) -> None:
        self._calls: dict[tuple[Any, ...], _Call | None] = {}
        self._doubt = doubt

    def really(self, layer: torch.nn.Module) -> Callable[..., Any]:
        """A forward that runs, and is compared with an earlier one where there was one like it."""
        forward, place = layer.forward, _place(layer)

        def run(*args: Any, **kwargs: Any) -> Any:
            output, inputs, call = _observed(forward, place, args, kwargs)
            if not _alike(self._calls.setdefault(inputs, call), call):
                self._doubt()
            return output

        return run

    def played(self, layer: torch.nn.Module) -> Callable[..., Any]:
        """A forward that is played back wherever one like it has run."""
        forward, place = self.really(layer), _place(layer)

        def run(*args: Any, **kwargs: Any) -> Any:
            leaves, _ = tree_flatten((args, kwargs))
            call = self._calls.get(_signature(leaves))
            if call is None or not _fill(call, leaves, place):
                return forward(*args, **kwargs)
            made: dict[int, torch.Tensor] = {}
            return tree_unflatten([_replayed(one, leaves, made) for one in call.outputs], call.structure)

        return run


def _alike(one: _Call | None, other: _Call | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.outputs, one.structure, one.filled) == (other.outputs, other.structure, other.filled)


def _fill(call: _Call, leaves: list[Any], place: int) -> bool:
    """Put into the cache what the layer would; whether that could be done."""
    caches = _caches(leaves)
    for which, before, _ in call.filled:
        layers = caches[which].layers
        if place > len(layers) or _described(layers, place) != before:
            return False
    for which, _, _ in call.filled:
        layers = caches[which].layers
        layers[place : place + 1] = [_like(layers[call.place])]
    return True


def _layer_lists(model: torch.nn.Module) -> Iterator[torch.nn.ModuleList]:
    """The outermost lists of modules."""
    for child in model.children():
        if isinstance(child, torch.nn.ModuleList):
            yield child
        else:
            yield from _layer_lists(child)


def _kinds(layers: torch.nn.ModuleList) -> list[list[torch.nn.Module]]:
    kinds: dict[tuple[Any, ...], list[torch.nn.Module]] = {}
    for layer in layers:
        kinds.setdefault(tuple(_traits(layer)), []).append(layer)
    return [kind for kind in kinds.values() if len(kind) >= _FEWEST]


def _traits(layer: torch.nn.Module) -> Iterator[Any]:
    """All by which a layer's run could differ from another's, its place aside."""
    for name, module in layer.named_modules():
        yield name
        yield type(module)
        for key, value in vars(module).items():
            if key not in _INTERNAL and key not in _PLACE:
                yield key, _trait(value)
        for group in (module._parameters, module._buffers):
            for key, tensor in group.items():
                yield key, None if tensor is None else (tensor.shape, tensor.dtype)


def _trait(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (list, tuple, set, dict)):
        return repr(value)
    if hasattr(value, "to_dict") or isinstance(value, torch.nn.Module):
        return id(value)  # layers that share a config are configured alike
    return getattr(value, "__qualname__", type(value))


def _place(layer: torch.nn.Module) -> int:
    """The index under which a layer knows itself; −1 where it has none."""
    places = {vars(module).get(key) for module in layer.modules() for key in _PLACE} - {None}
    return places.pop() if len(places) == 1 else -1


def _observed(
    forward: Callable[..., Any], place: int, args: Any, kwargs: Any
) -> tuple[Any, tuple[Any, ...], _Call | None]:
    """Run a layer: its output, the sort of its inputs, and what it did; `None` where that can't be played back."""
    leaves, _ = tree_flatten((args, kwargs))
    inputs = _signature(leaves)
    before = [[_described(cache.layers, i) for i in range(len(cache.layers))] for cache in _caches(leaves)]
    beside = [tuple(_words(_beside_layers(cache))) for cache in _caches(leaves)]
    output = forward(*args, **kwargs)
    if beside != [tuple(_words(_beside_layers(cache))) for cache in _caches(leaves)]:
        return output, inputs, None
    filled = []
    for which, cache in enumerate(_caches(leaves)):
        for i in range(len(cache.layers)):
            now = _described(cache.layers, i)
            earlier = before[which][i] if i < len(before[which]) else None
            if now != earlier:
                if i != place:
                    return output, inputs, None
                filled.append((which, earlier, now))
    outputs, structure = tree_flatten(output)
    worded = _worded(outputs, leaves)
    return output, inputs, None if worded is None else _Call(place, worded, structure, tuple(filled))


def _caches(leaves: list[Any]) -> list[Any]:
    """The caches among a call's arguments; of an encoder-decoder's both."""
    found = []
    for leaf in leaves:
        for cache in (getattr(leaf, "self_attention_cache", leaf), getattr(leaf, "cross_attention_cache", None)):
            if hasattr(cache, "layers") and not isinstance(cache, torch.nn.Module):
                found.append(cache)
    return found


def _beside_layers(cache: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(cache).items() if name != "layers"}


def _signature(leaves: list[Any]) -> tuple[Any, ...]:
    return tuple(
        (leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf if isinstance(leaf, _PLAIN) else type(leaf)
        for leaf in leaves
    )


def _described(layers: list[Any], place: int) -> Any:
    """A cache layer in words that compare; `None` where there is none yet."""
    return None if place >= len(layers) else (type(layers[place]), *_words(vars(layers[place])))


def _words(value: Any) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        yield value.shape, value.dtype, value.untyped_storage().nbytes()
    elif isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from _words(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _words(one)
    elif isinstance(value, _PLAIN):
        yield value


def _like(layer: Any) -> Any:
    """A cache layer like `layer`, with memory of its own."""
    made: dict[int, torch.Tensor] = {}
    found: list[torch.Tensor] = []
    memo: dict[int, Any] = {}
    todo = list(vars(layer).values())
    while todo:
        value = todo.pop()
        if isinstance(value, torch.Tensor) and value.dim():
            found.append(value)
        elif isinstance(value, dict):
            todo.extend(value.values())
        elif isinstance(value, (list, tuple)):
            todo.extend(value)
        elif not isinstance(value, _PLAIN):
            memo[id(value)] = value  # numbers that a layer counts with are no cache
    for tensor, worded in zip(found, _worded(found, []) or (), strict=True):
        memo[id(tensor)] = _replayed(worded, [], made)
    return copy.deepcopy(layer, memo)


def _worded(tensors: list[Any], inputs: list[Any]) -> tuple[Any, ...] | None:
    came_in = {
        leaf.untyped_storage()._cdata: number for number, leaf in enumerate(inputs) if isinstance(leaf, torch.Tensor)
    }
    storages: dict[int, int] = {}
    worded: list[Any] = []
    for value in tensors:
        if not isinstance(value, torch.Tensor):
            number = next((number for number, leaf in enumerate(inputs) if leaf is value), None)
            if number is None and not isinstance(value, _PLAIN):
                return None
            worded.append(value if number is None else _Input(number))
            continue
        storage = value.untyped_storage()
        if storage._cdata in came_in:
            leaf = inputs[came_in[storage._cdata]]
            if leaf.shape != value.shape or leaf.stride() != value.stride():
                return None
            worded.append(_Input(came_in[storage._cdata]))
            continue
        number = storages.setdefault(storage._cdata, len(storages))
        elements = storage.nbytes() // value.element_size()
        worded.append(
            _Tensor(number, elements, value.dtype, tuple(value.shape), value.stride(), value.storage_offset())
        )
    return tuple(worded)


def _replayed(worded: Any, inputs: list[Any], made: dict[int, torch.Tensor]) -> Any:
    match worded:
        case _Input(leaf):
            return inputs[leaf]
        case _Tensor(storage, elements, dtype, shape, stride, offset):
            if storage not in made:
                made[storage] = torch.empty(elements, dtype=dtype, device="meta")
            return made[storage].as_strided(shape, stride, offset)
        case _:
            return worded
