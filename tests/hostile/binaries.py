"""Hostile headers of safetensors and GGUF files, byte by byte: what the real libraries refuse to write.

Formats: https://github.com/huggingface/safetensors#format and docs/gguf.md of ggml.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

from tests.hub import HubFile, SparseFile
from tests.hub.files import BytesFile

MADE = Callable[[], HubFile]


def safetensors(header: bytes | Mapping[str, Any], data: int = 0, length: int | None = None) -> HubFile:
    """A file with this header, whatever it says, and `data` bytes behind it; `length` claims another header length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    claimed = len(text) if length is None else length
    return SparseFile(8 + len(text) + data, {0: struct.pack("<Q", claimed) + text})


def _tensor(begin: Any = 0, end: Any = 8, dtype: Any = "F32", shape: Any = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [begin, end]}


SAFETENSORS: dict[str, MADE] = {
    "nothing": lambda: BytesFile(b"\0"),
    "three-bytes": lambda: BytesFile(b"abc"),
    "zero-length": lambda: safetensors(b"{}", 100, 0),
    "claims-2-63": lambda: safetensors(b"{}", 100, 2**63),
    "claims-2-64": lambda: safetensors(b"{}", 100, 2**64 - 1),
    "claims-more-than-the-file": lambda: safetensors(b"{}", 100, 10_000),
    "claims-a-gigabyte": lambda: SparseFile(2 * 10**9, {0: struct.pack("<Q", 10**9) + b"{"}),
    "not-json": lambda: safetensors(b"hello, this is no JSON"),
    "list": lambda: safetensors(b"[1, 2, 3]"),
    "deep": lambda: safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "no-text": lambda: safetensors(b'{"\xff\xfe": 1}'),
    "twice": lambda: safetensors(b'{"a": %s, "a": %s}' % ((json.dumps(_tensor()).encode(),) * 2), 8),
    "negative-offset": lambda: safetensors({"a": _tensor(-8, 0)}, 8),
    "reversed-offsets": lambda: safetensors({"a": _tensor(8, 0)}, 8),
    "overlap": lambda: safetensors({"a": _tensor(), "b": _tensor(4, 12)}, 12),
    "hole": lambda: safetensors({"a": _tensor(), "b": _tensor(100, 108)}, 108),
    "beyond-the-file": lambda: safetensors({"a": _tensor(0, 2**62, shape=(2**60,))}, 8),
    "offset-2-63": lambda: safetensors({"a": _tensor(2**63, 2**63 + 8)}, 8),
    "offsets-text": lambda: safetensors({"a": _tensor("0", "8")}, 8),
    "offsets-float": lambda: safetensors({"a": _tensor(0.0, 8.0)}, 8),
    "shape-negative": lambda: safetensors({"a": _tensor(shape=(-2,))}, 8),
    "shape-huge": lambda: safetensors({"a": _tensor(shape=(2**40, 2**40))}, 8),
    "shape-of-a-million": lambda: safetensors({"a": _tensor(shape=(1,) * 1_000_000)}, 8),
    "shape-text": lambda: safetensors({"a": _tensor(shape=["2"])}, 8),
    "shape-truth": lambda: safetensors({"a": _tensor(0, 4, shape=[True])}, 4),
    "dtype-unknown": lambda: safetensors({"a": _tensor(dtype="F1024")}, 8),
    "dtype-list": lambda: safetensors({"a": _tensor(dtype=["F32"])}, 8),
    "name-of-a-megabyte": lambda: safetensors({"n" * 2**20: _tensor()}, 8),
    "name-unprintable": lambda: safetensors({"a\0b": _tensor()}, 8),
    "metadata-list": lambda: safetensors({"__metadata__": [1], "a": _tensor()}, 8),
    "million-lists": lambda: safetensors(b'{"a": [' + b"[]," * 2_000_000 + b"[]]}"),
    "million-tensors": lambda: safetensors({f"t{i}": _tensor(8 * i, 8 * i + 8) for i in range(450_000)}, 8 * 450_000),
}


def _text(words: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(words) if length is None else length) + words


