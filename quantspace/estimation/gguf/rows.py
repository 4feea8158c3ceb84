"""The GGUF files of a model as precisions of the fit table, and which of them was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

from ...errors import ModelNotFound, shorten
from ...formula import Formula, Term, counted
from ...hub.ggml_types import GGML_TYPES
from ...precision import Precision, find_precision, gguf_file_precision
from ...units import gb
from ..inventory import Inventory
from .file import PREFIX, GgufFile, TypeSum

KEPT = 512  # inventories whose precisions are kept

_BLOCKS = {kind.name: kind for kind in GGML_TYPES.values()}
PACKED = Formula("elements // block * size", elements="weights", size="B")
PLAIN = Formula("elements * size", elements="weights", size="B")
_PARTS = {"layers": "layers", "input": "token embeddings", "output": "output"}


@lru_cache(KEPT)  # an inventory is compared by identity
def file_precisions(inventory: Inventory) -> Mapping[str, Precision]:
    """A precision for each GGUF file, by its id, the largest file first."""
    files = sorted(inventory.files, key=lambda file: (-file.weights, file.path))
    return {file.id: gguf_file_precision(file.id, file.label, _about(file, inventory)) for file in files}


@lru_cache(KEPT)
def _files(inventory: Inventory) -> Mapping[str, GgufFile]:
    return {file.id: file for file in inventory.files}


def file_behind(inventory: Inventory, precision_id: str) -> GgufFile | None:
    """The file that a precision stands for; `None` for those of the table.

    Raises:
        KeyError: the model has no such file.
    """
    return _files(inventory)[precision_id] if precision_id.startswith(PREFIX) else None


def precision_for(inventory: Inventory, precision_id: object) -> Precision:
    """The precision of an id, be it of the table or of one of the model's GGUF files.

    Raises:
        BadInput: there is no such precision.
    """
    found = file_precisions(inventory).get(precision_id) if isinstance(precision_id, str) else None
    return found or find_precision(precision_id)


def file_terms(file: GgufFile, on_gpu: bool) -> list[Term]:
    """The bytes of a file term by term, by part of the model and type; without the input on a GPU."""
    if not file.types:
        return [counted("tensors, by the size of the file", file.on_gpu if on_gpu else file.weights)]
    return [_term(kind) for kind in file.types if not (on_gpu and kind.part == "input")]


def _term(kind: TypeSum) -> Term:
    block, size = _BLOCKS[kind.type].block, _BLOCKS[kind.type].size
    packed = {"block": block} if block > 1 else {}
    return Term(
        f"{_PARTS[kind.part]} in {kind.type}, {kind.tensors:,} tensors",
        PACKED if packed else PLAIN,
        {"elements": kind.elements, "size": size, **packed},
        "the file's own header; block sizes from ggml-common.h",
    )


def asked_file(files: Sequence[GgufFile], file: str | None, quant: str | None) -> GgufFile | None:
    """The file that a reference names, by its path or by its quantization; `None` where it names neither.

    Args:
        file: path in the repository, of any part; its name alone will do.
        quant: such as `Q4_K_M`, as in `org/name:Q4_K_M`.

    Raises:
        ModelNotFound: there is no such file; those that are there.
    """
    if not file and not quant:
        return None
    for matches in _matchers(file, quant):
        if found := [each for each in files if matches(each)]:
            return found[0]
    labels = ", ".join(dict.fromkeys(each.label or shorten(each.path) for each in files)) or "none"
    wanted = shorten(file or quant or "", 160)
    raise ModelNotFound(
        f"There is no GGUF file “{wanted}” of a model here.", f"There are files in {shorten(labels, 400)}."
    )


def _matchers(file: str | None, quant: str | None) -> Iterator[Callable[[GgufFile], bool]]:
    if file:
        name = file.rpartition("/")[2].lower()
        yield lambda each: file in each.paths
        yield lambda each: any(path.rpartition("/")[2].lower() == name for path in each.paths)
        return
    tag = (quant or "").lower()
    yield lambda each: each.label.lower() == tag
    yield lambda each: each.label.lower().removeprefix("ud-") == tag
    yield lambda each: tag in each.path.lower()


def _about(file: GgufFile, inventory: Inventory) -> str:
    bits = 8 * file.weights / max(inventory.parameters, 1)
    return f"{shorten(file.path, 160)}: {gb(file.size)} on disk, about {bits:.2f} bits a weight."
