"""Fetch the files that a load needs, with progress in bytes. Pickled weights are never fetched."""

from __future__ import annotations

import errno
import queue
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.utils import tqdm as hub_tqdm

from ..errors import DiskFull, LoadFailed, shorten
from ..settings import settings
from ..units import gb
from .client import RepoFacts, sent_token
from .refusals import hub_errors

WHOLE, SHARDS, INDEX = "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"
WEIGHTS = (WHOLE, SHARDS)
BESIDE_WEIGHTS = (
    "config.json", "generation_config.json", INDEX,
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
    "chat_template.json", "chat_template.jinja", "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
REPORT_EVERY = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Progress: bytes that are on disk, of all that are needed."""

    done: int
    total: int


class _Cancelled(Exception):
    """Raised inside the client's threads once nobody waits for the files."""


def needed_files(facts: RepoFacts) -> dict[str, int]:
    """Path → size of the files that a load reads.

    Raises:
        LoadFailed: there are no safetensors weights.
    """
    patterns = (*WEIGHTS, *BESIDE_WEIGHTS)
    files = {path: size for path, size in facts.files.items() if any(fnmatch(path, p) for p in patterns)}
    if WHOLE in files:  # transformers reads it alone, whatever shards lie beside it
        files = {path: size for path, size in files.items() if not fnmatch(path, SHARDS) and path != INDEX}
    if not any(fnmatch(path, pattern) for path in files for pattern in WEIGHTS):
        raise LoadFailed(
            f"{facts.ref.id} holds no safetensors weights in the transformers layout.",
            "Pickled weights can run code and are never loaded here; pick a repository with model.safetensors.",
        )
    return files


def _within_limit(facts: RepoFacts, files: dict[str, int]) -> dict[str, int]:
    total = sum(files.values())
    if total > settings().max_download_bytes:
        raise LoadFailed(
            f"The weights of {facts.ref.id} are {gb(total)}; at most {gb(settings().max_download_bytes)} are fetched.",
            "The estimate holds all the same. Load a smaller model, or set QUANTSPACE_MAX_DOWNLOAD_BYTES at home.",
        )
    return files


def download(
    facts: RepoFacts, token: str | None = None, files: dict[str, int] | None = None
) -> Iterator[Downloaded | Path]:
    """Fetch what a load needs into the Hub's cache: yields progress, and the folder last.

    Closing the iterator stops the transfer; files that have arrived whole are kept for the next try.

    Args:
        files: path → size of those to fetch; `None` for what transformers reads.
    """
    files = _within_limit(facts, needed_files(facts) if files is None else files)
    total = sum(files.values())
    _refuse_if_disk_is_full(facts, files)
    results: queue.Queue[Path | BaseException] = queue.Queue()
    meter = _Meter()
    thread = threading.Thread(target=_fetch, args=(facts, files, token, meter, results), daemon=True)
    thread.start()
    try:
        while True:
            yield Downloaded(min(meter.bytes, total), total)
            try:
                result = results.get(timeout=REPORT_EVERY)
            except queue.Empty:
                continue
            if getattr(result, "errno", None) in DISK_FULL:
                raise DiskFull(
                    f"The disk ran full while {facts.ref.id} was fetched; the file that did not fit has been removed.",
                    "Free some space (`hf cache prune` where you run the app yourself), or load a smaller model.",
                ) from result
            if type(result) is OSError:  # of the files themselves; what the network does has a type of its own
                raise LoadFailed(
                    f"The files of {facts.ref.id} did not arrive whole: {shorten(str(result), 160)}",
                    "Try again; if it stays so, see whether the disk of the Hub's cache is full.",
                ) from result
            if isinstance(result, BaseException):
                with hub_errors(facts.ref):
                    raise result
            yield Downloaded(total, total)
            yield result
            return
    finally:
        meter.cancelled.set()


def _refuse_if_disk_is_full(facts: RepoFacts, files: dict[str, int]) -> None:
    folder = Path(constants.HF_HUB_CACHE)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    missing = sum(size for path, size in files.items() if not _is_cached(facts, path))
    if missing > free:
        raise LoadFailed(
            f"{gb(missing)} of {facts.ref.id} are to be fetched, and the disk has {gb(free)} free.",
            "Load a smaller model, or free some space (`hf cache prune`) where you run the app yourself.",
        )


def _is_cached(facts: RepoFacts, path: str) -> bool:
    return isinstance(try_to_load_from_cache(facts.ref.id, path, revision=facts.sha), str)


class _Meter:
    """Bytes written so far, by all threads of one download."""

    def __init__(self) -> None:
        self.bytes = 0
        self.cancelled = threading.Event()

    def bar_class(self) -> type[hub_tqdm]:
        """A silent progress bar class that reports here; huggingface_hub makes its bars from it."""
        meter = self

        class Bar(hub_tqdm):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                name = kwargs.get("name")
                kwargs["disable"] = True
                super().__init__(*args, **kwargs)
                # Two bars count the same bytes, as received and as written: count those written.
                self.counts_bytes = name == "huggingface_hub.snapshot_download"

            def update(self, n: float | None = 1) -> bool | None:
                if meter.cancelled.is_set():
                    raise _Cancelled
                if self.counts_bytes:
                    meter.bytes += int(n or 0)
                return super().update(n)

        return Bar


def _fetch(
    facts: RepoFacts,
    files: dict[str, int],
    token: str | None,
    meter: _Meter,
    results: queue.Queue[Path | BaseException],
) -> None:
    try:
        folder = snapshot_download(
            facts.ref.id,
            revision=facts.sha,
            allow_patterns=list(files),
            token=sent_token(token),
            etag_timeout=settings().hub_timeout,
            tqdm_class=meter.bar_class(),
        )
        results.put(Path(folder))
    except BaseException as error:  # a thread's seam: whatever it is, the waiting side raises it
        results.put(error)


def seconds_left(done: int, total: int, started: float) -> float | None:
    """Seconds a transfer still takes at its mean speed since `started` (`time.monotonic()`)."""
    elapsed = time.monotonic() - started
    if done <= 0 or elapsed <= 0:
        return None
    return (total - done) * elapsed / done
