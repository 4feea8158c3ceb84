"""JSON of somebody else's making, refused before it is parsed where it would take far more memory than its text."""

from __future__ import annotations

import json
from typing import Any

MAX_HOLDERS = 300_000  # lists and objects: an empty one is two bytes of text, and 64 in memory
MAX_SEPARATORS = 2_000_000


def parse_json(text: bytes) -> Any:
    """What the text says.

    Raises:
        ValueError: it is no JSON, or more of it than is held in memory.
    """
    if text.count(b"[") + text.count(b"{") > MAX_HOLDERS or text.count(b",") > MAX_SEPARATORS:
        raise ValueError("more values than are held in memory")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parse_sendable(text: bytes) -> Any:
    """The same, of texts that can be sent to people.

    Raises:
        ValueError: one has half of a sign that takes two (a lone surrogate), which UTF-8 can't tell.
    """
    found = parse_json(text)
    if b"\\ud" in text.lower():
        json.dumps(found, ensure_ascii=False).encode()
    return found
