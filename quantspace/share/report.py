"""A comparison to keep: JSON, CSV and Markdown, with what it takes to make it again, and in words for people.

Bytes are integers, times in seconds, divergence in nats a token; an interval is at 95%.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..hub.reference import parse_reference
from ..runtime.compare import Comparison, Row
from ..runtime.quality.figures import Quality
from ..units import gb
from .cells import csv_text, markdown_cell, markdown_row
from .quality_words import QUALITY_COLUMNS, text_words

_HEAD = ("Precision", "Footprint", "Held", "Load", "First token", "Tokens/s")
PACKAGES = ("torch", "transformers", "bitsandbytes", "torchao", "accelerate")


def model_name(comparison: Comparison) -> str:
    """The id of the compared model."""
    return parse_reference(comparison.question.model, comparison.question.revision).id


def as_data(comparison: Comparison) -> dict[str, Any]:
    """All of a comparison as JSON takes it."""
    question, reference = comparison.question, comparison.reference
    measured = next((row.readout for row in comparison.rows if row.readout), None)
    quality = next((row.quality for row in comparison.rows if row.quality), None)
    return {
        "model": {
            "id": model_name(comparison),
            "revision": question.revision,
            "sha": comparison.sha or None,
            "architecture": measured.architecture if measured else None,
        },
        "ended": _time(comparison.ended),
        "cancelled": comparison.cancelled,
        "device": measured.device if measured else None,
        "versions": _versions(),
        "reference": reference.precision if reference else None,
        "prompt": question.prompt,
        "sampling": {
            "greedy": question.sampling.greedy,
            "temperature": question.sampling.temperature,
            "top_p": question.sampling.top_p,
            "max_new_tokens": question.sampling.max_new_tokens,
        },
        "text": _text(comparison, quality),
        "rows": [_row(row) for row in comparison.rows],
    }


def as_json(comparison: Comparison) -> str:
    """`as_data`, indented."""
    return json.dumps(as_data(comparison), indent=2, ensure_ascii=False) + "\n"


def as_csv(comparison: Comparison) -> str:
    """A line a precision, with the question in each, so that files can be put together."""
    data = as_data(comparison)
    text = data["text"] or {}
    asked = {
        "model": data["model"]["id"], "sha": data["model"]["sha"], "device": data["device"], "ended": data["ended"],
        "cancelled": data["cancelled"], "compared_with": data["reference"],
        "text": text.get("name"), "text_sha256": text.get("sha256"),
        "prompt": data["prompt"], **{name: number for name, number in data["versions"].items()},
    }  # fmt: skip
    return csv_text([_flat(row) | asked for row in data["rows"]])


def as_markdown(comparison: Comparison) -> str:
    """A table of figures, the answers, and how it was measured, as GitHub and the Hub render it."""
    data = as_data(comparison)
    head = (
        "Precision",
        "Footprint",
        "Held",
        "Load",
        "First token",
        "Tokens/s",
        *(column.name for column in QUALITY_COLUMNS),
    )
    lines = [
        f"# {markdown_cell(data['model']['id'])}: precisions compared",
        "",
        _about(data),
        "",
        *(["**Cancelled before it was over:** what was measured until then.", ""] if comparison.cancelled else ()),
        markdown_row(head),
        markdown_row(["---", *["---:"] * (len(head) - 1)]),
        *(markdown_row(_cells(row)) for row in comparison.rows),
        "",
        *_notes(data),
        "",
        f"**Prompt:** {markdown_cell(data['prompt'])}",
        "",
    ]
    for row in comparison.rows:
        cut = " (cancelled)" if row.state == "cancelled" else ""
        lines += [f"**{row.label}:** {markdown_cell(row.answer or '(no answer)')}{cut}", ""]
        lines += [f"> {markdown_cell(f'{row.error.message} {row.error.hint}')}", ""] if row.error else []
    return "\n".join(lines)


def file_name(comparison: Comparison) -> str:
    """`gemma-3-4b-it-bf16-int8-nf4-dq`: a name that any disk takes."""
    parts = [model_name(comparison).rpartition("/")[2], *(row.precision for row in comparison.rows)]
    parts += ["cancelled"] if comparison.cancelled else []
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)).strip("-.")[:120]


def _row(row: Row) -> dict[str, Any]:
    stats, readout = row.stats, row.readout
    return {
        "precision": row.precision,
        "label": row.label,
        "reference": row.reference,
        "state": row.state,
        "footprint_bytes": readout.footprint_bytes if readout else None,
        "held_bytes": readout.held_bytes if readout else None,
        "load_s": readout.seconds if readout else None,
        "first_token_s": stats.first_token_s if stats else None,
        "tokens_per_s": stats.tokens_per_s if stats else None,
        "new_tokens": stats.new_tokens if stats else None,
        "answer": row.answer,
        "quality": row.quality.as_data() if row.quality else None,
        "error": {"code": row.error.code, "message": row.error.message, "hint": row.error.hint} if row.error else None,
    }


def _text(comparison: Comparison, quality: Quality | None) -> dict[str, Any] | None:
    text = comparison.question.text
    if text is None:
        return None
    return {
        "name": text.name,
        "sha256": text.digest,
        "characters": len(text.content),
        "method": text_words(quality, text.name) if quality else None,
    }


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row without anything inside anything; an interval is three columns."""
    quality = row["quality"] or {}
    figures: dict[str, Any] = {"scored_tokens": quality.get("tokens")}
    for name in ("perplexity", "ratio", "divergence", "agreement"):
        interval = quality.get(name) or {}
        figures |= {
            name: interval.get("value"),
            f"{name}_low": interval.get("low"),
            f"{name}_high": interval.get("high"),
        }
    plain = {name: value for name, value in row.items() if name not in ("quality", "error")}
    return plain | figures | {"error": row["error"]["message"] if row["error"] else None}


def _cells(row: Row) -> list[str]:
    readout, stats, nothing = row.readout, row.stats, "–"
    return [
        f"**{markdown_cell(row.label)}**" if row.reference else markdown_cell(row.label),
        gb(readout.footprint_bytes) if readout else nothing,
        gb(readout.held_bytes) if readout else nothing,
        f"{readout.seconds:.2f} s" if readout else nothing,
        f"{stats.first_token_s:.2f} s" if stats and stats.first_token_s is not None else nothing,
        f"{stats.tokens_per_s:.1f}" if stats and stats.tokens_per_s is not None else nothing,
        *(column.words(row.quality) if row.quality else nothing for column in QUALITY_COLUMNS),
    ]


def _about(data: dict[str, Any]) -> str:
    commit = f"commit {data['model']['sha'][:12]}" if data["model"]["sha"] else "no commit"
    packages = ", ".join(f"{name} {number}" for name, number in data["versions"].items())
    return f"On {markdown_cell(data['device'] or 'no device')}, {commit}, {packages}; {data['ended'] or 'not ended'}."


def _notes(data: dict[str, Any]) -> list[str]:
    lines = ["Footprint as `get_memory_footprint()` prints it; held: all that the weights take. GB are 10⁹ bytes."]
    text = data["text"]
    if text and text["method"]:
        lines += ["", f"{text['method']} SHA-256 of the text: `{text['sha256']}`.", ""]
        lines += [f"* {column.name}: {column.meaning}." for column in QUALITY_COLUMNS]
    return lines


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _time(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None
