"""Threads for work that blocks: a few at a time, a few more waiting, and everybody else is told so at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from .responses import Busy

AT_ONCE = 8  # most of the time of one is spent waiting for the Hub or a worker process
WAITING = 64

Result = TypeVar("Result")


class Workers:
    """A bounded pool of threads, shared by all who call."""

    def __init__(self, at_once: int = AT_ONCE, waiting: int = WAITING) -> None:
        self._limiter = CapacityLimiter(at_once)
        self._most = at_once + waiting
        self._asked = 0  # of one event loop, so it needs no lock

    async def run(self, work: Callable[..., Result], *arguments: object) -> Result:
        """What `work` returns.

        Raises:
            Busy: too many are waiting already.
        """
        if self._asked >= self._most:
            raise Busy("More is being asked at once than this machine answers.", "Ask again in half a minute.")
        self._asked += 1
        try:
            return await to_thread.run_sync(work, *arguments, limiter=self._limiter)
        finally:
            self._asked -= 1
