"""A conversation to take along: as JSON with all that is known of each answer, or as Markdown to read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..units import gb
from .conversation import History, facts_of, messages_of

_Said = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """A kind of file: its name to people, its ending, its media type, and how it is made."""

    label: str
    ending: str
    media_type: str
    make: Callable[[History, str], str]


def conversation_file(history: History, system: str, format_name: str) -> dict[str, str]:
    """The file's `name`, `type` and `text`.

    Args:
        format_name: one of `FORMATS`.

    Raises:
        BadInput: nothing has been said yet.
    """
    if not history:
        raise BadInput("There is nothing to export yet.", "Ask something first.")
    kind = FORMATS[format_name]
    return {"name": f"{_name(history)}.{kind.ending}", "type": kind.media_type, "text": kind.make(history, system)}


def _as_json(history: History, system: str) -> str:
    return json.dumps(
        {"app": "QuantSpace", "exported_at": _now(), "system": system.strip(), "messages": _turns(history)},
        ensure_ascii=False,
        indent=2,
    )


def _as_markdown(history: History, system: str) -> str:
    parts = ["# A conversation", f"Exported from QuantSpace, {_now()}."]
    if system.strip():
        parts += ["## System prompt", system.strip()]
    for turn in _turns(history):
        parts.append("## You" if turn["role"] == "user" else f"## {turn.get('model', 'Model')}")
        parts += [f"Image: {name}" for name in turn.get("images", ())]
        parts.append(turn["content"])
        if line := _line(turn):
            parts.append(f"*{line}*")
    return "\n\n".join(part for part in parts if part) + "\n"


def _turns(history: History) -> list[_Said]:
    answers = iter([turn for turn in history if turn["role"] == "assistant"])
    turns = []
    for message in messages_of(history, ""):
        turn: _Said = {"role": message.role, "content": message.content}
        if message.images:
            turn["images"] = [Path(path).name for path in message.images]
        if message.role == "assistant":
            turn |= facts_of(next(answers))
        turns.append(turn)
    return turns


def _line(turn: _Said) -> str:
    """What an answer took, in a line."""
    stats, sampling = turn.get("stats", {}), turn.get("sampling", {})
    if not stats:
        return ""
    parts = [str(turn.get("precision", ""))]
    if stats.get("footprint_bytes"):
        parts.append(f"footprint {gb(stats['footprint_bytes'])}")
    parts.append(f"{stats.get('new_tokens', 0):,} tokens")
    if stats.get("tokens_per_s"):
        parts.append(f"{stats['tokens_per_s']:.1f} tokens/s")
    if sampling.get("greedy"):
        parts.append("greedy")
    elif sampling:
        parts.append(f"temperature {sampling.get('temperature')}, top-p {sampling.get('top_p')}")
    if stats.get("ended") not in (None, "eos"):
        parts.append({"length": "cut at max new tokens", "stopped": "stopped"}.get(stats["ended"], ""))
    return " · ".join(part for part in parts if part)


def _name(history: History) -> str:
    """`gemma-3-4b-it-nf4-dq-chat`: a name that any disk takes."""
    facts = next((facts for turn in reversed(history) if (facts := facts_of(turn))), {})
    model = str(facts.get("model", "")).rpartition("/")[2]
    words = "-".join(part for part in (model, str(facts.get("precision", "")), "chat") if part)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", words).strip("-.")[:120]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


FORMATS: dict[str, Format] = {
    "json": Format("JSON", "json", "application/json", _as_json),
    "markdown": Format("Markdown", "md", "text/markdown", _as_markdown),
}
