"""Quantized copies on disk: which there are, which one a load may use, and who may see them.

A copy is a folder that `save_pretrained` filled, with the tokenizer's files and a manifest; it gets its name when it
is whole. Not here: of what a copy may be kept (`kept_rules.py`), room on the disk (`kept_disk.py`), writing one
(`kept_task.py`), loading it (`variants.py`), or sending it to the Hub (`hub/upload.py`).
"""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from ..errors import BadInput, ModelUnavailable
from ..hub.client import check_access, repo_facts
from ..hub.demo import DEMO_ID, demo_folder
from ..hub.download import WHOLE
from ..hub.reference import ModelRef
from ..precision import PRECISIONS
from ..settings import settings
from .job import Job, LoadOptions
from .kept_rules import device, refusal_to_keep
from .quality.figures import Interval, Quality

log = logging.getLogger(__name__)

MANIFEST = "quantspace.json"
QUALITY = "quality.json"  # what was measured of it, once it was
_KEY = re.compile(r"[\w.-]{1,160}", re.ASCII)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a copy is, as its `quantspace.json` says.

    Attributes:
        sha: the commit that it was made from; of the bundled model, a hash of its weights.
        device: `cpu` or `cuda`: where it was packed, for some formats differ.
        footprint_bytes: as `get_memory_footprint()` printed it of the model that was written.
        public: whether anybody could read the original when the copy was made.
        files: path → bytes of all files but this one.
        versions: of the packages that wrote it.
    """

    model_id: str
    sha: str
    precision: str
    compute_dtype: str
    double_quant: bool | None
    skip: tuple[str, ...]
    device: str
    architecture: str
    footprint_bytes: int
    held_bytes: int
    public: bool
    files: dict[str, int]
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class KeptCopy:
    """A copy on this disk.

    Attributes:
        used: when it was last loaded or made, in seconds since 1970.
    """

    folder: Path
    manifest: Manifest
    used: float

    @property
    def key(self) -> str:
        """Its name among the copies; it stands in addresses."""
        return self.folder.name

    @property
    def bytes(self) -> int:
        return sum(self.manifest.files.values())

    @property
    def label(self) -> str:
        """Its precision as people know it, with what differs from that row's own."""
        row = PRECISIONS.get(self.manifest.precision)
        words = [row.label if row else self.manifest.precision]
        if self.manifest.compute_dtype:
            words.append(f"computes in {self.manifest.compute_dtype}")
        if self.manifest.double_quant is not None and row and self.manifest.double_quant != row.double_quant:
            words.append("double quant" if self.manifest.double_quant else "no double quant")
        if self.manifest.skip:
            words.append(f"without {', '.join(self.manifest.skip)}")
        return ", ".join(words)


def root() -> Path:
    """The folder of all copies."""
    return Path(settings().kept_folder or Path(constants.HF_HOME) / "quantspace-kept")


def key_of(model_id: str, sha: str, precision: str, options: LoadOptions, device: str) -> str:
    """The name of a copy's folder: readable, and different for all that makes the weights different.

    Attention, the KV cache's dtype and the context make no difference to them.
    """
    packed = device if PRECISIONS[precision].method == "torchao" else ""
    made_so = (model_id, sha, precision, options.compute_dtype, options.double_quant, options.skip, packed)
    name = _UNSAFE.sub("-", model_id.rpartition("/")[2])[:80].strip("-.") or "model"
    return f"{name}-{precision}-{sha256(json.dumps(made_so).encode()).hexdigest()[:12]}"


def commit_of(model_id: str, sha: str) -> str:
    """The commit; of the bundled model, which has none, a hash of its weights."""
    if model_id != DEMO_ID:
        return sha
    return sha256((demo_folder() / WHOLE).read_bytes()).hexdigest()[:40]


def found(model_id: str, sha: str, precision: str, options: LoadOptions) -> Path | None:
    """The folder of the copy that a load of this variant may use. It then counts as used.

    Whoever asks has to have proved that this visitor may read the original.
    """
    copy = copy_of(Job(model_id, sha, "", precision, 0, 0, options=options))
    if copy is None:
        return None
    try:
        os.utime(copy.folder / MANIFEST)
    except OSError as error:  # it went away, or the disk can only be read
        log.warning("a kept copy could not be marked as used: %s", error)
    return copy.folder


def copies() -> tuple[KeptCopy, ...]:
    """All whole copies, the most recently used first."""
    try:
        folders = [entry for entry in root().iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:  # no copy was ever kept
        return ()
    every = (read(folder) for folder in folders)
    return tuple(sorted((copy for copy in every if copy is not None), key=lambda copy: -copy.used))


def visible_to(token: str | None) -> tuple[KeptCopy, ...]:
    """The copies whose originals the visitor behind `token` may read; the Hub is asked about those not public."""
    return tuple(copy for copy in copies() if copy.manifest.public or _mayread(copy.manifest, token))


def _mayread(manifest: Manifest, token: str | None) -> bool:
    try:
        facts = repo_facts(ModelRef(manifest.model_id, manifest.sha), token)
        check_access(facts, token)
    except ModelUnavailable:
        return False
    return True


def named(key: str) -> KeptCopy:
    """The copy of that name.

    Raises:
        BadInput: there is none.
    """
    copy = read(root() / key) if _KEY.fullmatch(key) and not key.startswith(".") else None
    if copy is None:
        raise BadInput("This copy is not here any more.", "Look at the list again; it may have been deleted.")
    return copy


def copy_of(job: Job) -> KeptCopy | None:
    """The copy of a job's variant, if there is one now."""
    if refusal_to_keep(job.precision, job.options) is not None:
        return None
    sha = commit_of(job.model_id, job.sha)
    return read(root() / key_of(job.model_id, sha, job.precision, job.options, device()))


def remember_quality(job: Job, quality: Quality) -> None:
    """Lay what was measured of a variant beside its copy, for its card; nothing happens where there is none."""
    copy = copy_of(job)
    if copy is None:
        return
    try:
        (copy.folder / QUALITY).write_text(json.dumps(quality.as_data()), encoding="utf-8")
    except OSError as error:
        log.warning("what was measured of a kept copy could not be kept: %s", error)


def quality_of(copy: KeptCopy) -> Quality | None:
    """What was measured of a copy."""
    try:
        told = json.loads((copy.folder / QUALITY).read_text(encoding="utf-8"))
        return Quality(
            **{name: Interval(**value) if isinstance(value, dict) else value for name, value in told.items()}
        )
    except (OSError, ValueError, TypeError):  # not measured, or by another version
        return None


def read(folder: Path) -> KeptCopy | None:
    """The copy in a folder; `None` where there is none, or not all of it."""
    try:
        told: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        manifest = Manifest(**told | {"skip": tuple(told["skip"])})
        whole = all((folder / name).stat().st_size == size for name, size in manifest.files.items())
        used = (folder / MANIFEST).stat().st_mtime
    except (OSError, ValueError, TypeError, KeyError) as error:
        if not isinstance(error, FileNotFoundError):
            log.warning("a kept copy can't be read: %s", error)
        return None
    return KeptCopy(folder, manifest, used) if whole else None
