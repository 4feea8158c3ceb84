"""Peaks of memory of real chats with real-size models, beside what the app promises for them.

    python -m tests.bench.peaks --out report.json                  # on a machine with a GPU
    python -m tests.bench.peaks --small --contexts 64 256 1024      # the same architectures, for a CPU

Every cell (a model at a precision, with a prompt of so many tokens) runs in a process of its own, through the
app's loader and chat, with random weights. Out of memory and crashes are results. On a GPU the measures are
`max_memory_allocated` and the memory of the process; on a CPU the live bytes of tensors. The report is written
after each cell. One that is there is gone on with: what it measured stays, what is promised is worked out anew.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from quantspace.estimation.hardware import Gpu, find_gpu
from quantspace.estimation.inventory import Inventory
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.weights import weight_bytes
from quantspace.hub.catalogue import find_bundled
from quantspace.precision import PRECISIONS
from quantspace.quiet import quiet_libraries

from .peak_cells import NEW_TOKENS
from .peak_report import Cell, card_for, false_elsewhere, markdown, predicted
from .sparse_checkpoint import shrunk, write_sparse

MODELS = (
    "openai-community/gpt2",
    "google/gemma-2-2b-it",
    "HuggingFaceTB/SmolLM3-3B",
    "microsoft/Phi-3-mini-128k-instruct",
    "google/gemma-3-4b-it",
    "mistralai/Mistral-7B-Instruct-v0.3",
    "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3.5-9B",
    "Qwen/Qwen3-14B",
    "deepseek-ai/DeepSeek-V2-Lite",
    "openai/gpt-oss-20b",
    "Qwen/Qwen3-30B-A3B",
)
Key = tuple[str, str, int]  # model, precision, context
BEYOND = 1.1  # times what the device can give: weights larger than that are not tried


def main(arguments: Sequence[str]) -> None:
    options = _options(arguments)
    logging.disable(logging.WARNING)
    quiet_libraries()
    device = json.loads(_child("device", options.timeout).stdout.splitlines()[-1])
    card = find_gpu(options.card) if options.card else card_for(device["name"], device["total_bytes"], device["cuda"])
    report = _earlier(options) or {"cells": []}
    report |= {"device": device, "card": card.as_data(), "small": options.small, "versions": _versions()}
    known = {_key(cell): cell for cell in report["cells"]}
    for model_id in options.models:
        for cell in _cells_of_model(model_id, options, device, card, known):
            known[_key(cell)] = cell
            print(_line(cell), file=sys.stderr, flush=True)
            if options.out:
                options.out.write_text(json.dumps(report | {"cells": list(known.values())}, indent=1), encoding="utf-8")
    print(markdown(list(known.values())))


def _cells_of_model(
    model_id: str, options: argparse.Namespace, device: dict[str, Any], card: Gpu, known: dict[Key, Cell]
) -> Iterator[Cell]:
    config = find_bundled(model_id).config
    config = shrunk(config) if options.small else {k: v for k, v in config.items() if k != "quantization_config"}
    inventory = inventory_from_config(config, model_id)
    limit = (inventory.max_context or max(options.contexts) + NEW_TOKENS) - NEW_TOKENS
    contexts = sorted({min(context, limit) for context in options.contexts})
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="peaks-") as folder:
        write_sparse(config, Path(folder))
        for precision in options.precisions:
            earlier = {
                c: known[model_id, precision, c]["measured"] for c in contexts if (model_id, precision, c) in known
            }
            missing = [context for context in contexts if context not in earlier]
            groups = [missing] if options.one_load and missing else [[context] for context in missing]
            specs = [{"model": model_id, "folder": folder, "precision": precision, "contexts": g} for g in groups]
            found = (one for spec in specs for one in _measured_or_skipped(spec, inventory, device, card, options))
            for measured in (*earlier, *found):
                yield _cell(model_id, inventory, precision, measured, device, card)


def _cell(
    model_id: str, inventory: Inventory, precision: str, measured: dict[str, Any], device: dict[str, Any], card: Gpu
) -> Cell:
    context = measured["context"]
    promised = predicted(inventory, PRECISIONS[precision], context, card)
    cell = {"model": model_id, "precision": precision, "context": context, "predicted": promised, "measured": measured}
    # A CPU has kernels of its own, so that it tells nothing of other cards.
    return cell | {"elsewhere": false_elsewhere(cell, inventory, PRECISIONS[precision]) if device["cuda"] else []}


def _measured_or_skipped(
    spec: dict[str, Any], inventory: Inventory, device: dict[str, Any], card: Gpu, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    weights, room = weight_bytes(inventory, PRECISIONS[spec["precision"]]).held, _room(device, card)
    if weights > BEYOND * room:
        error = f"{weights:,} B of weights, far beyond {room:,} B"
        yield from ({"context": context, "outcome": "skipped", "error": error} for context in spec["contexts"])
        return
    cap = card.usable_bytes - card.context_bytes_or_default if options.card and device["cuda"] else None
    yield from _measured(spec | {"cap": cap}, options.timeout)


def _measured(spec: dict[str, Any], timeout: float) -> list[dict[str, Any]]:
    """What the cell's process told, and how it ended where it did not tell of each context."""
    try:
        ended = _child(json.dumps(spec), timeout)
        told, reason = ended.stdout, f"ended with {ended.returncode}: {ended.stderr.strip()[-300:]}"
    except subprocess.TimeoutExpired as error:
        told, reason = (error.stdout or b"").decode(), f"not done after {timeout:g} s"
    found = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    missing = spec["contexts"][len(found) :]
    return [*found, *({"context": context, "outcome": "crashed", "error": reason} for context in missing)]


