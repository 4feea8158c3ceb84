"""Models for what somebody has typed so far: bundled ones at once, and those that the Hub's search finds.

Help while typing, no more: a Hub that doesn't answer in time finds nothing, and nobody is told of an error.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateAnswer
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from cachetools import TTLCache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import BadModelId, QuantSpaceError, shorten
from .catalogue import ALIASES, bundled_models
from .client import sent_token
from .reference import parse_reference
from .refusals import garbled
from .transport import ask_json

SEARCH_SECONDS = 2.0
REMEMBER_SECONDS = 60
MOST_WORDS = 200  # characters
MOST_FOUND = 50


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model as the Hub's search tells of it.

    Attributes:
        downloads: in the last month.
        task: such as `text-generation`.
    """

    id: str
    downloads: int = 0
    task: str | None = None
    gated: bool = False


_found: TTLCache[tuple[str, int], Future[list[FoundModel]]] = TTLCache(maxsize=512, ttl=REMEMBER_SECONDS)
_lock = threading.Lock()


def search_models(text: str, limit: int = 8, token: str | None = None) -> list[FoundModel]:
    """What the Hub finds for `text`, most downloaded first; nothing where it does not answer in time.

    Answers to questions without a token are kept for a minute, and those who ask the same at one time share one.
    """
    words, limit = _words(text), min(limit, MOST_FOUND)
    if not words or limit < 1:
        return []
    try:
        return _ask(words, limit, token) if token else list(_shared(words, limit))
    except (QuantSpaceError, LateAnswer):
        return []


def bundled_matches(text: str, limit: int = 8) -> list[str]:
    """Ids of bundled models for what was typed so far, best first. Touches no network.

    The id itself ▸ ids whose name begins so ▸ ids that begin so ▸ ids in which a word does ▸ ids that hold it
    ▸ ids that hold all of its words; each in the order of the catalogue.
    """
    wanted = _words(text).lower()
    if not wanted:
        return []
    ranked = [
        (rank, at, model) for at, model in enumerate(bundled_models()) if (rank := _rank(model, wanted)) is not None
    ]
    return [model for _, _, model in sorted(ranked)][: max(0, limit)]


def _rank(model_id: str, wanted: str) -> int | None:
    """How well an id fits, 0 best; `None` where it doesn't. A former id fits like the id itself."""
    names = [model_id, *(former for former, now in ALIASES.items() if now == model_id)]
    return min((rank for name in names if (rank := _rank_name(name.lower(), wanted)) is not None), default=None)


def _rank_name(name: str, wanted: str) -> int | None:
    short = name.rpartition("/")[2]
    words = name.replace("/", "-").replace("_", "-").split("-")
    fits = (
        wanted in (name, short),
        short.startswith(wanted),
        name.startswith(wanted),
        any(word.startswith(wanted) for word in words),
        wanted in name,
        all(part in name for part in wanted.replace("/", " ").split()),
    )
    return fits.index(True) if any(fits) else None


def _words(text: str) -> str:
    """What is searched for: of a link or a command that names a model, its id."""
    given = shorten(text, MOST_WORDS) if isinstance(text, str) else ""
    try:
        return parse_reference(given).id
    except BadModelId:
        return given


def _shared(words: str, limit: int) -> list[FoundModel]:
    """The answer that is known, or on its way to somebody else, or that is asked for now."""
    key = (words.lower(), limit)
    with _lock:
        known = _found.get(key)
        if known is None:
            mine = _found[key] = Future()
    if known is not None:
        return known.result(SEARCH_SECONDS)
    try:
        mine.set_result(_ask(words, limit, None))
    except BaseException as error:  # those who wait for this answer are told whatever it is
        with _lock:  # the next one asks anew
            _found.pop(key, None)
        mine.set_exception(error)
        raise
    return mine.result()


def _ask(words: str, limit: int, token: str | None) -> list[FoundModel]:
    fields = [("expand", name) for name in ("downloads", "pipeline_tag", "gated")]
    query = urlencode([("search", words), ("sort", "downloads"), ("limit", limit), *fields])
    told = ask_json(None, f"/api/models?{query}", token=sent_token(token), seconds=SEARCH_SECONDS)
    if not isinstance(told, list):
        raise garbled(None)
    entries = [_read_entry(entry) for entry in told]
    return [model for model in entries if model is not None][:limit]


def _read_entry(entry: Any) -> FoundModel | None:
    try:
        model_id, downloads, task = entry["id"], entry.get("downloads"), entry.get("pipeline_tag")
        validate_repo_id(model_id)
    except (TypeError, KeyError, AttributeError, HFValidationError):  # none of the Hub's
        return None
    return FoundModel(
        model_id,
        downloads if type(downloads) is int and downloads > 0 else 0,
        shorten(task) if isinstance(task, str) else None,
        bool(entry.get("gated")),
    )
