"""What the app's processes take while they are asked for trouble."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

STEP = 0.02  # s between looks


def app_process(url: str) -> psutil.Process:
    """The process that `running_app` started at this address."""
    port = int(url.rsplit(":", 1)[1])
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            listens = any(c.laddr.port == port and c.status == "LISTEN" for c in process.net_connections("tcp"))
            if listens:
                return process
    raise LookupError(f"nothing of this test listens on port {port}")


class Watch:
    """The largest resident sizes seen, in bytes: of the server, and of any of its children.

    And how long all of them waited for a processor since `forget`, in seconds: the tests of all others run beside
    these, on machines of two cores.
    """

    def __init__(self, server: psutil.Process) -> None:
        self.server, self.server_bytes, self.worker_bytes = server, 0, 0
        self._before: dict[str, float] = {}
        self._after: dict[str, float] = {}
        self._stop = threading.Event()

    def look(self) -> None:
        with suppress(psutil.Error):
            self.server_bytes = max(self.server_bytes, self.server.memory_info().rss)
            children = self.server.children(recursive=True)
            for child in children:
                with suppress(psutil.Error):
                    self.worker_bytes = max(self.worker_bytes, child.memory_info().rss)
            for process in (psutil.Process(), self.server, *children):  # the Hub runs in this process
                self._after |= waits(process.pid)

    def forget(self) -> None:
        self.look()
        self._before = dict(self._after)

    def starved(self) -> float:
        """Seconds: of each process the thread that waited longest, one process after the other."""
        self.look()
        longest: dict[str, float] = {}
        for thread, waited in list(self._after.items()):
            process = thread.split("/")[0]
            longest[process] = max(longest.get(process, 0.0), waited - self._before.get(thread, 0.0))
        return sum(longest.values())

    def zombies(self) -> list[psutil.Process]:
        found = []
        for child in self.server.children(recursive=True):
            with suppress(psutil.Error):
                if child.status() == psutil.STATUS_ZOMBIE:
                    found.append(child)
        return found

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        def run() -> None:
            while not self._stop.wait(STEP):
                self.look()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()


def waits(pid: int) -> dict[str, float]:
    """Seconds for which each thread was ready to run while others ran, as `pid/tid` (sched-stats.rst of Linux)."""
    found = {}
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError, IndexError):
            found[f"{pid}/{path.parent.name}"] = int(path.read_text().split()[1]) / 1e9
    return found
