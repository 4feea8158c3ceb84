"""Inventories on demand: built once per model and commit, in a process of their own where an app is serving.

Those of bundled models come with the app, for the transformers they were read with (`bundled.py`).

Building a class sets process-wide defaults of torch for a moment and runs on somebody else's config, so
a server does it in a worker process with a time limit. A script may do it in its own process.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import TimeoutError as BuildTimeout
from multiprocessing import get_context
from typing import Any

from cachetools import LRUCache, TTLCache, cached
from pebble import ProcessExpired, ProcessPool

from ..errors import ModelUnsupported, shorten
from ..hub.catalogue import find_bundled
from ..hub.client import RepoFacts, repo_facts
from ..hub.demo import DEMO_ID, demo_config
from ..hub.json_files import fetch_config
from ..hub.reference import ModelRef
from ..quiet import quiet_libraries
from ..settings import settings
from ..units import GIB
from .bundled import SOURCE as BUNDLED_SOURCE
from .bundled import bundled_inventory
from .inventory import Inventory
from .training.peak import TrainingPeak
from .training.workload import FinetuneWorkload

log = logging.getLogger(__name__)

TRAINING_SECONDS = 60  # to watch a training step, which takes 2 to 5 for 8 billion parameters when nothing else runs
BUILD_SECONDS = 30  # the slowest published model takes 7 on two busy cores
WORKERS = 2  # so that one strange config does not keep everybody waiting
WORKER_BYTES = 4 * GIB  # of private memory
HUB_SECONDS = 30  # for which an answer of the Hub is taken as still true
_SOURCE = "the model's own class, built without data from"

_pool: ProcessPool | None = None
_in_process = threading.Lock()
_one_training = threading.Lock()


def isolate() -> None:
    """From now on, build in a worker process, and start warming it up."""
    global _pool
    if _pool is None:
        _pool = ProcessPool(max_workers=WORKERS, initializer=_limit_memory, context=get_context("spawn"))
        for _ in range(WORKERS):
            _pool.schedule(_warm_up)


def inventory_for(ref: ModelRef, token: str | None = None) -> Inventory:
    """The inventory of a model: the demo and bundled configs at once, others through the Hub.

    Raises:
        ModelUnavailable, ModelUnsupported: with the next step.
    """
    request = _request_for(ref, token)
    stored = bundled_inventory(ref.id) if request.bundled else None
    return stored or _inventory(request)


def demo_inventory() -> Inventory:
    """The inventory of the demo model."""
    return _inventory(_demo_request())


def training_peak(ref: ModelRef, workload: FinetuneWorkload, token: str | None = None) -> TrainingPeak | None:
    """What a training step of a model holds at its peak, watched on `meta`: some seconds the first time.

    Returns:
        `None` where the class could not be watched in time; the arithmetic then assumes what it can't read.

    Raises:
        ModelUnavailable, ModelUnsupported: with the next step.
    """
    return _training_peak(_request_for(ref, token), inventory_for(ref, token), workload)


def _request_for(ref: ModelRef, token: str | None) -> _Request:
    if ref.id == DEMO_ID:
        return _demo_request()
    entry = find_bundled(ref.id) if ref.revision == "main" else None
    if entry is not None:
        return _Request(entry.config, entry.id, "main", None, BUNDLED_SOURCE)
    return _ask_hub(ref) if token is None else _fetch(ref, token)


def _demo_request() -> _Request:
    return _Request(demo_config(), DEMO_ID, "main", None, f"{_SOURCE} the demo's config.json")


def inventory_of(facts: RepoFacts, token: str | None = None) -> Inventory:
    """The inventory of a repository at the very commit of `facts`: what a load from it will hold."""
    return _inventory(_request(facts, fetch_config(facts, token)))


@cached(TTLCache(maxsize=256, ttl=HUB_SECONDS), lock=threading.Lock())
def _ask_hub(ref: ModelRef) -> _Request:
    """What anybody may see of a model; a form that changes asks for it many times a minute."""
    return _fetch(ref, None)


def _fetch(ref: ModelRef, token: str | None) -> _Request:
    facts = repo_facts(ref, token)
    return _request(facts, fetch_config(facts, token))


def _request(facts: RepoFacts, config: dict[str, Any]) -> _Request:
    return _Request(config, facts.ref.id, facts.ref.revision, facts.sha, f"{_SOURCE} config.json on the Hub")


class _Request:
    """What a build needs; equal by model and commit, so that one cache entry serves all who ask."""

    def __init__(self, config: dict[str, Any], model_id: str, revision: str, sha: str | None, source: str) -> None:
        self.config = config
        self.names = {"model_id": model_id, "revision": revision, "sha": sha, "source": source}
        self.key = tuple(self.names.values())

    @property
    def bundled(self) -> bool:
        return self.names["source"] == BUNDLED_SOURCE

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Request) and self.key == other.key


# The condition makes those who ask for the same model wait for one build.
@cached(LRUCache(settings().inventory_cache_entries), condition=threading.Condition())
def _inventory(request: _Request) -> Inventory:
    try:
        return _apart(BUILD_SECONDS, _build, request.config, request.names)
    except (BuildTimeout, ProcessExpired, MemoryError) as error:
        raise ModelUnsupported(
            f"Building the class of {request.names['model_id']} took more than {BUILD_SECONDS} s or too much memory.",
            "Its config.json asks for something out of the ordinary; check the repository.",
        ) from error


def _watched(request: _Request, inventory: Inventory, workload: FinetuneWorkload) -> Hashable:
    """What a training step depends on: not on batch, sequence or optimizer."""
    return (request, workload.method, workload.precision, workload.rank, workload.targets, workload.checkpointing)


@cached(LRUCache(settings().inventory_cache_entries), key=_watched, condition=threading.Condition())
def _training_peak(request: _Request, inventory: Inventory, workload: FinetuneWorkload) -> TrainingPeak | None:
    try:
        with _one_training:  # the other worker is left to those who wait for an estimate
            return _apart(TRAINING_SECONDS, _watch_training, request.config, inventory, workload)
    except (BuildTimeout, ProcessExpired, MemoryError):
        log.info("a training step of %s could not be watched in %d s", inventory.model_id, TRAINING_SECONDS)
        return None


def _apart(seconds: float, work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns, from a worker process with a time limit where there is a pool of them."""
    if _pool is None:
        with _in_process:
            return work(*arguments)
    return _pool.schedule(work, args=arguments, timeout=seconds).result()


def _watch_training(config: dict[str, Any], inventory: Inventory, workload: FinetuneWorkload) -> TrainingPeak | None:
    from .architecture import model_class, parse_config
    from .training.watch import watch_finetune

    parsed = parse_config(config)
    try:
        return watch_finetune(parsed, model_class(parsed), inventory, workload)
    except Exception as error:  # a seam: classes raise anything where there is no data
        log.info("a training step of %s can't be watched: %s", inventory.model_id, shorten(str(error)))
        return None


def _build(config: dict[str, Any], names: dict[str, Any]) -> Inventory:
    from .meta.reader import inventory_from_config

    return inventory_from_config(config, **names)


def _limit_memory() -> None:
    """Keep a class that asks for too much from taking the machine with it (where the system can limit it)."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (WORKER_BYTES, WORKER_BYTES))
    except (ImportError, ValueError, OSError):  # not Linux, or a lower limit is set already
        pass


def _warm_up() -> None:
    """Import what a build needs, so that the first person to ask does not wait for it."""
    quiet_libraries()
    import bitsandbytes  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    from .meta import reader  # noqa: F401

    gc.collect()
    gc.freeze()  # what is imported stays: to look at all of it again slows a build by half
