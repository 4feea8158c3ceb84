"""The values of which the header of a GGUF file is made, read from front to back, a growing piece at a time.

Numbers, texts and arrays, each checked against the file's size and against limits before anything is made of it.
What they mean is the matter of `gguf_header.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import ModelUnsupported, shorten
from ..units import gb

Read = Callable[[int, int], bytes]  # from an offset, so many bytes; fewer where the file ends before

FIRST_BYTES = 256 * 1024  # that are asked for at once; each time after that twice as many
MOST_BYTES = 4 * 2**20
HEADER_BYTES = 16 * 2**20  # of one header that are read in all
MAX_NAME = 1024  # bytes of a key or of a tensor's name; llama.cpp stops at 63 for tensors
MAX_STRING = 2**20  # bytes of a text that is kept: a chat template has up to some 20,000
MAX_VALUES = 2048  # of an array that are kept: a model has up to some hundred layers

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Unread:
    """A value that was passed over for its length: so many values of an array, or bytes of a text."""

    length: int


class GgufSource:
    """A file that is read from front to back, a growing piece at a time.

    Args:
        file_size: bytes.
        path: of the file, for messages.
        at: where to start, which moves on with what is read.
        first: bytes to ask for at once at first.

    Its methods raise `ModelUnsupported` with the path and what is wrong with the file.
    """

    def __init__(self, read: Read, file_size: int, path: str, at: int = 0, first: int = FIRST_BYTES) -> None:
        self.file_size, self.path = file_size, path
        self.at = at
        self.order = "<"  # of bytes, as `struct` writes it; `>` where the file is big-endian
        self._read = read
        self._held, self._held_at = b"", at
        self._next, self._fetched = first, 0

    def broken(self, what: str) -> ModelUnsupported:
        """The error that says `what` the file has or does."""
        return ModelUnsupported(
            f"{shorten(self.path, 160)} {what}.",
            "Pick another file or repository; if it is yours, make the file anew with llama.cpp's tools.",
        )

    def value(self, kind: int) -> Any:
        """A value of metadata, of a type by its number; `Unread` where it is long."""
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array()
        return self.unpack(self._code(kind))

    def _array(self) -> Any:
        kind, count = self.unpack("I"), self.unpack("Q")
        if kind == _ARRAY:
            raise self.broken("has an array of arrays, which llama.cpp does not read either")
        width = 8 if kind == _STRING else struct.calcsize(self._code(kind))
        self.check_count("values of one array", count, self.file_size, width)
        if count > MAX_VALUES:
            if kind == _STRING:
                self._skip_strings(count)
            else:
                self._skip(count * width)
            return Unread(count)
        if kind == _STRING:
            return [self._text() for _ in range(count)]
        return list(struct.unpack(f"{self.order}{count}{self._code(kind)}", self.take(count * width)))

    def _code(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self.broken(f"has a value of type {kind:,}, which GGUF does not have")
        return _SCALARS[kind]

    def name(self, what: str) -> str:
        """A short text that must be one."""
        length = self.unpack("Q")
        if not 0 < length <= MAX_NAME:
            raise self.broken(f"names {what} with {length:,} bytes; {MAX_NAME:,} is the most")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise self.broken(f"names {what} with bytes that are no text") from error

    def _text(self) -> str | Unread:
        length = self.unpack("Q")
        self.check_count("bytes of one text", length, self.file_size, 1)
        if length > MAX_STRING:
            self._skip(length)
            return Unread(length)
        return self.take(length).decode(errors="replace")

    def _skip_strings(self, count: int) -> None:
        length_at = struct.Struct(f"{self.order}Q").unpack_from
        while count:
            self._ensure(8)
            held, place = self._held, self.at - self._held_at
            last = len(held) - 8
            while count and place <= last:
                (length,) = length_at(held, place)
                place += 8 + length
                count -= 1
            self._skip(place - (self.at - self._held_at))

    def check_count(self, what: str, count: int, most: int, width: int) -> None:
        """Before anything is made of a number: whether the file has room for so many."""
        if count > most or count * width > self.file_size - self.at:
            raise self.broken(f"claims {count:,} {what}, more than it has room for or than any model has")

    def _skip(self, length: int) -> None:
        if length > self.file_size - self.at:
            raise self.broken("ends within its own header")
        self.at += length

    def unpack(self, code: str) -> Any:
        """A number of one of `struct`'s types."""
        return struct.unpack(f"{self.order}{code}", self.take(struct.calcsize(f"={code}")))[0]

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        self._ensure(length)
        start = self.at - self._held_at
        self.at += length
        return self._held[start : start + length]

    def _ensure(self, length: int) -> None:
        """Hold at least `length` bytes from here on."""
        start = self.at - self._held_at
        if start + length <= len(self._held):
            return
        kept = self._held[start:]
        wanted = min(max(self._next, length - len(kept)), HEADER_BYTES - self._fetched)
        if len(kept) + wanted < length:
            raise self.broken(f"has a header of more than {gb(HEADER_BYTES)}; no more of it is read")
        piece = self._read(self.at + len(kept), wanted)[:wanted]
        self._fetched += wanted
        self._next = min(2 * self._next, MOST_BYTES)
        self._held, self._held_at = kept + piece, self.at
        if len(self._held) < length:
            raise self.broken("ends within its own header")