def gguf(
    tensors: int = 0,
    keys: int = 0,
    rest: bytes = b"",
    *,
    version: int = 3,
    magic: bytes = b"GGUF",
    size: int | None = None,
) -> HubFile:
    """A GGUF file that claims so many tensors and keys, with `rest` behind its first 24 bytes."""
    start = magic + struct.pack("<IQQ", version, tensors, keys) + rest
    return SparseFile(size or max(len(start), 4096), {0: start})


def _key(kind: int, value: bytes, name: bytes = b"general.x") -> bytes:
    return _text(name) + struct.pack("<I", kind) + value


def _info(
    name: bytes = b"a", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0, count: int | None = None
) -> bytes:
    places = struct.pack(f"<{len(dims)}Q", *dims)
    return (
        _text(name)
        + struct.pack("<I", len(dims) if count is None else count)
        + places
        + struct.pack("<IQ", kind, offset)
    )


_U32, _STRING, _ARRAY = 4, 8, 9
_LONG = 2**62

GGUF: dict[str, MADE] = {
    "nothing": lambda: BytesFile(b"\0"),
    "other-magic": lambda: gguf(magic=b"GGML"),
    "magic-alone": lambda: BytesFile(b"GGUF"),
    "version-0": lambda: gguf(version=0),
    "version-1": lambda: gguf(version=1),
    "version-99": lambda: gguf(version=99),
    "tensors-2-63": lambda: gguf(tensors=2**63),
    "keys-2-63": lambda: gguf(keys=2**63),
    "string-2-62": lambda: gguf(keys=1, rest=_text(b"", _LONG)),
    "value-2-62": lambda: gguf(keys=1, rest=_key(_STRING, _text(b"", _LONG))),
    "string-2-64": lambda: gguf(keys=1, rest=_key(_STRING, _text(b"", 2**64 - 1))),
    "array-2-62": lambda: gguf(keys=1, rest=_key(_ARRAY, struct.pack("<IQ", _U32, _LONG))),
    "array-of-strings-2-62": lambda: gguf(keys=1, rest=_key(_ARRAY, struct.pack("<IQ", _STRING, _LONG))),
    "array-of-arrays": lambda: gguf(keys=1, rest=_key(_ARRAY, struct.pack("<IQ", _ARRAY, 1) * 100)),
    "array-of-no-kind": lambda: gguf(keys=1, rest=_key(_ARRAY, struct.pack("<IQ", 77, 1))),
    "value-of-no-kind": lambda: gguf(keys=1, rest=_key(77, b"")),
    "key-empty": lambda: gguf(keys=1, rest=_key(_U32, b"\0" * 4, b"")),
    "key-no-text": lambda: gguf(keys=1, rest=_key(_U32, b"\0" * 4, b"\xff\xfe")),
    "key-twice": lambda: gguf(keys=2, rest=_key(_U32, b"\0" * 4) * 2),
    "alignment-zero": lambda: gguf(1, 1, _key(_U32, struct.pack("<I", 0), b"general.alignment") + _info()),
    "alignment-3": lambda: gguf(1, 1, _key(_U32, struct.pack("<I", 3), b"general.alignment") + _info()),
    "alignment-huge": lambda: gguf(1, 1, _key(_U32, struct.pack("<I", 2**31), b"general.alignment") + _info()),
    "dims-2-32": lambda: gguf(1, rest=_info(count=2**32 - 1)),
    "dims-product": lambda: gguf(1, rest=_info(dims=(2**33, 2**33))),
    "dims-zero": lambda: gguf(1, rest=_info(dims=(0,))),
    "type-unknown": lambda: gguf(1, rest=_info(kind=12345)),
    "offset-2-63": lambda: gguf(1, rest=_info(offset=2**63)),
    "offset-odd": lambda: gguf(1, rest=_info(offset=7)),
    "overlap": lambda: gguf(2, rest=_info(b"a") + _info(b"b")),
    "tensor-twice": lambda: gguf(2, rest=_info(b"a") + _info(b"a", offset=128)),
    "tensor-beyond": lambda: gguf(1, rest=_info(dims=(2**30,))),
    "name-2-20": lambda: gguf(1, rest=_info(b"n" * 2**20), size=2**21),
    "zeros": lambda: SparseFile(40 * 10**9),
    "strings-without-end": lambda: gguf(keys=1, rest=_key(_ARRAY, struct.pack("<IQ", _STRING, 10**9)), size=40 * 10**9),
}
