"""What a person's actions become: find and fetch a model without the GPU, then hand a job to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import BadInput, QuantSpaceError
from ..estimation.builder import inventory_for
from ..estimation.weights import weight_bytes
from ..hub.client import repo_facts
from ..hub.demo import DEMO_ID, demo_folder
from ..hub.download import download
from ..hub.reference import ModelRef, parse_reference
from ..precision import PRECISIONS
from . import gpu
from .job import Event, Failed, Job, Message, Phase, Sampling


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
    yield from gpu.run(replace(job, messages=tuple(messages), sampling=sampling))


def _prepare(model: str, precision_id: str, revision: str, token: str | None) -> Iterator[Event]:
    if precision_id not in PRECISIONS:
        raise BadInput(f"“{precision_id[:40]}” is not a precision.", f"Use one of {', '.join(PRECISIONS)}.")
    ref = parse_reference(model, revision)
    inventory = inventory_for(ref, token)
    if inventory.prequantized:  # before many GB are fetched in vain
        from .loader import stored_quantized

        raise stored_quantized(ref.id, inventory.prequantized)
    sha, folder = "bundled", demo_folder()
    if ref.id != DEMO_ID:
        sha, folder = yield from _fetch(ref, token)
    expected = weight_bytes(inventory, PRECISIONS[precision_id])
    return Job(ref.id, sha, str(folder), precision_id, expected.footprint, expected.held)


def _fetch(ref: ModelRef, token: str | None) -> Iterator[Event]:
    facts = repo_facts(ref, token)
    for event in download(facts, token):
        if isinstance(event, Path):
            return facts.sha, event
        yield Phase("download", event.done, event.total)
    raise AssertionError("a download ends with its folder")
