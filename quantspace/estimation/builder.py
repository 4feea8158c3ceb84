"""Inventories on demand: read once per model and commit, kept in memory and on disk.

Those of bundled models come with the app, for the transformers they were read with (`bundled.py`). What a
repository offers is chosen in `sources.py`; classes are built apart (`worker_pool.py`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cachetools import LRUCache, TLRUCache, TTLCache, cached

from ..errors import HubUnreachable, ModelGated, ModelUnsupported, QuantSpaceError, shorten
from ..hub.catalogue import find_bundled
from ..hub.client import RepoFacts, check_access, repo_facts
from ..hub.demo import DEMO_ID, demo_config
from ..hub.json_files import fetch_config
from ..hub.reference import ModelRef
from ..settings import settings
from .adapters import AdapterFacts, is_adapter, refuse_stacked
from .bundled import SOURCE as BUNDLED_SOURCE
from .bundled import bundled_inventory
from .config_limits import check
from .inventory import Inventory
from .sources import inventory_without_files, read_inventory
from .store import last_commit, remember, remember_commit, remembered
from .training.peak import TrainingPeak
from .training.workload import FinetuneWorkload
from .worker_pool import WorkStopped, run_apart

log = logging.getLogger(__name__)

BUILD_SECONDS = 4  # of CPU time; the slowest published model takes 2.5
TRAINING_SECONDS = 60  # to watch a training step, which takes 2 to 5 for 8 billion parameters when nothing else runs
HUB_SECONDS = 30  # for which an answer of the Hub is taken as still true, and a refusal is not tried again
_LEAST_SIZE = 2000  # tensors as which a small inventory counts, so that entries are bounded too
_SOURCE = "the model's own class, built without data from"

_one_training = threading.Lock()
_asking = threading.Condition()
_unreachable: LRUCache[tuple[str, str], tuple[float, tuple[type[HubUnreachable], str, str]]] = LRUCache(256)


def inventory_for(ref: ModelRef, token: str | None = None) -> Inventory:
    """The inventory of a model: the demo and bundled configs at once, others through the Hub.

    Raises:
        ModelUnavailable, ModelUnsupported: with the next step.
    """
    if ref.id == DEMO_ID:
        return demo_inventory()
    if _bundled_config(ref) is not None:
        return _bundled(ref.id)
    try:
        facts = _facts(ref, token)
    except HubUnreachable as unreachable:
        return _as_last_seen(ref, unreachable)
    return inventory_of(facts, token)


def inventory_of(facts: RepoFacts, token: str | None = None) -> Inventory:
    """The inventory of a repository at the very commit of `facts`: what a load from it will hold."""
    refusal = _refusal(facts, token)
    own = token is not None and is_adapter(facts)  # its base may be open to this token alone
    found = (outcome.__wrapped__ if own else outcome)(facts, token, refusal)
    if found.inventory is None:
        assert found.refusal is not None
        kind, message, hint = found.refusal
        raise kind(message, hint)
    return found.inventory


def demo_inventory() -> Inventory:
    """The inventory of the demo model."""
    return built(DEMO_ID, f"{_SOURCE} the demo's config.json")


def training_peak(ref: ModelRef, workload: FinetuneWorkload, token: str | None = None) -> TrainingPeak | None:
    """What a training step of a model holds at its peak, watched on `meta`: some seconds the first time.

    Returns:
        `None` where the class could not be watched in time; the arithmetic then assumes what it can't read.

    Raises:
        ModelUnavailable, ModelUnsupported: with the next step.
    """
    inventory = inventory_for(ref, token)
    if inventory.source_kind != "class" or not inventory.generates:
        return None
    return _training_peak(ref, token, inventory, workload)


def _bundled_config(ref: ModelRef) -> dict[str, Any] | None:
    entry = find_bundled(ref.id) if ref.revision == "main" else None
    return entry.config if entry else None


def _bundled(model_id: str) -> Inventory:
    entry = find_bundled(model_id)
    assert entry is not None
    return bundled_inventory(entry.id) or built(entry.id, BUNDLED_SOURCE)


@cached(LRUCache(settings().inventory_cache_entries), condition=threading.Condition())
def built(model_id: str, source: str) -> Inventory:
    """The inventory of a config that comes with the app."""
    entry = find_bundled(model_id)
    return _build(entry.config if entry else demo_config(), model_id, "main", None, source)


def _facts(ref: ModelRef, token: str | None) -> RepoFacts:
    facts = public_facts(ref.id, ref.revision, time.monotonic()) if token is None else repo_facts(ref, token)
    if not facts.private:
        remember_commit(ref.id, ref.revision, facts.sha)
    return replace(facts, ref=ref)


@cached(TTLCache(256, HUB_SECONDS), key=lambda model_id, revision, asked: (model_id, revision), condition=_asking)
def public_facts(model_id: str, revision: str, asked: float) -> RepoFacts:
    """What anybody may see of a model; a form that changes asks for it many times a minute.

    Those who waited for one who got no answer are told the same, and don't wait for it one after another.

    Args:
        asked: when (`time.monotonic`).
    """
    failed_at, told = _unreachable.get((model_id, revision), (asked, None))
    if told is not None and failed_at > asked:
        kind, message, hint = told
        raise kind(message, hint)
    try:
        return repo_facts(ModelRef(model_id, revision))
    except HubUnreachable as error:
        _unreachable[model_id, revision] = time.monotonic(), (type(error), error.message, error.hint)
        raise


def _as_last_seen(ref: ModelRef, unreachable: HubUnreachable) -> Inventory:
    """A model of the Hub as it was when the Hub could be asked."""
    sha = last_commit(ref.id, ref.revision)
    found = remembered(ref.id, sha) if sha else None
    if found is None:
        raise unreachable
    note = f"The Hub can't be reached: this is commit {found.sha:.8}, as it was last seen from here."
    return replace(found, revision=ref.revision, notes=(note, *found.notes))


def _refusal(facts: RepoFacts, token: str | None) -> ModelGated | None:
    """Why the files are closed to who asks; asked every time, since what is kept was opened by somebody else."""
    if not (facts.gated or facts.private):
        return None
    try:
        check_access(facts, token)
    except ModelGated as refusal:
        return refusal
    return None


def _kept_as(facts: RepoFacts, token: str | None, refusal: ModelGated | None) -> Hashable:
    """One entry serves all who may see as much; the token is no part of it."""
    return facts.ref.id, facts.ref.revision, _commit(facts), refusal and (type(refusal), refusal.message)


def _commit(facts: RepoFacts) -> str:
    """The commit, and the GGUF file that was asked for: which of its models a repository is taken for hangs on it."""
    part = facts.ref.quant or (facts.ref.file if facts.ref.file in facts.files else None)
    in_gguf = part and any(path.endswith(".gguf") for path in facts.files)
    return f"{facts.sha}:{part}" if in_gguf else facts.sha


@dataclass(frozen=True, slots=True)
class _Outcome:
    """An inventory, or why there is none; one that does not last may be another when it is asked for again.

    The refusal is kept as what makes one: an exception that was raised holds the frames it went through, and
    with them the token of who asked.
    """

    inventory: Inventory | None = None
    refusal: tuple[type[ModelUnsupported], str, str] | None = None
    lasts: bool = False

    @property
    def size(self) -> int:
        """About how much memory it takes, in tensors."""
        return _LEAST_SIZE + (len(self.inventory.tensors) if self.inventory else 0)


def _until(key: Hashable, found: _Outcome, now: float) -> float:
    return math.inf if found.lasts else now + HUB_SECONDS


# The condition makes those who ask for the same model wait for one who reads it.
@cached(
    TLRUCache(settings().inventory_cache_tensors, ttu=_until, getsizeof=lambda found: found.size),
    key=_kept_as,
    condition=threading.Condition(),
)
def outcome(facts: RepoFacts, token: str | None, refusal: ModelGated | None) -> _Outcome:
    """What is kept of a commit for who may see as much of it."""
    access = {"private": facts.private, "gated": facts.gated}
    if refusal is not None:
        return _Outcome(replace(inventory_without_files(facts, refusal), **access), lasts=True)
    on_disk = not (facts.private or facts.gated or is_adapter(facts))  # a base has commits of its own
    kept = remembered(facts.ref.id, _commit(facts)) if on_disk else None
    if kept is not None:
        return _Outcome(replace(kept, revision=facts.ref.revision), lasts=True)
    doubts: list[str] = []
    try:
        build, base_of = partial(_build_class, doubts), partial(_base, token)
        found = read_inventory(facts, token, build, base_of, doubts)
    except ModelUnsupported as error:
        return _Outcome(refusal=(type(error), error.message, error.hint))
    lasts = not doubts and not is_adapter(facts)
    if on_disk and lasts:
        remember(found, facts.ref.id, _commit(facts))
    return _Outcome(replace(found, **access), lasts=lasts)


def _base(token: str | None, adapter: AdapterFacts) -> Inventory:
    """The inventory of the model that an adapter is for."""
    if adapter.base.id == DEMO_ID or _bundled_config(adapter.base) is not None:
        return inventory_for(adapter.base)
    facts = _facts(adapter.base, token)
    refuse_stacked(adapter, facts)
    return inventory_of(facts, token)


class _BuildStopped(ModelUnsupported):
    """A class asked for more than a build is given: on a busy machine it may be built the next time."""


def _build_class(doubts: list[str], config: dict[str, Any], facts: RepoFacts) -> Inventory:
    source = f"{_SOURCE} config.json on the Hub"
    try:
        return _build(config, facts.ref.id, facts.ref.revision, facts.sha, source)
    except _BuildStopped as error:
        doubts.append(error.message)
        raise


def _build(config: dict[str, Any], model_id: str, revision: str, sha: str | None, source: str) -> Inventory:
    found = check(config)
    names = {"model_id": model_id, "revision": revision, "sha": sha, "source": source}
    try:
        inventory = run_apart(BUILD_SECONDS, read_class, config, names)
    except WorkStopped as error:
        raise _BuildStopped(
            f"Building the class of {model_id} was stopped: {error}.",
            "Its config.json asks for something out of the ordinary; check the repository.",
        ) from error
    return replace(inventory, notes=(*inventory.notes, *found)) if found else inventory


def read_class(config: dict[str, Any], names: dict[str, Any]) -> Inventory:
    """What is done apart: the inventory of a config's class."""
    from .meta.reader import inventory_from_config

    try:
        return inventory_from_config(config, **names)
    except (QuantSpaceError, MemoryError):
        raise
    except Exception as error:  # a seam: any value of somebody else's file may break what reads it
        raise ModelUnsupported(
            f"The config.json of {names['model_id']} can't be read: {shorten(str(error), 160)}",
            "The file may be broken or written for another version of transformers; try another revision.",
        ) from error