def _child(argument: str, timeout: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.bench.peak_cells", argument]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def _room(device: dict[str, Any], card: Gpu) -> int:
    return min(card.usable_bytes, device["total_bytes"]) if device["cuda"] else psutil.virtual_memory().available


def _earlier(options: argparse.Namespace) -> dict[str, Any] | None:
    """The report to go on with.

    Raises:
        SystemExit: it is of other sizes or for another card.
    """
    if not options.out or not options.out.is_file():
        return None
    report = json.loads(options.out.read_text(encoding="utf-8"))
    if report["small"] != options.small or (options.card and report["card"]["id"] != find_gpu(options.card).id):
        raise SystemExit(f"{options.out} is a report of other sizes or for another card; name another file.")
    return report


def _key(cell: Cell) -> Key:
    return cell["model"], cell["precision"], cell["context"]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "bitsandbytes", "safetensors")}


def _line(cell: Cell) -> str:
    found, promised = cell["measured"], cell["predicted"]
    peak = f"{found['peak']:,} B" if found.get("peak") else found.get("error", "")[:80]
    place = f"{cell['model']} {cell['precision']} at {cell['context']:,}"
    return f"{place}: {promised['verdict']}, {found['outcome']}, {promised['peak']:,} B promised, {peak}"


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peaks", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--models", nargs="+", default=MODELS, help="ids of bundled models")
    add("--precisions", nargs="+", default=("bf16", "int8", "nf4", "nf4-dq"), choices=PRECISIONS)
    add("--contexts", nargs="+", type=int, default=(512, 4096, 16384), help="tokens of the prompt")
    add("--small", action="store_true", help="the same architectures with fewer layers, narrower")
    add("--card", help="promise for this card, and let the GPU give no more than it would")
    add("--one-load", action="store_true", help="one process a model and precision: quicker, the allocator less clean")
    add("--folder", type=Path, help="for the checkpoints, which take no room where files may have holes")
    add("--out", type=Path, help="the report, as JSON; one that is there is gone on with")
    add("--timeout", type=float, default=900, help="seconds that a process may take")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
