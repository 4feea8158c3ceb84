"""Where the tensors of an answer were read, in words: how sure it is, what it leaves out, which file was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ModelNotFound
from ..estimation.calculator import Estimate
from ..estimation.fit import FitRow
from ..estimation.gguf.rows import asked_file
from ..estimation.inventory import Inventory, SourceKind
from ..hub.reference import ModelRef

# What stands before the source's own words; the class needs none.
_READ_FROM: dict[SourceKind, str] = {
    "class": "",
    "headers": "from headers",
    "gguf": "from GGUF headers",
    "counts": "from the Hub's counts",
    "sizes": "from file sizes",
    "adapter": "base and adapter",
}
_BESIDE = {
    "transformers": "Cache as transformers keeps it. Activations and overhead are estimates of the peak.",
    "assumed": "Cache, activations and overhead are estimates.",
    "no cache": "Activations and overhead are estimates of the peak.",
    "llama.cpp": "Cache and buffers as llama.cpp keeps them; the buffers are estimates of the peak.",
}


@dataclass(frozen=True)
class SourceWords:
    """The line about the source.

    Attributes:
        sure: `Exact` or `Estimated`.
        read_from: in a few words, to be found at a glance; empty where the model's own class was read.
        source: in full.
        beside: what holds for everything but weights; empty where only these are told.
    """

    sure: str
    read_from: str
    source: str
    beside: str


def source_words(inventory: Inventory) -> SourceWords:
    """How the page names the source of an inventory."""
    beside = "" if inventory.weights_only else _beside(inventory)
    sure = "Exact" if inventory.exact else "Estimated"
    return SourceWords(sure, _READ_FROM[inventory.source_kind], inventory.source, beside)


def _beside(inventory: Inventory) -> str:
    if only_gguf(inventory):
        return _BESIDE["llama.cpp"]
    if not inventory.generates:
        return _BESIDE["no cache"]
    return _BESIDE["transformers" if inventory.cache_exact else "assumed"]


def badges(inventory: Inventory) -> list[str]:
    """What stands beside the id of a model that not everybody may see."""
    return [name for name in ("private", "gated") if getattr(inventory, name)]


def only_gguf(inventory: Inventory) -> bool:
    """Whether the repository has its weights in GGUF files alone."""
    return inventory.source_kind == "gguf"


def asked_row(inventory: Inventory, asked: ModelRef | None) -> tuple[str | None, str]:
    """The id of the row that was asked for by a file or its quantization, and what to say where there is none."""
    if asked is None or not inventory.files:
        return None, ""
    try:
        file = asked_file(inventory.files, asked.file, asked.quant)
    except ModelNotFound as missing:
        return None, str(missing)
    return (file.id if file else None), ""


def on_top(row: FitRow, estimate: Estimate) -> bool:
    """Whether a row is among the first: what most readers look for, or what the model came in."""
    if only_gguf(estimate.inventory):
        return row.file is not None
    return row.precision.usual