def _watched(ref: ModelRef, token: str | None, inventory: Inventory, workload: FinetuneWorkload) -> Hashable:
    """What a training step depends on: not on batch, sequence or optimizer."""
    model = (inventory.model_id, inventory.revision, inventory.sha)
    return (model, workload.method, workload.precision, workload.rank, workload.targets, workload.checkpointing)


@cached(LRUCache(settings().inventory_cache_entries), key=_watched, condition=threading.Condition())
def _training_peak(
    ref: ModelRef, token: str | None, inventory: Inventory, workload: FinetuneWorkload
) -> TrainingPeak | None:
    try:
        config = _config(ref, token)
        with _one_training:  # the other workers are left to those who wait for an estimate
            return run_apart(TRAINING_SECONDS, _watch_training, config, inventory, workload)
    except (WorkStopped, ModelUnsupported) as error:
        log.info("a training step of %s could not be watched: %s", inventory.model_id, error)
        return None


def _config(ref: ModelRef, token: str | None) -> dict[str, Any]:
    if ref.id == DEMO_ID:
        return demo_config()
    return _bundled_config(ref) or fetch_config(_facts(ref, token), token)


def _watch_training(config: dict[str, Any], inventory: Inventory, workload: FinetuneWorkload) -> TrainingPeak | None:
    from .architecture import model_class, parse_config
    from .training.watch import watch_finetune

    parsed = parse_config(config)
    try:
        return watch_finetune(parsed, model_class(parsed), inventory, workload)
    except Exception as error:  # a seam: classes raise anything where there is no data
        log.info("a training step of %s can't be watched: %s", inventory.model_id, shorten(str(error)))
        return None
