"""Inventories on demand: built once per model and commit, in a process of their own where an app is serving.

Building a class sets process-wide defaults of torch for a moment and runs on somebody else's config, so
a server does it in a worker process with a time limit. A script may do it in its own process.
"""

from __future__ import annotations

import threading
from concurrent.futures import TimeoutError as BuildTimeout
from multiprocessing import get_context
from typing import Any

from cachetools import LRUCache, TTLCache, cached
from pebble import ProcessExpired, ProcessPool

from ..errors import ModelUnsupported
from ..hub.catalogue import find_bundled
from ..hub.client import RepoFacts, fetch_config, repo_facts
from ..hub.demo import DEMO_ID, demo_config
from ..hub.reference import ModelRef
from ..quiet import quiet_libraries
from ..settings import settings
from ..units import GIB
from .inventory import Inventory

BUILD_SECONDS = 30  # the slowest published model takes 7 on two busy cores
WORKERS = 2  # so that one strange config does not keep everybody waiting
WORKER_BYTES = 4 * GIB  # of private memory
HUB_SECONDS = 30  # for which an answer of the Hub is taken as still true
_SOURCE = "the model's own class, built without data from"

_pool: ProcessPool | None = None
_in_process = threading.Lock()


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
    if ref.id == DEMO_ID:
        return demo_inventory()
    entry = find_bundled(ref.id) if ref.revision == "main" else None
    if entry is not None:
        return _inventory(_Request(entry.config, entry.id, "main", None, f"{_SOURCE} the bundled config.json"))
    return _inventory(_ask_hub(ref) if token is None else _fetch(ref, token))


def demo_inventory() -> Inventory:
    """The inventory of the demo model."""
    return _inventory(_Request(demo_config(), DEMO_ID, "main", None, f"{_SOURCE} the demo's config.json"))


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

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Request) and self.key == other.key


# The condition makes those who ask for the same model wait for one build.
@cached(LRUCache(settings().inventory_cache_entries), condition=threading.Condition())
def _inventory(request: _Request) -> Inventory:
    if _pool is None:
        with _in_process:
            return _build(request.config, request.names)
    try:
        return _pool.schedule(_build, args=(request.config, request.names), timeout=BUILD_SECONDS).result()
    except (BuildTimeout, ProcessExpired, MemoryError) as error:
        raise ModelUnsupported(
            f"Building the class of {request.names['model_id']} took more than {BUILD_SECONDS} s or too much memory.",
            "Its config.json asks for something out of the ordinary; check the repository.",
        ) from error


def _build(config: dict[str, Any], names: dict[str, Any]) -> Inventory:
    from .meta import inventory_from_config

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

    from . import meta  # noqa: F401
