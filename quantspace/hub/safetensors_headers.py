"""The headers of a repository's safetensors files, by range request: names, dtypes and shapes, not a byte of data.

Format: https://github.com/huggingface/safetensors#format (8 bytes of header length, little-endian; a JSON object;
the data). Limits are ours, and stricter than the format's: these are somebody else's files.

huggingface_hub reads headers too (`HfApi.get_safetensors_metadata`), but fetches 100 kB of each file whatever its
header holds, repeats requests that fail for tens of seconds, writes the index to disk, and checks nothing of what it
reads. Here the index tells how long each header will be, so that one request a file is mostly enough.
"""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import HubUnreachable, ModelUnsupported, shorten
from ..units import gb
from .client import RepoFacts
from .fetch import Fetched, fetch_file, fetch_range
from .safetensors_files import INDEX, SUFFIX, weight_files

WORKERS = 8  # requests at once
READ_SECONDS = 60  # for all headers of a model; of published ones the slowest has 163 files
MAX_HEADER = 20 * 10**6  # bytes; the largest published one has 12 million
MAX_ALL = 64 * 10**6  # bytes of all headers together; those of Kimi-K2.5 in NVFP4 have 40 million
MAX_INDEX = 38 * 10**6  # bytes; that of Kimi-K2.5 in NVFP4 has 32 million
MAX_FILES = 1000  # Llama-3.1-405B has 191
MAX_IN_FILE = 150_000  # tensors; Qwen3-30B-A3B in NVFP4 has 74,000 in one file
MAX_TENSORS = 320_000  # in all files; four for each linear layer of an expert in NVFP4, 286,000 in DeepSeek-V4-Pro
MAX_NAME = 256  # characters; published ones have some 100
MAX_DIMS = 16
MAX_SIZE = 2**48  # of one dimension

PREFIX = 8  # bytes of the header's length
_UNKNOWN = 64 * 1024  # bytes first asked of a file of which no index tells: most have 100 to 800 tensors
_ENTRY = 110  # bytes of a tensor's entry beside its name; 88 with two dimensions in a file of 5 GB
_METADATA = 128  # bytes of the rest of a header
_HINT = "The repository may be broken; try another revision."

