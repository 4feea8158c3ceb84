"""Whether the Hub can be reached from here, so that the page offers what can be had."""

from __future__ import annotations

import time

from huggingface_hub import constants

from ..errors import HubDown, HubUnreachable, QuantSpaceError, RateLimited
from .transport import ask

PROBE_SECONDS = 1.5
REMEMBER_SECONDS = 60

_answer: tuple[float, bool] | None = None  # when it was asked, and what came


def hub_reachable() -> bool:
    """Ask once a minute at most; `False` within a second and a half where there is no network."""
    global _answer
    now = time.monotonic()
    if _answer is None or now - _answer[0] > REMEMBER_SECONDS:
        _answer = (now, _probe())
    return _answer[1]


def _probe() -> bool:
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        ask(None, constants.ENDPOINT, token=False, limit=0, seconds=PROBE_SECONDS, method="HEAD")
    except (HubDown, RateLimited):
        return True  # somebody is there
    except HubUnreachable:
        return False
    except QuantSpaceError:
        return True  # it answered, if with a refusal
    return True
