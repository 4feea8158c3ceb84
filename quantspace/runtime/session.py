"""What a person's actions become: find and fetch a model without the GPU, then hand a job to it."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import BadInput, LoadFailed, QuantSpaceError
from ..estimation.builder import demo_inventory, inventory_of
from ..estimation.gguf.file import PREFIX
from ..estimation.here import this_device
from ..estimation.inventory import Inventory
from ..estimation.loadable import held_here, refusal_to_load
from ..estimation.loading import loading_bytes
from ..estimation.weights import weight_bytes
from ..hub.broken import remove_broken
from ..hub.client import RepoFacts, check_access, repo_facts
from ..hub.demo import DEMO_ID, demo_folder
from ..hub.download import download
from ..hub.reference import ModelRef, parse_reference
from ..precision import Precision, find_loadable
from ..settings import settings
from . import gpu, remote
from .job import Event, Failed, Job, LoadOptions, Message, Phase, Sampling, Stats, Task
from .kept import found as kept_copy
from .measured_speed import measurements
from .options import settle, unquantized_modules
from .placement import held_by_device
from .remote import RemoteModel

DEFAULT_OPTIONS = LoadOptions()


def load_model(
    model: str,
    precision: str,
    revision: str = "main",
    token: str | None = None,
    options: LoadOptions = DEFAULT_OPTIONS,
    context: int = 0,
) -> Iterator[Event | Job]:
    """Resolve, download and load a variant. Yields events, and the `Job` that later chats reuse.

    Errors come as a `Failed` event.
    """
    try:
        yield Phase("resolve")
        job = replace((yield from prepare(model, precision, revision, token, options, context)), context=context)
    except QuantSpaceError as error:
        yield Failed(**error.as_data())
        return
    yield job
    for event in gpu.run(job):
        yield _looked_into(job, event) if isinstance(event, Failed) else event


def _looked_into(job: Job, failed: Failed) -> Failed:
    """A load that failed for files that broke on this disk says so; they are then fetched anew."""
    broken = remove_broken(Path(job.folder)) if failed.code == LoadFailed.code and not job.kept else ()
    if not broken:
        return failed
    return Failed(
        failed.code,
        f"{', '.join(broken)} of {job.model_id} was broken on this disk, and has been removed.",
        "Load it again: it is then fetched anew.",
    )


def perform(job: Job, task: Task) -> Iterator[Event]:
    """Do `task` with the model of `job`, which is loaded again if it has gone; `Done` or `Failed` is last."""
    yield from gpu.run(replace(job, messages=(), task=task))


def chat(job: Job | RemoteModel, messages: Sequence[Message], sampling: Sampling) -> Iterator[Event]:
    """Answer a conversation with the model of `job`, which is loaded again if it has gone."""
    try:
        kept = _within_reach(messages)
        if isinstance(job, RemoteModel):
            yield Phase("generate")
            yield from remote.answer(job, kept, sampling)
            return
    except QuantSpaceError as error:
        yield Failed(**error.as_data())
        return
    for event in gpu.run(replace(job, messages=kept, sampling=sampling)):
        if isinstance(event, Stats):  # the next estimate for this machine knows better
            measurements.record(event.device, job.model_id, job.precision, event)
        yield event


def ask(
    model: str, precision: str, messages: Sequence[Message], sampling: Sampling, revision: str = "main"
) -> Iterator[Event]:
    """Resolve, download, load and answer in one job."""
    try:
        yield Phase("resolve")
        job = yield from prepare(model, precision, revision, None)
    except QuantSpaceError as error:
        yield Failed(**error.as_data())
        return
    yield from chat(job, messages, sampling)


def _within_reach(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The end of a conversation that can be read at all; how much the model reads is decided in its tokens."""
    size, kept = 0, []
    for message in reversed(messages):
        size += len(message.content)
        if size > settings().max_prompt_characters and kept:
            break
        kept.append(message)
    if size > settings().max_prompt_characters and len(kept) == 1:
        limit = settings().max_prompt_characters
        raise BadInput(f"This message has {size:,} characters; at most {limit:,} are read.", "Send a shorter one.")
    return tuple(reversed(kept))


def prepare(
    model: str,
    precision_id: str,
    revision: str = "main",
    token: str | None = None,
    options: LoadOptions = DEFAULT_OPTIONS,
    context: int = 0,
) -> Generator[Phase, None, Job]:
    """Resolve, estimate and download a variant: yields progress, and returns the job that loads it.

    Args:
        context: tokens of a conversation that the estimate counted; 0 for as many as the model was made for.

    Raises:
        QuantSpaceError: with what is in the way.
    """
    ref = parse_reference(model, revision)
    if precision_id.startswith(PREFIX):
        return (yield from _prepare_file(ref, precision_id, token, context))
    precision = find_loadable(precision_id)
    if ref.id == DEMO_ID:
        _refuse(demo_inventory(), precision)
        options = settle(options, demo_inventory(), precision)
        copy = kept_copy(ref.id, "bundled", precision.id, options)
        return _job(ref, "bundled", demo_folder(), demo_inventory(), precision, options, copy)
    facts, inventory = _found(ref, token)
    _refuse(inventory, precision)
    options = settle(options, inventory, precision)
    copy = kept_copy(ref.id, facts.sha, precision.id, options)
    if copy is not None:  # all that a load needs is in it: nothing is downloaded
        return replace(_job(ref, facts.sha, copy, inventory, precision, options, copy), context=context)
    for event in download(facts, token):
        if isinstance(event, Path):
            return replace(_job(ref, facts.sha, event, inventory, precision, options), context=context)
        yield Phase("download", event.done, event.total)
    raise AssertionError("a download ends with its folder")


def _refuse(inventory: Inventory, precision: Precision) -> None:
    """Raise what is in the way of a load, before many GB are fetched in vain."""
    refusal = refusal_to_load(inventory, precision)
    if refusal is not None:
        raise refusal


def _prepare_file(ref: ModelRef, precision_id: str, token: str | None, context: int) -> Generator[Phase, None, Job]:
    from .gguf_job import prepare_file

    facts, inventory = _found(ref, token)
    return (yield from prepare_file(facts, inventory, precision_id, token, context))


def _found(ref: ModelRef, token: str | None) -> tuple[RepoFacts, Inventory]:
    """What the Hub knows of a model now: of this very commit, also where a bundled config is at hand."""
    facts = repo_facts(ref, token)
    if facts.gated or facts.private:
        check_access(facts, token)
    return facts, inventory_of(facts, token)


def _job(
    ref: ModelRef,
    sha: str,
    folder: Path,
    inventory: Inventory,
    precision: Precision,
    options: LoadOptions,
    copy: Path | None = None,
) -> Job:
    measurements.expect(inventory)
    unquantized = unquantized_modules(options)
    row = precision.with_options(options.compute_dtype, options.double_quant, unquantized)
    held = held_here(inventory, row)
    expected = weight_bytes(inventory, held)
    in_flight = 0 if copy else loading_bytes(inventory, held, this_device().kind)
    return Job(
        ref.id,
        sha,
        str(folder),
        precision.id,
        expected.footprint,
        expected.held,
        in_flight,
        options=options,
        kept=str(copy) if copy and precision.quantizes else "",  # one that was cast is read as any other
        expected_devices=held_by_device(inventory, held, options.device_map) if options.device_map else (),
    )
