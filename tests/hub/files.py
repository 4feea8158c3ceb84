"""The contents of repository files: bytes, a file on disk, or a sparse file of true size.

A file in Git is known by the SHA-1 of its blob, a file in Git LFS by the SHA-256 of its contents; the Hub
sends the one or the other as ETag. Files are in LFS by suffix (the Hub's default `.gitattributes`) or above 10 MiB.
"""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path, PurePosixPath

CHUNK = 1 << 20  # bytes
LFS_FROM = 10 << 20  # bytes
LFS_SUFFIXES = frozenset(
    ".bin .ckpt .gguf .h5 .model .msgpack .npz .onnx .ot .pickle .pkl .pt .pth .safetensors .tflite .zip".split()
)
HASHED_UP_TO = 32 << 20  # bytes; a larger sparse file is named by its description, not by hashing its zeros
BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}
BITS |= {"I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}


class HubFile:
    """What the server needs of a file: its size, any range of its bytes, and its two names."""

    size: int  # bytes

    def read(self, start: int, stop: int) -> bytes:
        raise NotImplementedError

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Bytes [start, stop), never more than `CHUNK` of them in memory."""
        for at in range(start, stop, CHUNK):
            yield self.read(at, min(at + CHUNK, stop))

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for chunk in self.chunks(0, self.size):
            digest.update(chunk)
        return digest.hexdigest()

    @cached_property
    def git_oid(self) -> str:
        digest = hashlib.sha1(b"blob %d\0" % self.size)
        for chunk in self.chunks(0, self.size):
            digest.update(chunk)
        return digest.hexdigest()

    @property
    def fingerprint(self) -> str:
        """A name for these contents that costs little, to name commits after."""
        return self.git_oid

    @cached_property
    def lfs_pointer(self) -> bytes:
        """The small file that Git holds in place of this one (git-lfs, docs/spec.md)."""
        return (f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n").encode()


@dataclass(frozen=True)
class BytesFile(HubFile):
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        return self.data[start:stop]


@dataclass(frozen=True)
class DiskFile(HubFile):
    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @property
    def fingerprint(self) -> str:
        return self.git_oid if self.size <= HASHED_UP_TO else f"{self.path} {self.path.stat()}"

    def read(self, start: int, stop: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)


@dataclass(frozen=True)
class SparseFile(HubFile):
    """A file of `size` bytes, zero but for `parts` (offset -> bytes). It takes the memory of its parts alone."""

    size: int  # bytes
    parts: Mapping[int, bytes] = field(default_factory=dict)

    def read(self, start: int, stop: int) -> bytes:
        window = bytearray(stop - start)
        for offset, data in self.parts.items():
            first, last = max(offset, start), min(offset + len(data), stop)
            if first < last:
                window[first - start : last - start] = data[first - offset : last - offset]
        return bytes(window)

    @property
    def fingerprint(self) -> str:
        return self.sha256

    @cached_property
    def sha256(self) -> str:
        if self.size <= HASHED_UP_TO:
            return hashlib.sha256(self.read(0, self.size)).hexdigest()
        description = [self.size, sorted((at, hashlib.sha256(data).hexdigest()) for at, data in self.parts.items())]
        return hashlib.sha256(json.dumps(description).encode()).hexdigest()

    @classmethod
    def safetensors(
        cls,
        tensors: Mapping[str, tuple[str, tuple[int, ...]]],
        metadata: Mapping[str, str] | None = None,
    ) -> "SparseFile":
        """A safetensors file with these tensors (name -> (dtype, shape)), all of them zero.

        The layout is the format's README: 8 bytes of little-endian header length, the JSON header padded with
        spaces to 8 bytes, the data.
        """
        header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        end = 0
        for name, (dtype, shape) in tensors.items():
            begin, end = end, end + prod(shape) * BITS[dtype] // 8
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)
        return cls(8 + len(encoded) + end, {0: struct.pack("<Q", len(encoded)) + encoded})


def as_file(content: bytes | str | Path | HubFile) -> HubFile:
    """Bytes and text as they are, a path as the file that lies there."""
    if isinstance(content, HubFile):
        return content
    if isinstance(content, Path):
        return DiskFile(content)
    return BytesFile(content.encode() if isinstance(content, str) else content)


def is_lfs(path: str, file: HubFile) -> bool:
    return PurePosixPath(path).suffix in LFS_SUFFIXES or file.size > LFS_FROM
