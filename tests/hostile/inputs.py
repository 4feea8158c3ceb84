"""The table of hostile and broken inputs, each as it reaches the app.

What comes of each is a class of error (or of those below it), or an honest estimate, or either.
"""

from __future__ import annotations

from .configs import CONFIGS, JSON_FILES
from .network import ANSWERS, STATUSES, TRANSPORT, TYPED
from .repositories import ADAPTERS, GGUFS, HEADERS, INDEXES, PIPELINES, RANGES, REPOSITORIES
from .rows import Hostile

TABLE: list[Hostile] = [
    *TYPED, *STATUSES, *TRANSPORT, *ANSWERS, *JSON_FILES, *CONFIGS, *HEADERS, *INDEXES, *GGUFS, *RANGES, *ADAPTERS,
    *PIPELINES, *REPOSITORIES,
]  # fmt: skip
