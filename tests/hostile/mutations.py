"""How hypothesis breaks what was sound: values of JSON, and bytes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

INTEGERS = st.sampled_from(
    [-1, 0, 1, 2, 3, 7, 255, 2**16, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 10**18, -(2**63)]
)
FLOATS = st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e308, -0.0, 0.5, 5e-324])
TEXTS = st.sampled_from(
    ["", "../../x", "llama", "auto", "\0", "\ud800", "x" * 2000, "float16", "1", "mixtral", "full_attention"]
)
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, FLOATS, TEXTS, st.integers(), st.text(max_size=8))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.text(max_size=6), inner, max_size=4),
    max_leaves=6,
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where anything stands in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, one in inner for path in paths(one, (*at, key)))]


@st.composite
def broken_json(draw: st.DrawFn, sound: st.SearchStrategy[Any], keys: Sequence[str] = ()) -> Any:
    """A sound JSON value with one to four things changed in it.

    Args:
        keys: that may be added anywhere.
    """
    value = copy.deepcopy(draw(sound))
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(paths(value)[1:] or [()]))
        value = draw(st.sampled_from(_CHANGES))(draw, value, path, keys)
    return value


def _holder(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path[:-1]:
        value = value[step]
    return value


def _delete(draw: st.DrawFn, value: Any, path: tuple[Any, ...], keys: Sequence[str]) -> Any:
    if path:
        del _holder(value, path)[path[-1]]
    return value


def _retype(draw: st.DrawFn, value: Any, path: tuple[Any, ...], keys: Sequence[str]) -> Any:
    if not path:
        return draw(VALUES)
    _holder(value, path)[path[-1]] = draw(VALUES)
    return value


def _nudge(draw: st.DrawFn, value: Any, path: tuple[Any, ...], keys: Sequence[str]) -> Any:
    """Numbers become others of their kind: what is wrong by one is found by nothing else."""
    holder = _holder(value, path) if path else None
    if holder is None or isinstance(holder[path[-1]], bool) or not isinstance(holder[path[-1]], int):
        return _retype(draw, value, path, keys)
    holder[path[-1]] += draw(st.sampled_from([-1, 1, 8, -8])) if draw(st.booleans()) else draw(INTEGERS)
    return value


def _nest(draw: st.DrawFn, value: Any, path: tuple[Any, ...], keys: Sequence[str]) -> Any:
    if path:
        holder = _holder(value, path)
        old = holder[path[-1]]
        holder[path[-1]] = [old] * draw(st.integers(0, 3)) if draw(st.booleans()) else {"a": old}
    return value


def _add(draw: st.DrawFn, value: Any, path: tuple[Any, ...], keys: Sequence[str]) -> Any:
    holder = _holder(value, path) if path else value
    if isinstance(holder, dict):
        holder[draw(st.sampled_from(keys) if keys else TEXTS)] = draw(VALUES)
    elif isinstance(holder, list):
        holder.append(draw(VALUES))
    return value


_CHANGES: tuple[Callable[..., Any], ...] = (_delete, _retype, _nudge, _nest, _add)


@st.composite
def broken_bytes(draw: st.DrawFn, sound: st.SearchStrategy[bytes], head: int = 4096) -> bytes:
    """Sound bytes with one to six places changed, most of them in the first `head`."""
    data = bytearray(draw(sound))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, min(len(data), head) - 1)))
        kind = draw(st.integers(0, 5))
        if kind == 0:
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == 1:
            data[at : at + 8] = (
                draw(INTEGERS).to_bytes(9, "little", signed=True)[:8] if draw(st.booleans()) else b"\xff" * 8
            )
        elif kind == 2:
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == 3:
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == 4:
            del data[at:]
        else:
            data[at : at + 4] = draw(st.sampled_from([0, 1, 2, 9, 77, 2**31, 2**32 - 1])).to_bytes(4, "little")
    return bytes(data)


def as_json(value: Any) -> bytes:
    """Also what no strict writer writes: NaN, infinities, halves of characters."""
    return json.dumps(value).encode()
