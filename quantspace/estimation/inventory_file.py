"""An inventory as a text file, and back, without loss: JSON in which like things are written once.

A model of a hundred layers repeats a few shapes and a few layers. The file lists each kind of tensor once
(`kinds`: all of a `TensorSpec` but its name), each kind of numbered layer once (`layers`), and then the
model in its own order. `data/README.md` describes it for people. Fields come from the dataclasses, so that
a new one needs nothing here; what equals its default is left out.

Not here: which inventories come with the app (`bundled.py`), and how one is made (`meta/`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from itertools import groupby
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from .inventory import Inventory, TensorSpec

FORMAT = 1  # to be raised when a file of today should not be read any more, and no field tells so

_NUMBERED = re.compile(r"(.*?)\.(0|[1-9][0-9]*)\.(.+)")
_NUMBER_LAST = re.compile(r"(.*)\.(0|[1-9][0-9]*)")

# Of tensors: [name, place in `kinds`], or [stack, first number, [[place in `layers`, times], …]].
Item = list[Any]


@lru_cache(maxsize=1)
def transformers_version() -> str:
    """Of the installed transformers, without importing it."""
    return version("transformers")


@lru_cache(maxsize=1)
def fields_digest() -> str:
    """Eight digits that change with any field of an inventory: an older file knows nothing of a new one."""
    known: dict[str, list[tuple[str, ...]]] = {}

    def describe(hint: Any) -> None:
        if is_dataclass(hint) and hint.__name__ not in known:
            known[hint.__name__] = [
                (field.name, str(field.type), "" if field.default is MISSING else repr(field.default))
                for field in fields(hint)
            ]
            for arm in _hints(hint).values():
                describe(arm)
        for arm in get_args(hint):
            describe(arm)

    describe(Inventory)
    return sha256(repr(known).encode()).hexdigest()[:8]


def dump(inventory: Inventory, transformers: str | None = None) -> str:
    """The text of a file.

    Args:
        transformers: version whose class was read; the installed one unless it is given.
    """
    tables = _Tables()
    content = {name: tables.plain(value, hint) for name, value, hint in _given(inventory)}
    facts = {name: value for name, value in content.items() if not isinstance(value, list)}
    return _tidy(_versions(transformers) | facts | tables.shared() | content)


def load(text: str, transformers: str | None = None) -> Inventory | None:
    """The inventory of a file; `None` where it was read with another transformers, or has other fields than today's.

    Args:
        transformers: version that is wanted; the installed one unless it is given.

    Raises:
        ValueError: the text is no such file.
    """
    content = json.loads(text)
    wanted = _versions(transformers)
    if not isinstance(content, dict) or not wanted.keys() <= content.keys():
        raise ValueError(f"This is no inventory file: it does not say its {', '.join(wanted)}.")
    if wanted != {name: content.pop(name) for name in wanted}:
        return None
    try:
        tables = _Written(content.pop("kinds"), content.pop("layers"))
        return tables.typed(content, Inventory)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(f"This inventory file is broken: {error!r}.") from error


def _versions(transformers: str | None) -> dict[str, Any]:
    return {"format": FORMAT, "fields": fields_digest(), "transformers": transformers or transformers_version()}


class _Tables:
    """What is written once: kinds of tensors as their JSON, and layers as lists of items."""

    def __init__(self) -> None:
        self.kinds: dict[str, int] = {}
        self.layers: dict[str, int] = {}

    def plain(self, value: Any, hint: Any) -> Any:
        """A value as JSON takes it."""
        if hint == tuple[TensorSpec, ...]:
            return self._folded([(spec.name, self._kind(spec)) for spec in value])
        if hint == tuple[str, ...]:
            return list(_numbers_folded(value))
        return _plain(value)

    def shared(self) -> dict[str, list[Any]]:
        return {name: [json.loads(text) for text in vars(self)[name]] for name in ("kinds", "layers")}

    def _kind(self, spec: TensorSpec) -> int:
        kind = {name: _plain(value) for name, value, _ in _given(spec) if name != "name"}
        return self.kinds.setdefault(json.dumps(kind), len(self.kinds))

    def _folded(self, entries: Sequence[tuple[str, int]]) -> list[Item]:
        """Consecutive layers of a stack as one item; a layer that stands alone is written out."""
        items: list[Item] = []
        for stack, members in groupby(entries, lambda entry: _split(entry[0])[0]):
            if stack is None:
                items.extend([name, kind] for name, kind in members)
                continue
            parts = [(*_split(name)[1:], kind) for name, kind in members]
            numbered = [
                (number, self._folded([(rest, kind) for _, rest, kind in layer]))
                for number, layer in groupby(parts, lambda part: part[0])
            ]
            for run in _consecutive(numbered):
                items.extend(self._run(stack, run))
        return items

    def _run(self, stack: str, run: list[tuple[int, list[Item]]]) -> list[Item]:
        first, alone = run[0]
        if len(run) == 1:
            return [[f"{stack}.{first}.{name}", *rest] for name, *rest in alone]
        places = [self.layers.setdefault(json.dumps(layer), len(self.layers)) for _, layer in run]
        return [[stack, first, [[place, len(list(same))] for place, same in groupby(places)]]]


class _Written:
    """The tables of a file, and what is read with them."""

    def __init__(self, kinds: list[dict[str, Any]], layers: list[list[Item]]) -> None:
        self._kinds = [
            {name: _typed(value, _hints(TensorSpec)[name]) for name, value in kind.items()} for kind in kinds
        ]
        self._layers = layers
        self._expanded: dict[int, list[tuple[str, int]]] = {}

    def typed(self, content: dict[str, Any], cls: type) -> Any:
        hints = _hints(cls)
        return cls(**{name: self._value(value, hints[name]) for name, value in content.items()})

    def _value(self, value: Any, hint: Any) -> Any:
        if hint == tuple[TensorSpec, ...]:
            return tuple(TensorSpec(name, **self._kinds[kind]) for name, kind in self._unfolded(value))
        if hint == tuple[str, ...]:
            return tuple(_numbers_unfolded(value))
        return _typed(value, hint)

    def _unfolded(self, items: list[Item]) -> Iterator[tuple[str, int]]:
        for name, *rest in items:
            if len(rest) == 1:
                yield name, rest[0]
                continue
            first, runs = rest
            places = (place for place, times in runs for _ in range(times))
            for number, place in enumerate(places, first):
                above = f"{name}.{number}."
                yield from [(above + below, kind) for below, kind in self._layer(place)]

    def _layer(self, place: int) -> list[tuple[str, int]]:
        if place not in self._expanded:
            self._expanded[place] = list(self._unfolded(self._layers[place]))
        return self._expanded[place]


def _split(name: str) -> tuple[str | None, int, str]:
    """`model.layers.3.mlp.weight` → `model.layers`, 3, `mlp.weight`; stack `None` where nothing is numbered."""
    match = _NUMBERED.fullmatch(name)
    return (match[1], int(match[2]), match[3]) if match else (None, 0, name)


def _consecutive(numbered: Iterable[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
    run: list[tuple[int, Any]] = []
    for number, what in numbered:
        if run and number != run[-1][0] + 1:
            yield run
            run = []
        run.append((number, what))
    if run:
        yield run


def _numbers_folded(names: Iterable[str]) -> Iterator[str | list[Any]]:
    """`h.0`, `h.1`, `h.2` → [`h`, 0, 3]: stem, first number, how many."""
    matches = ((match[1], int(match[2])) if (match := _NUMBER_LAST.fullmatch(name)) else (name, -1) for name in names)
    for (stem, _), members in groupby(matches, lambda member: (member[0], member[1] < 0)):
        for run in _consecutive((number, None) for _, number in members):
            first = run[0][0]
            if first < 0:
                yield from [stem] * len(run)
            elif len(run) == 1:
                yield f"{stem}.{first}"
            else:
                yield [stem, first, len(run)]


def _numbers_unfolded(items: Iterable[str | list[Any]]) -> Iterator[str]:
    for item in items:
        if isinstance(item, str):
            yield item
        else:
            stem, first, count = item
            yield from (f"{stem}.{number}" for number in range(first, first + count))


def _given(instance: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and type of the fields that differ from their default."""
    hints = _hints(type(instance))
    for field in fields(instance):
        value = getattr(instance, field.name)
        if field.default is MISSING or value != field.default:
            yield field.name, value, hints[field.name]


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {name: _plain(inner) for name, inner, _ in _given(value)}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value


def _typed(value: Any, hint: Any) -> Any:
    """The inverse of `_plain`, for the types that facts are made of: dataclasses, tuples, plain values, `None`."""
    if value is None:
        return None
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (arm for arm in get_args(hint) if arm is not NoneType)
    if is_dataclass(hint):
        return hint(**{name: _typed(inner, _hints(hint)[name]) for name, inner in value.items()})
    if get_origin(hint) is tuple:
        arms = get_args(hint)
        each = arms[:1] * len(value) if arms[1:] == (...,) else arms
        return tuple(_typed(inner, arm) for inner, arm in zip(value, each, strict=True))
    return value


@lru_cache(maxsize=32)
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _tidy(content: dict[str, Any]) -> str:
    """JSON with a line for each key, and for each item of a list of lists or objects."""
    lines = (f" {json.dumps(key)}: {_lines(value, 1)}" for key, value in content.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _lines(value: Any, depth: int) -> str:
    if not (isinstance(value, list) and value and all(isinstance(inner, (list, dict)) for inner in value)):
        return json.dumps(value, ensure_ascii=False)
    inner = (" " * (depth + 1) + _lines(inner, depth + 1) for inner in value)
    return "[\n" + ",\n".join(inner) + "\n" + " " * depth + "]"
