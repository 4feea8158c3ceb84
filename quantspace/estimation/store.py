"""Inventories on disk, by repository and commit: what was read once is at hand after a restart.

Public repositories only: what a token opened stays in memory. A disk that fails is told to the log, and
costs no more than reading the repository again.
"""

from __future__ import annotations

import logging
import sqlite3
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from diskcache import Cache, JSONDisk, Timeout
from huggingface_hub import constants

from ..settings import settings
from .inventory import Inventory
from .inventory_file import dump, load

log = logging.getLogger(__name__)

_FAILURES = (OSError, sqlite3.Error, Timeout)


def remembered(model_id: str, sha: str) -> Inventory | None:
    """The inventory of a commit, if one is kept that today's app can read."""
    text = _get(_key(model_id, sha))
    if text is None:
        return None
    try:
        return load(text)
    except ValueError as error:
        log.warning("what was kept of %s can't be read: %s", model_id, error)
        return None


def remember(inventory: Inventory, model_id: str, sha: str) -> None:
    """Keep the inventory of a commit.

    Where bytes run out the least recently used go first, where entries do, those kept longest.
    """
    _put(_key(model_id, sha), dump(inventory))


def last_commit(model_id: str, revision: str) -> str | None:
    """The commit that a branch or tag stood for when the Hub was last asked."""
    return _get(f"commit:{model_id}@{revision}")


def remember_commit(model_id: str, revision: str, sha: str) -> None:
    """Keep what a branch or tag stands for, for when the Hub can't be asked."""
    _put(f"commit:{model_id}@{revision}", sha)


def _key(model_id: str, sha: str) -> str:
    return f"inventory:{_readers()}:{model_id}@{sha}"


@lru_cache(maxsize=1)
def _readers() -> str:
    """Changes with the code that reads repositories: what another version read may be what it got wrong."""
    package = Path(__file__).parents[1]
    code = (path for part in ("estimation", "hub") for path in sorted((package / part).rglob("*.py")))
    return sha256(b"".join(path.read_bytes() for path in code)).hexdigest()[:12]


def _get(key: str) -> str | None:
    try:
        found = _cache().get(key)
    except _FAILURES as error:
        log.warning("the cache of inventories can't be read: %s", error)
        return None
    return found if isinstance(found, str) else None


def _put(key: str, text: str) -> None:
    try:
        cache = _cache()
        if cache.get(key) == text:  # also says that it was used
            return
        cache.set(key, text)
        while len(cache) > settings().store_entries:
            oldest = next(iter(cache))
            cache.delete(oldest)
    except (*_FAILURES, StopIteration) as error:
        log.warning("the cache of inventories can't be written: %s", error)


@lru_cache(maxsize=1)
def _cache() -> Cache:
    folder = settings().store_folder or str(Path(constants.HF_HOME) / "quantspace")
    return Cache(  # JSON, not pickles: whoever can write to the folder can't make the app run code
        folder, disk=JSONDisk, size_limit=settings().store_bytes, eviction_policy="least-recently-used", timeout=2
    )
