"""The GGUF files of a repository: which of them are models, which are parts of one, and what they are called.

Their headers are read by `gguf_reader.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..errors import ModelNotFound, ModelUnsupported, shorten
from .client import RepoFacts
from .ggml_types import FILE_TYPES
from .gguf_header import GgufHeader, TensorInfo

Kind = Literal["model", "projector", "other"]

MAX_PARTS = 1000

_PART = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5})(?P<rest>-of-(?P<count>[0-9]{5})\.gguf)", re.IGNORECASE)
_PROJECTOR = re.compile(r"mmproj|vision[-_.]?(adapter|projector)", re.IGNORECASE)
_OTHER = re.compile(r"imatrix|(^|/)ggml-vocab", re.IGNORECASE)  # statistics for quantizing; vocabularies for tests
_LABEL = re.compile(
    r"(?<![a-z0-9])((?:UD-)?(?:I?Q\d_(?:K(?:_(?:XXS|XS|S|M|L|XL))?|XXS|XS|S|M|NL|XL|[01](?:_[48]_[48])?)"
    r"|TQ\d_0|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32))(?![a-z0-9])",
    re.IGNORECASE,
)
_NOT_MODELS = {
    "adapter": "an adapter (LoRA), which is applied to another model",
    "imatrix": "statistics for quantizing, not a model",
    "mmproj": "the vision or audio part of a model",
    "clip": "the vision or audio part of a model",
}


@dataclass(frozen=True, slots=True)
class GgufPaths:
    """A GGUF file of a repository, or all parts of a split one.

    Attributes:
        paths: of the parts, in their order.
        label: of its quantization by its name, such as `UD-Q4_K_XL`; empty where the name has none.
        size: bytes of all parts.
        kind: by its name: a model, its vision or audio part (`mmproj`), or neither.
    """

    paths: tuple[str, ...]
    label: str
    size: int
    kind: Kind = "model"

    @property
    def path(self) -> str:
        return self.paths[0]


def gguf_files(facts: RepoFacts) -> list[GgufPaths]:
    """The GGUF files of a repository, parts put together, the smallest first.

    Parts of which some are missing are kept, and so is a part beyond its own count, by itself: `all_parts` says so
    when they are to be read.
    """
    grouped: dict[tuple[str, ...], list[str]] = {}
    for path in sorted(facts.files):
        if path.lower().endswith(".gguf"):
            part = _PART.fullmatch(path)
            key = (part["stem"], part["rest"]) if part and _is_counted(part) else (path,)
            grouped.setdefault(key, []).append(path)
    found = [_paths(paths, facts) for paths in grouped.values()]
    return sorted(found, key=lambda file: (file.size, file.path))


def label_of(path: str) -> str:
    """`Q4_K_M` of `model-Q4_K_M.gguf`, as people write it; empty where a name has none."""
    found = _LABEL.findall(path.rpartition("/")[2]) or _LABEL.findall(path)
    label = found[-1].upper() if found else ""
    return {"FP16": "F16", "FP32": "F32"}.get(label, label)


def header_label(header: GgufHeader) -> str:
    """What a file without a label in its name is called: by `general.file_type`, else by its commonest type."""
    kind = header.metadata.get("general.file_type")
    if isinstance(kind, int) and kind in FILE_TYPES:
        return FILE_TYPES[kind]
    return commonest_type(header.tensors)


def commonest_type(tensors: Iterable[TensorInfo]) -> str:
    """The type of ggml in which most bytes are; empty where there are no tensors."""
    sums: dict[str, int] = {}
    for tensor in tensors:
        sums[tensor.type] = sums.get(tensor.type, 0) + tensor.bytes
    return max(sums, key=lambda kind: sums[kind], default="")


def not_a_model(header: GgufHeader) -> str:
    """What a file is that holds no language model, in words; empty where it holds one."""
    for key in ("general.type", "general.architecture"):
        found = header.metadata.get(key)
        if isinstance(found, str) and found in _NOT_MODELS:
            return _NOT_MODELS[found]
    return "" if header.tensors else "a vocabulary without tensors"


def all_parts(facts: RepoFacts, path: str) -> list[str]:
    """The paths of all parts of a split GGUF file, by the path of any; of another its own.

    Raises:
        ModelNotFound: the repository has no such file.
        ModelUnsupported: a part is missing, or the name is of a part that can't be.
    """
    if path not in facts.files:
        raise ModelNotFound(f"{facts.ref.id} has no file {shorten(path, 160)}.", "Check its name on the Hub.")
    part = _PART.fullmatch(path)
    if part is None:
        return [path]
    count = int(part["count"])
    if not _is_counted(part) or count > MAX_PARTS:
        raise ModelUnsupported(
            f"{shorten(path, 160)} is named as part {int(part['number']):,} of {count:,}, which can't be read.",
            f"Pick another file: parts are numbered from 1 to their count, which is {MAX_PARTS:,} at most.",
        )
    paths = [f"{part['stem']}-{number:05}{part['rest']}" for number in range(1, count + 1)]
    missing = [name for name in paths if name not in facts.files]
    if missing:
        raise ModelUnsupported(
            f"{shorten(path, 160)} is one of {count:,} parts, of which {len(missing):,} are not there.",
            "Pick another file, or try again when the upload is complete.",
        )
    return paths


def _is_counted(part: re.Match[str]) -> bool:
    """Whether a part's number is one of those that its count allows."""
    return 1 <= int(part["number"]) <= int(part["count"])


def _paths(paths: list[str], facts: RepoFacts) -> GgufPaths:
    name = paths[0]
    kind: Kind = "other" if _OTHER.search(name) else "projector" if _PROJECTOR.search(name) else "model"
    return GgufPaths(tuple(paths), label_of(name), sum(facts.files[path] for path in paths), kind)
