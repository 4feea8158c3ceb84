"""Write the loaded model to disk as it is held: quantized, in safetensors, with what a later load needs beside it."""

from __future__ import annotations

import errno
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DiskFull, KeepFailed, QuantSpaceError, shorten
from ..hub.download import BESIDE_WEIGHTS, DISK_FULL, INDEX
from . import kept, kept_disk
from .hands import Work, start
from .job import Done, Event, Job, LoadOptions, Phase
from .kept_rules import check_may_keep, device

if TYPE_CHECKING:
    from .loader import LoadedModel

PHASE = "Writing the quantized copy, in MB"
WRITTEN_PER_SECOND = 300_000_000  # bytes; a cautious disk
SHARD = "2GB"  # of 10⁹ bytes: a cancel is seen between two of them
REPORT_EVERY = 0.2  # seconds
_WRITTEN_ANEW = ("config.json", INDEX)  # by `save_pretrained`, for the copy
_PACKAGES = ("quantspace", "torch", "transformers", "bitsandbytes", "torchao")


class _Cancelled(Exception):
    """Raised inside the writing thread once nobody waits for the copy."""


@dataclass(frozen=True, slots=True)
class KeepTask:
    """Keep the loaded model on disk. `Done` brings the `KeptCopy`.

    Attributes:
        folder: of the original's files, whose tokenizer goes along.
        held_bytes: what will be written, about.
        public: as `check_may_keep` found.
    """

    folder: str
    held_bytes: int
    public: bool
    options: LoadOptions = field(default_factory=LoadOptions)  # of the load

    @classmethod
    def of(cls, job: Job) -> KeepTask:
        """The task for the model of a job; asks the Hub whether it is public.

        Raises:
            KeepFailed: no copy of it may be kept, with the reason.
        """
        return cls(job.kept or job.folder, job.expected_bytes, check_may_keep(job), job.options)

    def seconds(self) -> float:
        return 5 + self.held_bytes / WRITTEN_PER_SECOND

    def unfit(self, loaded: LoadedModel) -> bool:
        """Whether the model is no longer as it was quantized, so that it has to be loaded again first.

        On processors with AVX512-BF16 the first answer packs 4-bit weights anew and rounds their scales to bfloat16,
        which nothing undoes (`_convert_weight_packed_for_cpu`, bitsandbytes/functional.py).
        """
        states = (getattr(parameter, "quant_state", None) for parameter in loaded.model.parameters())
        return any(getattr(state, "packing_format_for_cpu", False) for state in states)

    def run(self, loaded: LoadedModel, crew: list[Work]) -> Iterator[Event]:
        """Write, with progress in bytes. Closing the iterator stops it at the next shard; nothing half stays.

        Raises:
            KeepFailed: it can't be written, or the disk is full.
        """
        results: queue.Queue[kept.KeptCopy | BaseException] = queue.Queue()
        cancelled = threading.Event()
        kept_disk.make_room(self.held_bytes)
        draft = kept_disk.draft_folder()
        crew.append(start(_write, self, loaded, draft, cancelled, results))
        total = max(1, round(self.held_bytes / 10**6))
        try:
            while True:
                yield Phase(PHASE, min(_written(draft) // 10**6, total), total)
                try:
                    result = results.get(timeout=REPORT_EVERY)
                except queue.Empty:
                    continue
                if isinstance(result, BaseException):
                    raise result
                yield Phase(PHASE, total, total)
                yield Done(result)
                return
        finally:
            cancelled.set()


def _written(draft: Path) -> int:
    try:
        return sum(path.stat().st_size for path in draft.iterdir())
    except OSError:  # it has just got its name, or was given up
        return 0


def _write(
    task: KeepTask,
    loaded: LoadedModel,
    draft: Path,
    cancelled: threading.Event,
    results: queue.Queue[kept.KeptCopy | BaseException],
) -> None:
    try:
        results.put(_written_copy(task, loaded, draft, cancelled))
    except BaseException as error:  # a thread's seam: whatever it is, the waiting side raises it
        results.put(_as_ours(error, loaded))
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # of a whole copy nothing is left under this name


def _written_copy(task: KeepTask, loaded: LoadedModel, draft: Path, cancelled: threading.Event) -> kept.KeptCopy:
    model, readout = loaded.model, loaded.readout
    with _stoppable(cancelled), _plain(model):
        model.save_pretrained(draft, max_shard_size=SHARD)
    (draft / "generation_config.json").unlink(missing_ok=True)  # the original's comes below, if it has one
    if cancelled.is_set():
        raise _Cancelled
    for name in BESIDE_WEIGHTS:
        source = Path(task.folder) / name
        if name not in _WRITTEN_ANEW and source.is_file():
            shutil.copyfile(source, draft / name)
    options = task.options
    manifest = kept.Manifest(
        model_id=readout.model_id,
        sha=kept.commit_of(readout.model_id, readout.sha),
        precision=readout.precision,
        compute_dtype=options.compute_dtype,
        double_quant=options.double_quant,
        skip=options.skip,
        device=device(),
        architecture=readout.architecture,
        footprint_bytes=readout.footprint_bytes,
        held_bytes=readout.held_bytes,
        public=task.public,
        files={},
        versions=_versions(),
    )
    return kept_disk.finish(draft, manifest)


@contextmanager
def _stoppable(cancelled: threading.Event) -> Iterator[None]:
    """Let a cancel end `save_pretrained` between two shards, at the progress bar that it makes."""
    from transformers.utils import logging as transformers_logging

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("desc") != "Writing model shards":
            return transformers_logging.EmptyTqdm(*args, **kwargs)
        return _checked(args[0], cancelled)

    previous = transformers_logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(previous)


def _checked(iterable: Any, cancelled: threading.Event) -> Iterator[Any]:
    for item in iterable:
        if cancelled.is_set():
            raise _Cancelled
        yield item


@contextmanager
def _plain(model: Any) -> Iterator[None]:
    """Hide from `save_pretrained` what it would stumble over.

    It refuses to write some generation configs that are published, which go along as files instead; and it takes
    whatever has a device map with the processor in it for offloaded, and then undoes the fusing of experts shard by
    shard, which fails where they lie in two.
    """
    own, model.generation_config = model.generation_config, type(model.generation_config)()
    placed = vars(model).pop("hf_device_map", None)
    try:
        yield
    finally:
        model.generation_config = own
        if placed is not None:
            model.hf_device_map = placed


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except ModuleNotFoundError:  # run from its sources, or not installed
            continue
    return found


def _as_ours(error: BaseException, loaded: LoadedModel) -> BaseException:
    if isinstance(error, (QuantSpaceError, _Cancelled)):
        return error
    words = shorten(str(error), 160)
    full = getattr(error, "errno", None) in (*DISK_FULL, errno.EFBIG)
    if full or "No space left" in words or "File too large" in words:  # safetensors' own error has no number
        return DiskFull(
            "The disk ran full while the copy was written; what was written of it has been deleted.",
            "Free some space, or keep a smaller precision. The loaded model is not touched.",
        )
    return KeepFailed(
        f"The copy of {loaded.readout.model_id} was not written: {type(error).__name__}: {words}",
        "The loaded model is not touched; try again, or another precision.",
    )
