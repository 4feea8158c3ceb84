"""GGUF headers byte by byte, sound and otherwise, and how they are read from memory."""

import struct

from quantspace.hub.gguf_header import parse_header
from tests.gguf_samples import sparse_gguf


class CountingBytes:
    """A file in memory that counts what is read of it."""

    def __init__(self, data, size=None):
        self.data, self.size, self.read = data, size or len(data), 0

    def __call__(self, start, length):
        piece = self.data[start : start + length]
        self.read += len(piece)
        return piece


def parsed(data, size=None):
    return parse_header(CountingBytes(data), size or len(data), "model.gguf")


def sample(vocabulary=0):
    """A small file as bytes: two keys, two tensors, their data zeros."""
    file = sparse_gguf("llama", {"block_count": 1}, {"a": ((4, 32), "Q4_0"), "b": ((8,), "F32")}, vocabulary)
    return file.read(0, file.size)


def text(value):
    return struct.pack("<Q", len(value)) + value


def built(tensors=(), keys=(), version=3, counts=None, magic=b"GGUF", data=4096):
    """A file from raw parts: claims of all kinds."""
    told = counts or (len(tensors), len(keys))
    body = magic + struct.pack("<IQQ", version, *told) + b"".join(keys) + b"".join(tensors)
    return body + bytes(data)


def key(name=b"k", kind=4, value=b"\1\0\0\0"):
    return text(name) + struct.pack("<I", kind) + value


def tensor(name=b"t", dims=(32,), kind=0, offset=0, claimed=None):
    lengths = struct.pack(f"<{len(dims)}Q", *dims)
    return text(name) + struct.pack("<I", claimed or len(dims)) + lengths + struct.pack("<IQ", kind, offset)
