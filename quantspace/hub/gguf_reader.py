"""Headers of a repository's GGUF files by range request: one whole, of files alike the list of tensors alone.

A header is some megabytes, most of it vocabulary, and the files of a repository mostly differ in how they are
quantized alone. So one header is read whole; of the others the list of tensors, which lies about where it lies in
the first. Where it does not, that header is read whole too. Which files there are is the matter of `gguf_files.py`.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

from ..errors import HubUnreachable, ModelUnavailable, ModelUnsupported, QuantSpaceError, shorten
from ..settings import settings
from ..units import gb
from .client import RepoFacts
from .fetch import Fetched, fetch_range
from .gguf_files import GgufPaths, all_parts
from .gguf_header import PREAMBLE_BYTES, GgufHeader, TensorInfo, parse_header, parse_preamble, parse_tensors
from .gguf_values import FIRST_BYTES, GgufSource

Item, Found = TypeVar("Item"), TypeVar("Found")
Read = Callable[[GgufPaths, Fetched], GgufHeader | None]

WORKERS = 8  # requests at once
PART_BYTES = 64 * 1024  # of a part after the first, whose header has no vocabulary
NEARBY = 64 * 1024  # bytes by which metadata may differ in length from that of another file of the model
NAMES = 16  # of the first tensors of one file, one of which another file's list is expected to start with
ALL_BYTES = 32 * 2**20  # of all headers that one question takes


class TooMuchToRead(ModelUnsupported):
    """The headers of a repository are longer than one question reads; the file may be sound."""


def read_gguf(facts: RepoFacts, path: str, token: str | None = None, cost: Fetched | None = None) -> GgufHeader:
    """The header of a GGUF file; of a split one all headers as one, metadata from the first.

    Args:
        path: of the file, or of any of its parts.
        cost: what was read is added to it.

    Raises:
        ModelUnsupported: the file or one of its parts is broken, or a part is missing.
        ModelUnavailable: it could not be fetched.
    """
    paths, reader = all_parts(facts, path), _Reader(facts, token)
    return _as_one(_at_once(paths, lambda part, spent: reader.part(part, part == paths[0], spent), cost))


def read_alike(
    facts: RepoFacts,
    known: GgufHeader,
    files: Sequence[GgufPaths],
    token: str | None = None,
    cost: Fetched | None = None,
) -> list[tuple[TensorInfo, ...] | QuantSpaceError]:
    """The tensors of files beside `known`, most of them for some hundred kB each.

    A second model's files are alike too: the first header that is read whole serves to find the lists of others.

    Returns:
        For each file its tensors, be they of the model of `known` or of another, or why there are none:
        `ModelUnavailable` where it could not be fetched, after which no other is asked for; `TooMuchToRead`;
        another `ModelUnsupported` where the file is broken or a part of it is missing.
    """
    reader = _Reader(facts, token)
    found: dict[GgufPaths, GgufHeader | QuantSpaceError | None] = dict.fromkeys(files)

    def look(read: Read, most: int | None = None) -> list[GgufPaths]:
        left = [file for file in files if found[file] is None][:most]
        found.update(zip(left, _at_once(left, partial(reader.outcome, read), cost), strict=True))
        return left

    look(partial(reader.nearby, known))
    for file in look(reader.whole, 1):
        if isinstance(another := found[file], GgufHeader):
            look(partial(reader.nearby, another))
    look(reader.whole)
    return [each.tensors if isinstance(each, GgufHeader) else each for each in found.values() if each is not None]


def _at_once(items: Sequence[Item], work: Callable[[Item, Fetched], Found], cost: Fetched | None) -> list[Found]:
    """`work(item, spent)` for all items, some at once; what they cost is added up afterwards."""
    spent = [Fetched() for _ in items]
    with ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(work, items, spent))
    if cost is not None:
        cost.bytes += sum(each.bytes for each in spent)
        cost.requests += sum(each.requests for each in spent)
    return found


class _Reader:
    """What reads headers of a repository, as much and as long as is good for one question."""

    def __init__(self, facts: RepoFacts, token: str | None) -> None:
        self._facts, self._token = facts, token
        self._left, self._lock = ALL_BYTES, threading.Lock()
        self._until = time.monotonic() + settings().fetch_seconds
        self._unreachable: HubUnreachable | None = None

    def outcome(self, read: Read, file: GgufPaths, cost: Fetched) -> GgufHeader | QuantSpaceError | None:
        """What `read` gives of a file, or why it gives nothing; a Hub that is gone is asked once."""
        if self._unreachable is not None:
            return self._unreachable
        try:
            return read(file, cost)
        except HubUnreachable as error:
            self._unreachable = error
            return error
        except (ModelUnavailable, ModelUnsupported) as error:
            return error

    def part(self, path: str, whole: bool, cost: Fetched) -> GgufHeader:
        """The header of one file; `whole` where it is expected to hold a vocabulary."""
        first = FIRST_BYTES if whole else PART_BYTES
        return parse_header(lambda *range_: self._fetch(path, *range_, cost), self._facts.files[path], path, first)

    def whole(self, file: GgufPaths, cost: Fetched) -> GgufHeader:
        """The header of a file with all that it says."""
        paths = all_parts(self._facts, file.path)
        return _as_one([self.part(path, path == paths[0], cost) for path in paths])

    def nearby(self, known: GgufHeader, file: GgufPaths, cost: Fetched) -> GgufHeader | None:
        """`known` with the tensors of a file whose list lies about where it lies there; `None` where it does not."""
        first, *others = all_parts(self._facts, file.path)
        tensors = self._tensors_nearby(known, first, cost)
        if tensors is None:
            return None
        own = replace(known, path=first, tensors=tensors)
        return replace(own, tensors=_joined([own, *(self.part(path, False, cost) for path in others)]))

    def _tensors_nearby(self, known: GgufHeader, path: str, cost: Fetched) -> tuple[TensorInfo, ...] | None:
        start = max(known.tensors_at - NEARBY, 0)
        held = self._fetch(path, start, known.data_at - start + NEARBY, cost)
        preamble = self._fetch(path, 0, PREAMBLE_BYTES, cost) if start else held[:PREAMBLE_BYTES]
        size = self._facts.files[path]
        source = GgufSource(lambda at, length: preamble[at : at + length], size, path)
        _, count, _ = parse_preamble(source)
        if not count:  # the first part of a split file may have metadata alone
            return ()
        place = _first_of(known.tensors[:NAMES], held, source.order)
        self._check_time(path)
        if place < 0:
            return None
        listed = GgufSource(lambda at, length: held[at - start : at - start + length], size, path, start + place)
        listed.order = source.order
        try:
            return parse_tensors(listed, count, known.alignment)[0]
        except ModelUnsupported:  # the list goes on beyond what is held, or starts with another tensor
            return None

    def _fetch(self, path: str, start: int, length: int, cost: Fetched) -> bytes:
        length = min(length, self._facts.files[path] - start)
        if length <= 0:
            return b""
        with self._lock:
            if length > self._left:
                raise TooMuchToRead(
                    f"The headers of {shorten(path, 160)} and the files beside it have more than {gb(ALL_BYTES)}.",
                    "Pick another file or repository: those of a model are far smaller.",
                )
            self._left -= length
        self._check_time(path)
        return fetch_range(self._facts, path, start, length, self._token, cost)

    def _check_time(self, path: str) -> None:
        if time.monotonic() > self._until:
            raise HubUnreachable(
                f"The header of {shorten(path, 160)} did not arrive within {settings().fetch_seconds:g} s.",
                "Try again when the network is faster.",
            )


def _first_of(tensors: Sequence[TensorInfo], held: bytes, order: str) -> int:
    """Where the first of these tensors is listed in a piece of a file; -1 where none is."""
    names = (tensor.name.encode() for tensor in tensors)
    places = (held.find(struct.pack(f"{order}Q", len(name)) + name) for name in names)
    return min((place for place in places if place >= 0), default=-1)


def _as_one(parts: Sequence[GgufHeader]) -> GgufHeader:
    """The headers of all parts of a file as one, metadata from the first."""
    first = parts[0]
    declared = first.metadata.get("split.count", len(parts))
    if isinstance(declared, int) and declared > 1 and declared != len(parts):
        raise ModelUnsupported(
            f"{shorten(first.path, 160)} says that it is one of {declared} parts; its name makes {len(parts)}.",
            "Pick another file: parts of a split model keep the names that llama.cpp gives them.",
        )
    return replace(first, tensors=_joined(parts))


def _joined(headers: Sequence[GgufHeader]) -> tuple[TensorInfo, ...]:
    tensors = {tensor.name: tensor for header in headers for tensor in header.tensors}
    if len(tensors) != sum(len(header.tensors) for header in headers):
        raise ModelUnsupported(
            f"{shorten(headers[0].path, 160)} and its other parts have a tensor twice.",
            "Pick another file or repository.",
        )
    return tuple(tensors.values())
