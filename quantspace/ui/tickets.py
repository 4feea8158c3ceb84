"""Which run of a page is the one that counts: what was cancelled, or gave way to the next, says no more.

Gradio's `cancels` is asked for beside the handler of *Cancel*, so that an update under way may come after it and stay.
A run that carries a ticket sees for itself that it is over, and has the last word. Not for one that must end at once:
it ends with its next event.
"""

from __future__ import annotations

import secrets
from threading import Lock
from typing import Literal

from cachetools import LRUCache

Fate = Literal["", "cancelled", "superseded"]  # none: it counts
_fates: LRUCache[str, Fate] = LRUCache(4096)  # of runs that are over, by their tickets
_lock = Lock()


def next_ticket(before: str) -> str:
    """The ticket of a page's new run, which the run `before` it gives way to."""
    with _lock:
        _fates[before] = "superseded"
    return secrets.token_urlsafe(16)


def cancel(ticket: str) -> None:
    """Let the run of a ticket end with its next event."""
    with _lock:
        _fates.setdefault(ticket, "cancelled")


def fate(ticket: str) -> Fate:
    """Whether a run still counts, asked before each of its updates."""
    with _lock:
        return _fates.get(ticket, "")
