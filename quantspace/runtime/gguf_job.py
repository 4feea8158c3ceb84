"""A GGUF file on its way to what runs it here: llama.cpp as it is, or transformers, which unpacks it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from ..errors import LoadFailed, ModelNotFound, ModelUnsupported, shorten
from ..estimation.fit import fit
from ..estimation.gguf.dequantized import dequantized_inventory
from ..estimation.gguf.engine import INSTALL, runner
from ..estimation.gguf.file import GgufFile
from ..estimation.gguf.rows import file_behind, precision_for
from ..estimation.inventory import Inventory
from ..estimation.weights import weight_bytes
from ..estimation.workload import Workload
from ..hub.client import RepoFacts
from ..hub.download import download
from ..precision import PRECISIONS, Precision
from .job import GgufSource, Job, Phase
from .machine import machine

UNPACKED = PRECISIONS["bf16"]
UNPACKING_COPIES = 2  # of the model at once: transformers unpacks all tensors, then copies them into the layers


def prepare_file(
    facts: RepoFacts, inventory: Inventory, precision_id: str, token: str | None, context: int = 0
) -> Generator[Phase, None, Job]:
    """Fetch a GGUF file: yields progress, and returns the job that loads it.

    Args:
        precision_id: `gguf:` and the file's path.
        context: tokens to allocate a cache for; 0 for the engine's own choice.

    Raises:
        ModelNotFound: there is no such file.
        LoadFailed, ModelUnsupported: nothing here runs it.
    """
    file = _file(inventory, precision_id)
    engine = runner()
    if not engine:
        raise LoadFailed(f"Nothing that is installed here runs {shorten(file.path, 120)}.", f"To run it: {INSTALL}.")
    sizes = {path: facts.files[path] for path in file.paths}
    folder = yield from _fetched(facts, sizes, token)
    source = GgufSource(file.paths, engine, _gpu_layers(inventory, precision_for(inventory, precision_id), context))
    if engine == "llama.cpp":
        footprint = held = file.weights
        beside = 0  # the file is mapped
    else:
        if len(file.paths) > 1:
            raise ModelUnsupported(
                f"{shorten(file.path, 120)} is split, and transformers unpacks single files alone.",
                f"To run it as it is: {INSTALL}.",
            )
        unpacked = dequantized_inventory(folder / file.path, facts.ref.id, facts.ref.revision, facts.sha)
        expected = weight_bytes(unpacked, UNPACKED)
        footprint, held = expected.footprint, expected.held
        beside = (UNPACKING_COPIES - 1) * held
    return Job(
        facts.ref.id, facts.sha, str(folder), precision_id, footprint, held, beside, context=context, gguf=source
    )


def _file(inventory: Inventory, precision_id: str) -> GgufFile:
    try:
        file = file_behind(inventory, precision_id)
    except KeyError:
        file = None
    if file is None:
        raise ModelNotFound(
            f"{inventory.model_id} has no file “{shorten(precision_id.partition(':')[2], 120)}”.",
            "Press Estimate again: the repository may have changed.",
        )
    return file


def _fetched(facts: RepoFacts, sizes: dict[str, int], token: str | None) -> Generator[Phase, None, Path]:
    for event in download(facts, token, sizes):
        if isinstance(event, Path):
            return event
        yield Phase("download", event.done, event.total)
    raise AssertionError("a download ends with its folder")


def _gpu_layers(inventory: Inventory, precision: Precision, context: int) -> int:
    """How many layers this machine's cards hold beside the cache; 0 without a card."""
    hardware = machine().hardware
    if hardware is None:
        return 0
    row = fit(inventory, precision, hardware, Workload(context=context or Workload().context))
    return row.gpu_layers or 0