# dtype → bits of an element (safetensors 0.8, `Dtype` of tensor.rs)
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class HeaderTensor(NamedTuple):  # hundreds of thousands of them: made three times as fast as a frozen dataclass
    """A tensor as a header tells it; `dtype` as safetensors spells it, `bytes` of its data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class StoredHeader:
    """The tensors of one file of a repository, in the order of its header."""

    path: str
    tensors: tuple[HeaderTensor, ...]

    @property
    def data_bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.tensors)


def read_headers(
    facts: RepoFacts, token: str | None = None, cost: Fetched | None = None, paths: Iterable[str] | None = None
) -> tuple[StoredHeader, ...]:
    """The headers of the files that hold a model once, whatever copies of it lie beside them.

    Args:
        cost: is added what was fetched, also where that ends in an error.
        paths: of the .safetensors files to choose from; all of the repository without it.

    Raises:
        ModelUnsupported: there is no such file, or one is not what the format says.
        ModelUnavailable: they could not be fetched.
    """
    chosen = weight_files(facts.files, paths)
    if not chosen:
        raise ModelUnsupported(
            f"{facts.ref.id} has no safetensors files.", "Pick a repository that has its weights in that format."
        )
    guesses: dict[str, int] = {}
    for path in chosen:
        if path.endswith(INDEX):
            index = parse_index(fetch_file(facts, path, MAX_INDEX, token, cost), facts.files, path)
            guesses |= {file: _guess(names) for file, names in index.items()}
        else:
            guesses.setdefault(path, _UNKNOWN)
    if len(guesses) > MAX_FILES:
        raise ModelUnsupported(
            f"{facts.ref.id} has {len(guesses):,} safetensors files; the headers of {MAX_FILES:,} at most are read.",
            "Check the repository: published models have fewer, and larger ones.",
        )
    return _read_all(facts, guesses, token, cost)


def parse_index(data: bytes, files: Mapping[str, int], path: str = f"model{INDEX}") -> dict[str, list[str]]:
    """Which file holds which tensors, by an index.

    Args:
        files: of the repository, path → size.
        path: of the index; files are named from its folder.

    Returns:
        Path of a file in the repository → names of tensors.

    Raises:
        ModelUnsupported: it is no index, or names what is not in the repository.
    """
    found = _json_object(data, path, MAX_TENSORS)
    weight_map = found.get("weight_map")
    if not isinstance(weight_map, dict):
        raise _broken(path, "it has no weight_map that is a JSON object")
    if len(weight_map) > MAX_TENSORS:
        raise _too_many(path, MAX_TENSORS)
    folder = path[: path.rfind("/") + 1]
    known: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise _broken(path, f"it does not name the file of “{shorten(name)}”")
        if file not in known:
            if f"{folder}{file}" not in files or not file.endswith(SUFFIX):
                raise _broken(path, f"it names “{shorten(file)}”, which is no safetensors file of the repository")
            known[file] = []
        known[file].append(_name(name, path))
    if not known:
        raise _broken(path, "it names no tensor")
    return {f"{folder}{file}": names for file, names in known.items()}


def header_end(data: bytes, file_size: int, path: str) -> int:
    """Bytes of a file before its data: the length in its first 8 bytes, and those.

    Raises:
        ModelUnsupported: no header can have that length.
    """
    if len(data) < PREFIX:
        raise _broken(path, f"it has {len(data)} bytes")
    (length,) = struct.unpack_from("<Q", data)
    if PREFIX + length > file_size:
        raise _broken(path, f"its header claims {length:,} bytes and the file has {file_size:,}")
    if length > MAX_HEADER:
        raise _broken(path, f"its header claims {gb(length)}, and no more than {gb(MAX_HEADER)} are read")
    return PREFIX + length


def parse_header(data: bytes, file_size: int, path: str) -> StoredHeader:
    """The tensors of one file.

    Args:
        data: its first bytes, at least all of its header.
        file_size: bytes of the whole file.

    Raises:
        ModelUnsupported: the header is not what the format says, in any point, or beyond our limits.
    """
    end = header_end(data, file_size, path)
    if len(data) < end:
        raise _broken(path, f"its header of {end:,} bytes ends after {len(data):,}")
    entries = _json_object(bytes(data[PREFIX:end]), path, MAX_IN_FILE)
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _broken(path, "its __metadata__ is not a mapping of texts")
    if len(entries) > MAX_IN_FILE:
        raise _too_many(path, MAX_IN_FILE)
    placed = [_placed(name, entry, path) for name, entry in entries.items()]
    at = 0
    for begin, tensor in sorted(placed, key=lambda pair: (pair[0], pair[1].bytes)):
        if begin != at:
            how = "overlaps the one before" if begin < at else "leaves a hole before it"
            raise _broken(path, f"the data of “{shorten(tensor.name)}” {how}")
        at = begin + tensor.bytes
    if end + at != file_size:
        raise _broken(path, f"its header tells of {at:,} bytes of data and the file has {file_size - end:,}")
    return StoredHeader(path, tuple(tensor for _, tensor in placed))


def _placed(name: str, entry: Any, path: str) -> tuple[int, HeaderTensor]:
    """A tensor of a header, and where its data begins."""
    if not isinstance(entry, dict):
        raise _wrong(path, name, "has an entry that is not a JSON object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    bits = BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise _wrong(path, name, f"has dtype “{shorten(str(dtype), 40)}”, which the format has not")
    if not isinstance(shape, list) or len(shape) > MAX_DIMS:
        raise _wrong(path, name, "has a shape that no tensor has")
    elements = 1
    for size in shape:
        if type(size) is not int or not 0 <= size < MAX_SIZE:
            raise _wrong(path, name, "has a shape that no tensor has")
        elements *= size
    match offsets:
        case [int(begin), int(end)] if 0 <= begin < 2**63 and 0 <= end < 2**63 and bool not in (type(begin), type(end)):
            pass
        case _:
            raise _wrong(path, name, "has no data_offsets of two whole numbers")
    if 8 * (end - begin) != elements * bits:
        raise _wrong(path, name, f"has {end - begin:,} bytes of data, which is not its shape in {dtype}")
    return begin, HeaderTensor(_name(name, path), dtype, tuple(shape), end - begin)


def _wrong(path: str, name: str, what: str) -> ModelUnsupported:
    return _broken(path, f"“{shorten(name)}” {what}")


def _name(name: str, path: str) -> str:
    if len(name) > MAX_NAME or not name.isprintable():
        raise _broken(path, f"“{shorten(name)}” is no name of a tensor")
    return name


class _Repeated(ValueError):
    """A key that stands twice in one JSON object."""


def _json_object(data: bytes, path: str, most: int) -> dict[str, Any]:
    """A JSON object of no more values than so many tensors have, none of its keys twice."""
    # Counted before it is parsed: an empty list of two bytes takes 64 in memory.
    if data.count(b"[") + data.count(b"{") > 3 * most + 8 or data.count(b",") > 12 * most:
        raise _too_many(path, most)
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except _Repeated as error:
        raise _broken(path, f"“{shorten(str(error))}” stands in it twice") from error
    except (ValueError, RecursionError) as error:
        raise _broken(path, "its JSON can't be read") from error
    if not isinstance(found, dict):
        raise _broken(path, "its JSON is not an object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise _Repeated(next(key for key, _ in pairs if key in seen or seen.add(key)))
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _guess(names: Iterable[str]) -> int:
    """Bytes that a file's header will most likely have, by the names of its tensors."""
    return PREFIX + _METADATA + sum(len(name.encode()) + _ENTRY for name in names)


