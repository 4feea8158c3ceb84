"""What a person's actions become: find and fetch a model without the GPU, then hand a job to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import BadInput, QuantSpaceError
from ..estimation.builder import demo_inventory, inventory_of
from ..estimation.inventory import Inventory
from ..estimation.loadable import refusal_to_load
from ..estimation.weights import weight_bytes
from ..hub.client import check_access, repo_facts
from ..hub.demo import DEMO_ID, demo_folder
from ..hub.download import download
from ..hub.reference import ModelRef, parse_reference
from ..precision import DTYPE_BYTES, Precision, find_loadable
from ..settings import settings
from . import gpu
from .job import Event, Failed, Job, Message, Phase, Sampling, Stats
from .measured_speed import measurements


def load_model(model: str, precision: str, revision: str = "main", token: str | None = None) -> Iterator[Event | Job]:
    """Resolve, download and load a variant. Yields events, and the `Job` that later chats reuse.

    Errors come as a `Failed` event.
    """
    try:
        yield Phase("resolve")
        job = yield from _prepare(model, precision, revision, token)
    except QuantSpaceError as error:
        yield Failed(**error.as_data())
        return
    yield job
    yield from gpu.run(job)


def chat(job: Job, messages: Sequence[Message], sampling: Sampling) -> Iterator[Event]:
    """Answer a conversation with the model of `job`, which is loaded again if it has gone."""
    try:
        kept = _within_reach(messages)
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
        job = yield from _prepare(model, precision, revision, None)
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


def _prepare(model: str, precision_id: str, revision: str, token: str | None) -> Iterator[Event]:
    precision = find_loadable(precision_id)
    ref = parse_reference(model, revision)
    if ref.id == DEMO_ID:
        return _job(ref, "bundled", demo_folder(), demo_inventory(), precision)
    facts = repo_facts(ref, token)
    if facts.gated or facts.private:
        check_access(facts, token)
    inventory = inventory_of(facts, token)  # of this very commit, also where a bundled config is at hand
    refusal = refusal_to_load(inventory)
    if refusal is not None:  # before many GB are fetched in vain
        raise refusal
    for event in download(facts, token):
        if isinstance(event, Path):
            return _job(ref, facts.sha, event, inventory, precision)
        yield Phase("download", event.done, event.total)
    raise AssertionError("a download ends with its folder")


def _job(ref: ModelRef, sha: str, folder: Path, inventory: Inventory, precision: Precision) -> Job:
    measurements.expect(inventory)
    expected = weight_bytes(inventory, precision)
    largest = max(tensor.elements for tensor in inventory.tensors)
    in_flight = 2 * largest * DTYPE_BYTES[precision.dtype]  # as it is read, and as it will be kept
    return Job(ref.id, sha, str(folder), precision.id, expected.footprint, expected.held, in_flight)
