"""Which of a repository's safetensors files hold its model once: copies lie beside it under many names.

What is known of names: transformers reads `model.safetensors`, else the files of `model.safetensors.index.json`
(`transformers/modeling_utils.py`, `_get_resolved_checkpoint_files`); diffusers has a folder for each part of a
pipeline, and variants such as `diffusion_pytorch_model.fp16.safetensors` (`diffusers/utils/hub_utils.py`,
`_add_variant`); Meta and Mistral put their own format beside it (`original/`, `consolidated.safetensors`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SUFFIX = ".safetensors"
INDEX = ".safetensors.index.json"
PIPELINE = "model_index.json"  # of diffusers

_VARIANT = r"(?:fp|bf|int|float|bfloat)\d+\w*|(?:non_)?ema(?:only)?"
_NAME = re.compile(
    rf"(?P<family>.+?)(?:\.(?P<before>{_VARIANT}))?(?P<shard>-\d+-of-\d+)?(?:\.(?P<after>{_VARIANT}))?"
    r"(?P<suffix>\.safetensors)(?P<index>\.index(?:\.(?P<last>\w+))?\.json)?"
)
_FIRST = ("model", "diffusion_pytorch_model", "pytorch_model")  # what libraries look for by itself
_OTHER_FORMATS = ("consolidated", "adapter_model")  # of the same weights, or of a part of them
_COPIES = ("original", "consolidated", "onnx", "openvino", "mlx", "gguf")  # folders


def weight_bytes(files: Mapping[str, int]) -> int:
    """Bytes of the files that hold a model once; where an index stands for files, of all those it may name."""
    parsed = [file for file in map(_parsed, files) if file]
    by_path = {file.path: file for file in parsed}
    shards: Counter[_Family] = Counter()
    whole: Counter[str] = Counter()
    for file in parsed:
        if file.kind == "shard":
            shards[file.of] += files[file.path]
        elif file.kind == "whole":
            whole[file.folder] += files[file.path]
    chosen = [by_path[path] for path in weight_files(files)]
    return sum(
        files[file.path] if file.kind != "index" else shards[file.of] if file.of in shards else whole[file.folder]
        for file in chosen
    )


_Family = tuple[str, str, str]  # folder, family, variant


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    folder: str
    family: str
    variant: str
    kind: str  # "whole", "index" or "shard"

    @property
    def of(self) -> _Family:
        """What an index and its shards have in common."""
        return self.folder, self.family, self.variant


def weight_files(files: Mapping[str, int], paths: Iterable[str] | None = None) -> tuple[str, ...]:
    """Paths that hold a model once; an index stands for the files it names.

    Args:
        files: of the repository, path → size.
        paths: of weights to choose from, in all their folders; all of the repository without it, where what
            lies in folders counts only for a pipeline of diffusers or where nothing else is there.

    Example:
        >>> weight_files({"model.safetensors": 8, "consolidated.safetensors": 8})
        ('model.safetensors',)
    """
    found = [file for file in map(_parsed, files) if file]
    if paths is not None:
        found = _asked_for(found, set(paths))
    folders: dict[str, list[_File]] = {}
    for file in found:
        folders.setdefault(file.folder, []).append(file)
    if paths is None:
        folders = _folders_that_count(folders, PIPELINE in files)
    return tuple(file.path for members in folders.values() for file in _one_copy(members))


def _parsed(path: str) -> _File | None:
    folder, _, name = path.rpartition("/")
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    kind = "index" if match["index"] else "shard" if match["shard"] else "whole"
    return _File(path, folder, match["family"], match["before"] or match["after"] or match["last"] or "", kind)


def _asked_for(files: Iterable[_File], wanted: set[str]) -> list[_File]:
    """Of files those that were asked for; an index where one of its family's shards was."""
    shards = {other.of for other in map(_parsed, wanted) if other and other.kind == "shard"}
    return [file for file in files if (file.of in shards if file.kind == "index" else file.path in wanted)]


def _folders_that_count(folders: dict[str, list[_File]], pipeline: bool) -> dict[str, list[_File]]:
    inside = {folder: found for folder, found in folders.items() if folder}
    if folders.get("") and not (pipeline and inside):
        return {"": folders[""]}
    first = {folder: found for folder, found in inside.items() if folder.split("/")[0] not in _COPIES}
    return first or inside


def _one_copy(files: list[_File]) -> list[_File]:
    """Of the files of one folder those that hold each of its models once."""
    families: dict[str, list[_File]] = {}
    for file in files:
        families.setdefault(file.family, []).append(file)
    if (first := next((name for name in _FIRST if name in families), None)) is not None:
        families = {first: families[first]}
    elif others := {name: found for name, found in families.items() if name not in _OTHER_FORMATS}:
        families = others
    return [file for found in families.values() for file in _one_variant(found)]


def _one_variant(files: list[_File]) -> list[_File]:
    """The copy without a variant, else the first by name; whole, else by its index, else all shards."""
    variant = min(file.variant for file in files)
    of_kind: dict[str, list[_File]] = {}
    for file in files:
        if file.variant == variant:
            of_kind.setdefault(file.kind, []).append(file)
    return of_kind.get("whole") or of_kind.get("index") or of_kind["shard"]
