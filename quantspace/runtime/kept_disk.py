"""The folder of copies: room for the next, a draft that gets its name once it is whole, and the bound on all of them.

A draft's name says which process writes it, so that what a process that died has left is known and removed.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from uuid import uuid4

import psutil

from ..errors import DiskFull, KeepFailed, shorten
from ..settings import settings
from ..units import MIB, gb
from .job import LoadOptions
from .kept import MANIFEST, KeptCopy, Manifest, copies, key_of, read, root

BESIDE_WEIGHTS = 64 * MIB  # room for a tokenizer, an index and headers
_DRAFT = ".draft-"


def delete(copy: KeptCopy) -> None:
    """Remove a copy; a model that was loaded from it goes on.

    Raises:
        KeepFailed: the disk refused.
    """
    doomed = copy.folder.with_name(draft_name())  # at once for all who look, however long its files take
    try:
        copy.folder.rename(doomed)
        shutil.rmtree(doomed)
    except FileNotFoundError:  # somebody else was faster
        return
    except OSError as error:
        raise KeepFailed(
            f"The copy was not deleted: {shorten(str(error), 160)}", "See to the folder itself."
        ) from error


def make_room(needed: int) -> None:
    """Make room on the disk for a copy of `needed` bytes; the least recently used copies go where they must.

    Raises:
        DiskFull: there is not enough even so; then nothing was deleted.
    """
    folder = root()
    folder.mkdir(parents=True, exist_ok=True)
    clear_drafts()
    missing = needed + BESIDE_WEIGHTS - shutil.disk_usage(folder).free
    oldest_first = copies()[::-1]
    if missing > sum(copy.bytes for copy in oldest_first):
        free = shutil.disk_usage(folder).free
        raise DiskFull(
            f"The copy takes {gb(needed)}, and the disk has {gb(free)} free.",
            "Free some space, or keep a smaller precision.",
        )
    for copy in oldest_first:
        if missing <= 0:
            return
        delete(copy)
        missing -= copy.bytes


def draft_folder() -> Path:
    """A new empty folder for a copy that is being written."""
    folder = root() / draft_name()
    folder.mkdir(parents=True)
    return folder


def draft_name() -> str:
    """A name that no reader of copies sees; it says which process writes, so that what died is known."""
    return f"{_DRAFT}{os.getpid()}-{int(psutil.Process().create_time())}-{uuid4().hex[:8]}"


def finish(draft: Path, manifest: Manifest) -> KeptCopy:
    """Make a written folder a copy: with its manifest, on the disk for good, under its name; then keep the bound."""
    told = replace(manifest, files={path.name: path.stat().st_size for path in sorted(draft.iterdir())})
    (draft / MANIFEST).write_text(json.dumps(asdict(told), indent=1), encoding="utf-8")
    for path in draft.iterdir():
        _sync(path)
    options = LoadOptions(compute_dtype=told.compute_dtype, double_quant=told.double_quant, skip=told.skip)
    folder = root() / key_of(told.model_id, told.sha, told.precision, options, told.device)
    if folder.exists():  # kept twice at a time, or broken: the new one counts
        folder.rename(folder.with_name(draft_name()))
    draft.rename(folder)
    _sync(folder.parent)
    clear_drafts()
    copy = read(folder)
    assert copy is not None, "what was just written can be read"
    _keep_bound(copy)
    return copy


def clear_drafts() -> None:
    """Remove what processes that have died left half written or half deleted; our own drafts are in use."""
    for folder in root().glob(f"{_DRAFT}*"):
        if not _is_alive(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(draft: str) -> bool:
    try:
        pid, started = map(int, draft.removeprefix(_DRAFT).split("-")[:2])
        return int(psutil.Process(pid).create_time()) == started
    except (ValueError, psutil.Error):
        return False


def _keep_bound(newest: KeptCopy) -> None:
    total = 0
    for copy in (newest, *(copy for copy in copies() if copy.key != newest.key)):
        total += copy.bytes
        if total > settings().kept_bytes and copy.key != newest.key:
            delete(copy)
            total -= copy.bytes


def _sync(path: Path) -> None:
    """Wait until the disk has it: a name must not outlive a power failure that its contents did not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
