"""Faults on demand: what goes wrong, for which requests, and how often."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from .messages import Kind, Target


@dataclass(frozen=True)
class Fault:
    """What goes wrong with an answer. Faults of the body wait for an answer that carries the file or the JSON."""

    status: int | None = None  # answer this status instead
    retry_after: int | None = None  # s, said as the Hub says it (RateLimit) and as `Retry-After`
    headers: Mapping[str, str] = field(default_factory=dict)  # added to the answer, over its own
    body: bytes | None = None  # instead of the true one
    endless: bool = False  # the body again and again, chunked, until the client leaves
    delay: float = 0.0  # s before the first byte of the answer
    bytes_per_second: float | None = None  # of the body
    truncate_after: int | None = None  # bytes of the body; then the connection closes, Content-Length unchanged
    close: bool = False  # the connection closes without an answer

    @property
    def needs_body(self) -> bool:
        if self.status is not None:
            return False
        return bool(self.body is not None or self.endless or self.bytes_per_second or self.truncate_after is not None)


@dataclass
class FaultRule:
    """A fault, and the requests it meets. What is None meets any."""

    fault: Fault
    repo: str | None = None
    file: str | None = None  # a glob over paths in the repository
    on: Kind | None = None
    method: str | None = None
    times: int | None = None  # None: every time
    hits: int = 0

    def meets(self, target: Target, method: str, status: int) -> bool:
        return (
            (self.times is None or self.hits < self.times)
            and self.repo in (None, target.repo)
            and self.on in (None, target.kind)
            and self.method in (None, method)
            and (self.file is None or (target.file is not None and fnmatchcase(target.file, self.file)))
            and not (self.fault.needs_body and (method == "HEAD" or status not in (200, 206)))
        )


class FaultRules(list[FaultRule]):
    """The rules in force; the first that meets a request is the one it gets."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def take(self, target: Target, method: str, status: int) -> Fault | None:
        with self._lock:
            for rule in self:
                if rule.meets(target, method, status):
                    rule.hits += 1
                    return rule.fault
        return None
