"""Load one variant of a model for real, through transformers and bitsandbytes, with progress."""

from __future__ import annotations

import gc
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ..errors import LoadFailed, OutOfMemory, QuantSpaceError, shorten
from ..estimation.architecture import max_context
from ..precision import label_of
from ..quiet import quiet_libraries
from ..units import MIB, gb
from .hands import Work, start
from .job import Job, Key, Phase, Readout
from .memory import Peak, device_name, free_bytes, ran_out
from .prefix import Prefix
from .readers import processor_of, tokenizer_of
from .readout import device_bytes, held_tensors, placement_of
from .unpacked import file_arguments
from .variants import check_format, load_variant

LOADING_ROOM = 512 * MIB  # beside weights and tensors in flight: Python, the tokenizer
REPORT_EVERY = 0.2  # seconds


@dataclass
class LoadedModel:
    """A model in memory, with what speaks to it, the readout of what it holds, and what it has read last.

    Attributes:
        processor: prepares images for it; `None` where it reads text alone.
    """

    key: Key
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    readout: Readout
    processor: Any = None
    prefix: Prefix = field(default_factory=Prefix)

    @property
    def held_bytes(self) -> int:
        """What dropping it gives back: its tensors, and what it has read last."""
        return self.readout.held_bytes + self.prefix.held_bytes


class _Cancelled(Exception):
    """Raised inside the loading thread once nobody waits for the model."""


def load(job: Job, crew: list[Work]) -> Iterator[Phase | LoadedModel]:
    """Load `job`'s variant: yields progress in tensors, and the model last.

    Closing the iterator stops the load at the next tensor.

    Args:
        crew: gets the work of loading; it may outlive the iterator by a moment.

    Raises:
        OutOfMemory: it did not fit.
        LoadFailed: with what transformers said.
    """
    results: queue.Queue[LoadedModel | BaseException] = queue.Queue()
    progress = _Progress()
    crew.append(start(_load_in_thread, job, progress, results))
    try:
        while True:
            yield Phase("load", progress.done, progress.total)
            try:
                result = results.get(timeout=REPORT_EVERY)
            except queue.Empty:
                continue
            if isinstance(result, BaseException):
                raise result
            yield Phase("load", progress.total, progress.total)
            yield result
            return
    finally:
        progress.cancelled.set()


def free_memory() -> None:
    """Give back what a dropped model held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Progress:
    """Tensors loaded so far, counted by the progress bar that transformers makes."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        self.cancelled = threading.Event()

    def hook(self, _factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """For `transformers.utils.logging.set_tqdm_hook`: an iterator that counts here."""
        iterable = args[0] if args else kwargs.get("iterable", ())
        if kwargs.get("desc") == "Loading weights":
            self.total = len(iterable)
            return self._counted(iterable)
        return transformers_logging.EmptyTqdm(*args, **kwargs)

    def _counted(self, iterable: Any) -> Iterator[Any]:
        for item in iterable:
            if self.cancelled.is_set():
                raise _Cancelled
            yield item
            self.done += 1


def _load_in_thread(job: Job, progress: _Progress, results: queue.Queue[LoadedModel | BaseException]) -> None:
    previous = transformers_logging.set_tqdm_hook(progress.hook)
    try:
        results.put(_load(job, progress))
    except BaseException as error:  # a thread's seam: whatever it is, the waiting side raises it
        results.put(_as_ours(error, job))
    finally:
        transformers_logging.set_tqdm_hook(previous)


def _load(job: Job, progress: _Progress) -> LoadedModel:
    quiet_libraries()
    started = time.monotonic()
    check_format(job)
    model, tokenizer, peak = _model_and_tokenizer(job, progress)
    processor = processor_of(job.folder, model)
    seconds = time.monotonic() - started
    tensors = held_tensors(model)
    readout = Readout(
        model_id=job.model_id,
        sha=job.sha,
        precision=job.precision,
        architecture=type(model).__name__,
        device=device_name(),
        footprint_bytes=model.get_memory_footprint(),
        held_bytes=sum(tensor.held_bytes for tensor in tensors),
        tensors=tensors,
        seconds=seconds,
        chat_template=bool(tokenizer.chat_template),
        max_context=max_context(model.config),
        images=processor is not None,
        devices=device_bytes(model),
        placement=placement_of(model),
        options=job.options,
        peak_bytes=peak,
        expected_peak_bytes=job.expected_bytes + job.loading_bytes,
    )
    return LoadedModel(job.key, model, tokenizer, readout, processor)


def _model_and_tokenizer(job: Job, progress: _Progress) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, int | None]:
    """Both, read at once, and the peak of the model's memory; a tokenizer that fails ends the load of the model."""
    with ThreadPoolExecutor(1, "tokenizer") as beside:
        reading = beside.submit(tokenizer_of, job.folder, job.model_id, **file_arguments(job))
        reading.add_done_callback(lambda done: progress.cancelled.set() if done.exception() else None)
        try:
            with Peak() as peak:
                model = load_variant(job)
        except _Cancelled:
            reading.result()  # in vain is a model nobody can speak to
            raise
        return model, reading.result(), peak.bytes


def refuse_if_too_large(job: Job, reclaimable: int = 0) -> None:
    """Refuse a load that can't succeed, before anything is given up for it.

    Args:
        reclaimable: bytes of a model that will be dropped first.

    Raises:
        OutOfMemory: with what is needed and what there is.
    """
    free = free_bytes() + reclaimable
    expected = _expected_here(job)
    if expected + job.loading_bytes + LOADING_ROOM > free:
        raise OutOfMemory(
            f"{job.model_id} at {label_of(job.precision)} holds {gb(expected)}, and takes up to "
            f"{gb(expected + job.loading_bytes)} while it is loaded; {device_name()} can give {gb(free)}.",
            "Choose a smaller precision or model, or run the app on a larger machine.",
        )


def _expected_here(job: Job) -> int:
    """What the device that `free_bytes` asks about will hold: the first card, or system memory."""
    if not job.expected_devices:
        return job.expected_bytes
    return dict(job.expected_devices).get("cuda:0" if torch.cuda.is_available() else "cpu", 0)


def _as_ours(error: BaseException, job: Job) -> BaseException:
    if isinstance(error, (QuantSpaceError, _Cancelled)):
        return error
    if ran_out(error):
        return OutOfMemory(
            f"Memory ran out while {job.model_id} was loaded at {label_of(job.precision)}.",
            "Choose a smaller precision or model; what was loaded has been given back.",
        )
    return LoadFailed(
        f"transformers {transformers.__version__} could not load {job.model_id} at {label_of(job.precision)}: "
        f"{type(error).__name__}: {shorten(str(error), 200)}",
        "The files may be incomplete or broken; try again, or try another precision or model.",
    )
