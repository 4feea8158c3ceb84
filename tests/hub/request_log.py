"""What was asked of the Hub, for tests to assert on. Tokens stand as they came: this is how leaks are found."""

import time
from dataclasses import dataclass, field

from .messages import Kind, Origin, Request, Target


@dataclass
class LoggedRequest:
    """One request. The times are `time.monotonic()`; `finished` is None while the answer is under way."""

    method: str
    path: str  # without the query
    url: str  # path and query
    headers: dict[str, str]  # names in lower case
    origin: Origin
    target: Target
    status: int | None = None
    sent: int = 0  # bytes of the body
    started: float = field(default_factory=time.monotonic)
    finished: float | None = None

    @classmethod
    def of(cls, request: Request, target: Target) -> "LoggedRequest":
        return cls(request.method, request.path, request.url, dict(request.headers), request.origin, target)


class RequestLog(list[LoggedRequest]):
    """All requests, in the order in which they came."""

    def of(
        self,
        kind: Kind | None = None,
        *,
        repo: str | None = None,
        file: str | None = None,
        method: str | None = None,
    ) -> "RequestLog":
        """Those that ask for this; None means any."""
        return RequestLog(
            r
            for r in self
            if kind in (None, r.target.kind)
            and repo in (None, r.target.repo)
            and file in (None, r.target.file)
            and method in (None, r.method)
        )

    @property
    def downloads(self) -> "RequestLog":
        """Those that sent bytes of a file in a repository."""
        kinds = ("resolve", "resolve-cache", "cdn")
        return RequestLog(r for r in self if r.target.kind in kinds and r.status in (200, 206) and r.method == "GET")

    @property
    def sent(self) -> int:
        """Bytes of all bodies together."""
        return sum(r.sent for r in self)

    @property
    def peak_concurrency(self) -> int:
        """The most requests that were under way at one time."""
        edges = [(r.started, 1) for r in self] + [(r.finished or float("inf"), -1) for r in self]
        now = peak = 0
        for _, step in sorted(edges):
            now += step
            peak = max(peak, now)
        return peak
