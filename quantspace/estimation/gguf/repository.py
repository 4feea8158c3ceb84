"""The GGUF files of a repository on the Hub: the inventory of their model, or rows beside another inventory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from ...errors import ModelUnavailable, ModelUnsupported, QuantSpaceError, shorten
from ...hub.client import RepoFacts
from ...hub.fetch import Fetched
from ...hub.gguf_files import GgufPaths, gguf_files, not_a_model
from ...hub.gguf_header import GgufHeader
from ...hub.gguf_reader import TooMuchToRead, read_alike, read_gguf
from ...units import gb
from ..inventory import Inventory
from .file import GgufFile
from .from_header import file_by_size, file_of, inventory_from_gguf, same_model
from .metadata import number
from .rows import asked_file

TRIES = 4  # files that may turn out to be no models before nothing is looked for any more
MAX_READ = 64  # files whose tensors are read; of others the size is taken
NAMED = 3  # files that a note names
_OTHER_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")


@dataclass(frozen=True, slots=True)
class _Found:
    """What the files of a repository hold: the header that was read whole, its model's files, what else to know."""

    header: GgufHeader
    files: tuple[GgufFile, ...]
    notes: tuple[str, ...]


def read_gguf_inventory(
    facts: RepoFacts, token: str | None = None, cost: Fetched | None = None, doubts: list[str] | None = None
) -> Inventory:
    """The inventory of a repository of GGUF files: one header is read whole, of the others the tensors.

    Args:
        cost: what was read is added to it.
        doubts: is given a sentence for each trouble that may be gone when it is asked again, for which rows are
            told by the size of their files: an inventory with any is not to be kept.

    Raises:
        ModelUnsupported: it has no GGUF file of a model, or the one that was asked for is broken.
        ModelNotFound: the reference names a file that is not there.
        ModelUnavailable: it could not be fetched.
    """
    found = _read(facts, token, cost, doubts)
    inventory = inventory_from_gguf(facts, found.header, found.files)
    return replace(inventory, notes=(*inventory.notes, *found.notes))


def with_gguf_files(
    inventory: Inventory,
    facts: RepoFacts,
    token: str | None = None,
    cost: Fetched | None = None,
    doubts: list[str] | None = None,
) -> Inventory:
    """The same inventory with a row for each GGUF file; of a repository that has nothing else, the files' own.

    Args:
        cost: and `doubts` as of `read_gguf_inventory`.

    Raises:
        ModelUnavailable: the files could not be fetched.
        ModelUnsupported: there are GGUF files alone, and none of a model.
    """
    if not any(file.kind == "model" for file in gguf_files(facts)):
        return inventory
    if not any(path.endswith(_OTHER_WEIGHTS) for path in facts.files):
        return read_gguf_inventory(facts, token, cost, doubts)
    try:
        found = _read(facts, token, cost, doubts)
    except ModelUnsupported as error:  # the model itself is known: its files are an extra
        return replace(inventory, notes=(*inventory.notes, f"Of its GGUF files nothing is told: {error.message}"))
    width = number(found.header.get("embedding_length"))
    if inventory.hidden_size and width and width != inventory.hidden_size:
        note = f"{shorten(found.header.path, 160)} holds another model: its values a token are {width:,}."
        return replace(inventory, notes=(*inventory.notes, note))
    return replace(inventory, files=found.files, notes=(*inventory.notes, *found.notes))


def _read(facts: RepoFacts, token: str | None, cost: Fetched | None, doubts: list[str] | None) -> _Found:
    listed = gguf_files(facts)
    models = [file for file in listed if file.kind == "model"]
    header, chosen, passed_over = _first_model(facts, models, token, cost)
    others = [file for file in models if file is not chosen and file not in passed_over]
    read = read_alike(facts, header, others[:MAX_READ], token, cost)
    if doubts is not None:
        doubts += dict.fromkeys(each.message for each in read if isinstance(each, ModelUnavailable))
    rows = [file_of(chosen, header, header.tensors, own=True)]
    foreign, unread, broken = [], [], []
    for paths, found in zip_longest(others, read):
        if found is None or isinstance(found, (ModelUnavailable, TooMuchToRead)):
            rows.append(file_by_size(paths, rows[0]))
            unread.append(paths)
        elif isinstance(found, QuantSpaceError):
            broken.append(found)
        elif same_model(header, found):
            rows.append(file_of(paths, header, found))
        else:
            foreign.append(paths)
    projectors = [file for file in listed if file.kind == "projector"]
    return _Found(header, tuple(rows), tuple(_notes(foreign, unread, broken, projectors)))


def _first_model(
    facts: RepoFacts, models: Sequence[GgufPaths], token: str | None, cost: Fetched | None
) -> tuple[GgufHeader, GgufPaths, list[GgufPaths]]:
    """The header to be read whole: of the file that was asked for, else of the smallest that is a model."""
    asked = _asked(facts, models)
    passed_over: list[GgufPaths] = []
    said: list[str] = []
    for file in [asked] if asked else models[:TRIES]:
        try:
            header = read_gguf(facts, file.path, token, cost)
        except ModelUnsupported as error:  # one broken upload says nothing of the others
            said.append(error.message)
        else:
            what = not_a_model(header)
            if not what:
                return header, file, passed_over
            said.append(f"{shorten(file.path, 160)} is {what}.")
        passed_over.append(file)
    raise ModelUnsupported(
        said[0] if said else f"{facts.ref.id} has no GGUF file of a model.",
        "Pick a repository with the GGUF file of a whole model.",
    )


def _asked(facts: RepoFacts, models: Sequence[GgufPaths]) -> GgufPaths | None:
    file = facts.ref.file if (facts.ref.file or "").lower().endswith(".gguf") else None
    rows = {each.path: GgufFile(each.paths, each.label, each.size, 0, 0) for each in models}
    found = asked_file(tuple(rows.values()), file, facts.ref.quant)
    return next(each for each in models if each.path == found.path) if found else None


def _notes(
    foreign: Sequence[GgufPaths],
    unread: Sequence[GgufPaths],
    broken: Sequence[QuantSpaceError],
    projectors: Sequence[GgufPaths],
) -> Iterator[str]:
    if foreign:
        yield f"Not shown, since they hold another model: {_named(foreign)}. Paste the link of such a file to see it."
    if unread:
        yield f"Taken for the same model, and told by their size, since their headers were not read: {_named(unread)}."
    if broken:
        more = f" {len(broken) - NAMED:,} more can't be read either." if len(broken) > NAMED else ""
        yield f"Not shown, since they can't be read: {' '.join(error.message for error in broken[:NAMED])}{more}"
    if projectors:
        named = " or ".join(f"{shorten(file.path, 160)} ({gb(file.size)})" for file in projectors[:NAMED])
        yield f"Images or sound take one more file beside the model, which is not counted in the rows: {named}."


def _named(files: Sequence[GgufPaths]) -> str:
    return ", ".join(shorten(file.path, 160) for file in files[:NAMED]) + (" and others" if len(files) > NAMED else "")
