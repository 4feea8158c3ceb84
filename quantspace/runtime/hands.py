"""Threads that load and compute beside the event loop, kept for the next time.

A new thread begins with a team of OpenMP threads of its own, and what torch computes in it takes up to a sixth longer
than in one that has computed before (`python -m tests.bench.load`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

_idle: list[_Hand] = []
_lock = threading.Lock()


@dataclass(eq=False)
class Work:
    """What a hand does; it is waited for as a thread is."""

    do: Callable[[], None]
    threads: int  # of torch, as where it was asked for: each thread has a number of its own
    _done: threading.Event = field(default_factory=threading.Event)

    def is_alive(self) -> bool:
        """Whether it is still being done."""
        return not self._done.is_set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, for so many seconds at most."""
        self._done.wait(timeout)


def start(do: Callable[..., None], *arguments: Any) -> Work:
    """Do something beside the caller. It tells of its errors itself: here they only end the thread."""
    import torch

    work = Work(lambda: do(*arguments), torch.get_num_threads())
    _free_hand().given.put(work)
    return work


class _Hand(threading.Thread):
    def __init__(self) -> None:
        super().__init__(daemon=True, name="hand")
        self.given: SimpleQueue[Work] = SimpleQueue()

    def run(self) -> None:
        while True:
            self._do(self.given.get())

    def _do(self, work: Work) -> None:  # a frame of its own: while it waits, a hand holds no model
        import torch

        if torch.get_num_threads() != work.threads:
            torch.set_num_threads(work.threads)
        try:
            work.do()
            with _lock:
                _idle.append(self)
        finally:
            work._done.set()


def _free_hand() -> _Hand:
    with _lock:
        while _idle:
            if (hand := _idle.pop()).is_alive():  # after a fork none of the parent's is
                return hand
    hand = _Hand()
    hand.start()
    return hand
