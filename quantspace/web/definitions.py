"""The published shape of the answers: `schema/v1.json`, whole or one definition at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from typing import Any


@lru_cache(maxsize=1)
def whole_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of all answers."""
    return json.loads(files("quantspace.web").joinpath("schema/v1.json").read_text(encoding="utf-8"))


@lru_cache
def schema_of(name: str) -> dict[str, Any]:
    """The definition `name` as a schema that stands alone, with those definitions that it needs.

    Raises:
        KeyError: there is no such definition.
    """
    definitions = whole_schema()["$defs"]
    needed: dict[str, Any] = {}
    open_ends = list(_references(definitions[name]))
    while open_ends:
        other = open_ends.pop()
        if other not in needed:
            needed[other] = definitions[other]
            open_ends.extend(_references(definitions[other]))
    return {"$schema": whole_schema()["$schema"], **definitions[name], "$defs": dict(sorted(needed.items()))}


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"].rpartition("/")[2]
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _references(part)
