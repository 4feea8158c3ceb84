"""The header of a GGUF file: its metadata and the list of its tensors, without their data.

The format is written down in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Versions 2 and 3 are
read, of either byte order. A header is somebody else's file: what it claims is checked against the file's size
and against limits first. Vocabularies are passed over, not kept.

Which files of a repository to read is the matter of `gguf_files.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ..errors import shorten
from .ggml_types import GGML_TYPES
from .gguf_values import FIRST_BYTES, GgufSource, Read

MAX_TENSORS = 20_000  # the largest published models have some 2,000
MAX_KEYS = 10_000
MAX_DIMS = 4
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 2**20

PREAMBLE_BYTES = 4 + 4 + 8 + 8  # magic, version, number of tensors, number of keys
_LEAST_KEY = 8 + 1 + 4 + 1  # bytes of a key with one letter and a value of one byte
_LEAST_TENSOR = 8 + 1 + 4 + 4 + 8


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a GGUF file.

    Attributes:
        shape: outermost dimension first, as in PyTorch; the file lists them the other way round.
        type: ggml's name of it, such as `Q4_K`.
        offset: from the start of the data section.
        bytes: of its data.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    bytes: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the header of a GGUF file says; of a split file, what the headers of all parts say.

    Attributes:
        metadata: key → number, text, truth value, list of these, or `Unread`; of the first part.
        tensors_at: where the list of tensors starts in the file; `data_at` where their data does.
        big_endian: byte order of the file.
    """

    path: str
    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    tensors_at: int = 0
    data_at: int = 0
    alignment: int = DEFAULT_ALIGNMENT
    big_endian: bool = False

    @property
    def architecture(self) -> str:
        """As llama.cpp names it, such as `qwen3moe`; empty where the file does not say."""
        found = self.metadata.get("general.architecture")
        return found if isinstance(found, str) else ""

    def get(self, key: str) -> Any:
        """The value of a key of its architecture, without the prefix: `block_count`; `None` without one."""
        return self.metadata.get(f"{self.architecture}.{key}")


def parse_header(read: Read, file_size: int, path: str, first: int = FIRST_BYTES) -> GgufHeader:
    """The header of a GGUF file.

    Args:
        read: gives bytes of the file; it is asked for no more than `gguf_values.HEADER_BYTES` in all.
        file_size: bytes.
        path: of the file, for messages.
        first: bytes to ask for at once at first.

    Raises:
        ModelUnsupported: the file is not GGUF, is of another version, is broken, or claims what can't be.
    """
    source = GgufSource(read, file_size, path, first=first)
    version, tensor_count, key_count = parse_preamble(source)
    metadata = _metadata(source, key_count)
    alignment = _alignment(source, metadata.get("general.alignment", DEFAULT_ALIGNMENT))
    tensors_at = source.at
    tensors, data_at = parse_tensors(source, tensor_count, alignment)
    return GgufHeader(path, version, metadata, tensors, tensors_at, data_at, alignment, source.order == ">")


def read_local(path: Path) -> GgufHeader:
    """The header of a file on this disk.

    Raises:
        ModelUnsupported: it is not a GGUF file, or one that breaks its format.
    """
    size = path.stat().st_size
    with path.open("rb") as file:

        def read(start: int, count: int) -> bytes:
            file.seek(start)
            return file.read(count)

        return parse_header(read, size, path.name)


def parse_preamble(source: GgufSource) -> tuple[int, int, int]:
    """Version, number of tensors, number of keys; the source then knows its byte order.

    Raises:
        ModelUnsupported: as `parse_header`.
    """
    if source.take(4) != b"GGUF":
        raise source.broken("is not a GGUF file: it does not start with that word")
    written = source.take(4)
    source.order = ">" if written[:2] == b"\0\0" and any(written) else "<"
    (version,) = struct.unpack(f"{source.order}I", written)
    if version not in (2, 3):
        raise source.broken(f"is GGUF version {version:,}; versions 2 and 3 are read")
    tensors, keys = source.unpack("Q"), source.unpack("Q")
    source.check_count("tensors", tensors, MAX_TENSORS, _LEAST_TENSOR)
    source.check_count("keys", keys, MAX_KEYS, _LEAST_KEY)
    return version, tensors, keys


def parse_tensors(source: GgufSource, count: int, alignment: int) -> tuple[tuple[TensorInfo, ...], int]:
    """The list of tensors from where the source stands, and where their data starts in the file.

    Raises:
        ModelUnsupported: as `parse_header`.
    """
    found: dict[str, TensorInfo] = {}
    for _ in range(count):
        tensor = _tensor(source)
        if tensor.name in found:
            raise source.broken(f"has the tensor {shorten(tensor.name)} twice")
        found[tensor.name] = tensor
    tensors = tuple(found.values())
    data_at = -(-source.at // alignment) * alignment
    _check_layout(source, tensors, data_at, alignment)
    return tensors, data_at


def _metadata(source: GgufSource, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(count):
        key = source.name("a key")
        if key in found:
            raise source.broken(f"has the key {shorten(key)} twice")
        found[key] = source.value(source.unpack("I"))
    return found


def _tensor(source: GgufSource) -> TensorInfo:
    name = source.name("a tensor")
    dims = source.unpack("I")
    if dims > MAX_DIMS:
        raise source.broken(f"gives {shorten(name)} {dims:,} dimensions; {MAX_DIMS} is the most")
    lengths = struct.unpack(f"{source.order}{dims}Q", source.take(8 * dims))
    number, offset = source.unpack("I"), source.unpack("Q")
    kind = GGML_TYPES.get(number)
    if kind is None:
        raise source.broken(f"stores {shorten(name)} in type {number:,} of ggml, which is not known here")
    elements = prod(lengths)
    if not 0 < elements < 2**63 or (lengths[0] if lengths else 1) % kind.block:
        shape = "×".join(map(str, lengths))
        raise source.broken(f"has {shorten(name)} of {shorten(shape)} values, which {kind.name} can't hold")
    return TensorInfo(name, lengths[::-1], kind.name, offset, kind.bytes(elements))


def _alignment(source: GgufSource, alignment: Any) -> int:
    fits = isinstance(alignment, int) and 1 <= alignment <= MAX_ALIGNMENT
    if not fits or alignment & (alignment - 1):
        raise source.broken(f"aligns its data to {shorten(str(alignment), 40)}, which is not a power of two")
    return alignment


def _check_layout(source: GgufSource, tensors: Sequence[TensorInfo], data_at: int, alignment: int) -> None:
    """Tensors must lie within the file, and none over another."""
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.offset % alignment:
            raise source.broken(f"has {shorten(tensor.name)} at an offset that is not a multiple of {alignment}")
        if tensor.offset < end:
            raise source.broken(f"has {shorten(tensor.name)} over the tensor before it")
        end = tensor.offset + tensor.bytes
        if data_at + end > source.file_size:
            raise source.broken(f"ends before the end of {shorten(tensor.name)}; the upload may be incomplete")
