"""The fit table to keep: CSV, JSON and Markdown. Bytes are integers; GB are 10⁹ bytes."""

from __future__ import annotations

import json
from typing import Any

from ..estimation.calculator import Estimate
from .cells import csv_text, markdown_cell, markdown_row
from .rows import VERDICT_WORDS

# Columns of the CSV file, as `Estimate.as_data()` names what is in them; bytes come again as GB.
_BYTES = ("footprint", "weights", "cache", "activation", "overhead", "total", "free")


def as_json(estimate: Estimate) -> str:
    """The API's own object, indented."""
    return json.dumps(estimate.as_data(), indent=2, ensure_ascii=False) + "\n"


def as_csv(estimate: Estimate) -> str:
    """A line a row, with the question in each, so that files can be put together."""
    return csv_text(_records(estimate))


def as_markdown(estimate: Estimate) -> str:
    """A heading and a table, as GitHub and the Hub render it."""
    data = estimate.as_data()
    workload, gpu = estimate.workload, data["gpu"]
    cards = gpu["name"] if gpu["count"] == 1 else f"{gpu['count']} × {gpu['name']}"
    head = ("Precision", "Verdict", "Weights", "Cache", "Activations", "Overhead", "Total", "Free", "Total, bytes")
    keys = ("weights", "cache", "activation", "overhead", "total", "free")
    lines = [
        f"**{markdown_cell(data['model']['id'])}** on {markdown_cell(cards)} ({_gb(gpu['usable_bytes'])} usable), "
        f"{workload.context:,} tokens × {workload.batch}",
        "",
        markdown_row(head),
        markdown_row(["---", "---", *["---:"] * (len(head) - 2)]),
    ]
    for row in data["rows"]:
        label = (
            f"**{markdown_cell(row['label'])}**"
            if row["precision"] == data["recommended"]
            else markdown_cell(row["label"])
        )
        sizes = [_gb(row[f"{key}_bytes"]) for key in keys]
        lines.append(markdown_row([label, VERDICT_WORDS[row["verdict"]], *sizes, f"{row['total_bytes']:,}"]))
    return "\n".join([*lines, "", "GB are 10⁹ bytes. Recommended in bold.", ""])


def _records(estimate: Estimate) -> list[dict[str, Any]]:
    data = estimate.as_data()
    model, gpu, workload = data["model"], data["gpu"], estimate.workload
    asked = {
        "model": model["id"], "revision": model["revision"], "sha": model["sha"], "gpu": gpu["name"],
        "gpu_count": gpu["count"], "usable_bytes": gpu["usable_bytes"], "context": workload.context,
        "batch": workload.batch, "kv_dtype": workload.kv_dtype, "images": workload.images,
    }  # fmt: skip
    return [asked | _of_row(row, row["precision"] == data["recommended"]) for row in data["rows"]]


def _of_row(row: dict[str, Any], recommended: bool) -> dict[str, Any]:
    speed = row["tokens_per_s"] or {}
    return {
        "precision": row["precision"],
        "label": row["label"],
        "verdict": row["verdict"],
        "recommended": recommended,
        **{f"{name}_gb": round(row[f"{name}_bytes"] / 1e9, 3) for name in _BYTES},
        **{f"{name}_bytes": row[f"{name}_bytes"] for name in _BYTES},
        "max_context": row["max_context"],
        "max_batch": row["max_batch"],
        "tokens_per_s_low": speed.get("low"),
        "tokens_per_s_high": speed.get("high"),
        "exact": row["exact"],
        "reason": row["reason"],
    }


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB".replace("-", "−")