def _read_all(
    facts: RepoFacts, guesses: Mapping[str, int], token: str | None, cost: Fetched | None
) -> tuple[StoredHeader, ...]:
    """The header of each file, several under way at once."""
    deadline = time.monotonic() + READ_SECONDS
    budget = _Budget(MAX_ALL)
    spent = [Fetched() for _ in guesses]
    headers: list[StoredHeader] = []
    tensors = 0
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="safetensors-headers")
    try:
        asked: list[tuple[str, Future[bytes]]] = [
            (path, pool.submit(_fetch_header, facts, path, guess, token, own, budget))
            for (path, guess), own in zip(guesses.items(), spent, strict=True)
        ]
        asked.reverse()
        while asked:
            path, arrived = asked.pop()  # so that its bytes are let go of once parsed
            headers.append(parse_header(arrived.result(deadline - time.monotonic()), facts.files[path], path))
            tensors += len(headers[-1].tensors)
            if tensors > MAX_TENSORS:
                raise _too_many(facts.ref.id, MAX_TENSORS)
    except TooLate as error:
        raise HubUnreachable(
            f"The headers of {facts.ref.id} did not arrive within {READ_SECONDS} s.",
            "Try again when the network is faster.",
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if cost is not None:
            cost.bytes += sum(one.bytes for one in spent)
            cost.requests += sum(one.requests for one in spent)
    return tuple(headers)


def _fetch_header(facts: RepoFacts, path: str, guess: int, token: str | None, cost: Fetched, budget: _Budget) -> bytes:
    size = facts.files[path]
    data = fetch_range(facts, path, 0, max(PREFIX, min(guess, size)), token, cost)
    end = header_end(data, size, path)
    budget.take(end, facts.ref.id)
    if end > len(data):
        data += fetch_range(facts, path, len(data), end - len(data), token, cost)
    return data[:end]


class _Budget:
    """Bytes that all headers of a model may take together; taken from by several threads."""

    def __init__(self, left: int) -> None:
        self._left = left
        self._lock = threading.Lock()

    def take(self, count: int, model_id: str) -> None:
        with self._lock:
            self._left -= count
            if self._left < 0:
                raise ModelUnsupported(
                    f"The safetensors headers of {model_id} take more than {gb(MAX_ALL)}; no more are read.",
                    "Check the repository: no published model has that many tensors.",
                )


def _too_many(where: str, most: int) -> ModelUnsupported:
    return ModelUnsupported(
        f"{shorten(where)} tells of more than {most:,} tensors; no more are read.",
        "Check the repository: no published model has that many.",
    )


def _broken(path: str, what: str) -> ModelUnsupported:
    return ModelUnsupported(f"{shorten(path)} is not what the safetensors format says: {what}.", _HINT)
