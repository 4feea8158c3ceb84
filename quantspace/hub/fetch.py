"""Small parts of a repository's files: a whole small file, or a range of a large one. Bounded in bytes and in time."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field

from huggingface_hub import hf_hub_url

from ..errors import ModelNotFound, ModelUnsupported, shorten
from ..settings import settings
from ..units import gb
from .client import RepoFacts, sent_token
from .reference import is_safe_path
from .refusals import broke_off, garbled
from .transport import Answer, ask

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")  # RFC 9110, 14.4


@dataclass
class Fetched:
    """What an answer cost: bytes of bodies that were read, and files or parts that were asked for.

    Threads may share it. The redirect that leads to where a file lies is not counted.
    """

    bytes: int = 0
    requests: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, size: int) -> None:
        with self._lock:
            self.bytes += size
            self.requests += 1


def fetch_file(
    facts: RepoFacts,
    path: str,
    limit: int,
    token: str | None = None,
    cost: Fetched | None = None,
    seconds: float | None = None,
) -> bytes:
    """The whole of a small file at the commit of `facts`.

    Args:
        limit: bytes; a file that is larger, or turns out to be, is refused.
        seconds: for all of it; `fetch_seconds` of the settings without it.

    Raises:
        ModelUnsupported: the file is larger.
        ModelUnavailable: it could not be fetched.
    """
    too_large = ModelUnsupported(
        f"The {shorten(path)} of {facts.ref.id} has more than {gb(limit)}; no more is read.",
        "Check the repository: such a file is far smaller in all published models.",
    )
    if facts.files.get(path, 0) > limit:
        raise too_large
    answer = _ask(facts, path, {}, limit, token, cost, seconds)
    if not answer.whole:
        raise too_large
    return answer.body


def fetch_range(
    facts: RepoFacts,
    path: str,
    start: int,
    length: int,
    token: str | None = None,
    cost: Fetched | None = None,
    seconds: float | None = None,
) -> bytes:
    """`length` bytes of a file from `start`, fewer where the file ends before.

    Args:
        seconds: for all of it; `fetch_seconds` of the settings without it.

    Raises:
        ModelUnsupported: the file ends before `start`.
        ModelUnavailable: they could not be fetched.
    """
    if length <= 0:
        return b""
    size = facts.files.get(path, 0)
    if start < 0 or (0 < size <= start):
        raise ModelUnsupported(
            f"Byte {start} of {shorten(path)} of {facts.ref.id} was asked for; the file has {size}.",
            "The repository may be broken: its headers or its index point outside its files. Try another revision.",
        )
    last = start + length - 1
    answer = _ask(facts, path, {"Range": f"bytes={start}-{last}"}, length, token, cost, seconds)
    if answer.status == 206:
        return _checked_part(facts, answer, start, last)
    if start:
        raise garbled(facts.ref, "sends whole files where a part was asked for")
    return answer.body  # the beginning of the whole file, of which no more was read


def _checked_part(facts: RepoFacts, answer: Answer, start: int, last: int) -> bytes:
    """The body of a 206, if it is the part that was asked for and arrived whole."""
    told = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", "").strip())
    if told is None or not answer.whole:
        raise garbled(facts.ref, "sends another part of a file than was asked for")
    first, end = int(told[1]), int(told[2])
    ends_early = end < last and told[3] != str(end + 1)  # fewer bytes than asked for, though the file goes on
    if first != start or end > last or end < first or ends_early:
        raise garbled(facts.ref, "sends another part of a file than was asked for")
    if len(answer.body) < end - first + 1:
        raise broke_off(facts.ref)
    if len(answer.body) > end - first + 1:
        raise garbled(facts.ref, "sends another part of a file than was asked for")
    return answer.body


def _ask(
    facts: RepoFacts,
    path: str,
    headers: dict[str, str],
    limit: int,
    token: str | None,
    cost: Fetched | None,
    seconds: float | None,
) -> Answer:
    # Not hf_hub_download, which retries for 23 s while somebody waits, and reads whole files.
    if not is_safe_path(path):
        raise ModelNotFound(
            f"{facts.ref.id} names a file “{shorten(path)}”, which can't be one of its own.",
            "The repository may be broken or made to mislead; try another revision.",
        )
    answer = ask(
        facts.ref,
        hf_hub_url(facts.ref.id, path, revision=facts.sha),
        token=sent_token(token),
        limit=limit,
        seconds=settings().fetch_seconds if seconds is None else seconds,
        what=shorten(path),
        headers=headers,
    )
    if cost is not None:
        cost.add(len(answer.body))
    return answer
