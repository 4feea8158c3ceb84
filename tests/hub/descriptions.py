"""The JSON in which the Hub describes models, files, commits and refs.

Field names are those that `ModelInfo`, `RepoSibling`, `RepoFile`, `RepoFolder` and `GitCommitInfo` read
(huggingface_hub/hf_api.py).
"""

import hashlib
import json
import struct
from collections.abc import Collection
from datetime import datetime
from functools import lru_cache
from math import prod
from typing import Any

from .files import HubFile, is_lfs
from .repos import Commit, Repo

LISTED = ("_id", "id", "modelId", "likes", "downloads", "private", "tags", "pipeline_tag", "library_name", "createdAt")
LISTED_IN_FULL = (*LISTED, "author", "sha", "lastModified", "gated", "disabled", "siblings")
CONFIG_SUMMARY = {"architectures": list, "model_type": str, "auto_map": dict, "quantization_config": dict}
HEADER_LIMIT = 25_000_000  # bytes, SAFETENSORS_MAX_HEADER_LENGTH of huggingface_hub/constants.py


def timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def model_info(repo: Repo, commit: Commit, *, blobs: bool = False, expand: Collection[str] = ()) -> dict[str, Any]:
    """`GET /api/models/{id}`: everything, or with `expand` the properties asked for."""
    config = config_summary(commit)
    formats = {path.rsplit(".", 1)[-1] for path in commit.files} & {"safetensors", "gguf"}
    said = repo.info.get
    tags = [*said("tags", ()), said("library_name"), *sorted(formats), config.get("model_type"), said("pipeline_tag")]
    info = {
        "_id": hashlib.sha1(repo.id.encode()).hexdigest()[:24],
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.namespace,
        "sha": commit.sha,
        "lastModified": timestamp(commit.date),
        "createdAt": timestamp(repo.commits[0].date),
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "config": config,
        "siblings": [sibling(path, file, blobs=blobs) for path, file in sorted(commit.files.items())],
        "spaces": [],
        "usedStorage": sum(file.size for path, file in commit.files.items() if is_lfs(path, file)),
        "safetensors": safetensors_counts(commit) if "safetensors" not in repo.info else None,
        **repo.info,
        "tags": list(dict.fromkeys([*filter(None, tags), "region:us"])),
    }
    wanted = ("_id", "id", *expand) if expand else info
    return {key: info[key] for key in wanted if info.get(key) is not None}  # what it does not know it leaves out


def sibling(path: str, file: HubFile, *, blobs: bool) -> dict[str, Any]:
    """One file of a model's `siblings`; sizes and hashes with `blobs` alone."""
    if not blobs:
        return {"rfilename": path}
    entry: dict[str, Any] = {"rfilename": path, "blobId": blob_id(path, file), "size": file.size}
    if is_lfs(path, file):
        entry["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.lfs_pointer)}
    return entry


def tree_file(commit: Commit, path: str, *, expand: bool = False) -> dict[str, Any]:
    """One file of a tree. No `xetHash`: the client then takes the plain HTTP path."""
    file = commit.files[path]
    entry: dict[str, Any] = {"type": "file", "oid": blob_id(path, file), "size": file.size, "path": path}
    if is_lfs(path, file):
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.lfs_pointer)}
    if expand:
        entry["lastCommit"] = _last_commit(commit)
        entry["securityFileStatus"] = {"status": "safe", "avScan": None, "pickleImportScan": None}
    return entry


def tree_folder(commit: Commit, path: str, *, expand: bool = False) -> dict[str, Any]:
    oid = hashlib.sha1(f"{commit.sha}/{path}".encode()).hexdigest()
    entry: dict[str, Any] = {"type": "directory", "oid": oid, "size": 0, "path": path}
    return entry | ({"lastCommit": _last_commit(commit)} if expand else {})


def tree(commit: Commit, under: str | None, *, recursive: bool, expand: bool) -> list[dict[str, Any]] | None:
    """Folders, then files, below `under`; None where there is no such folder."""
    folders = commit.folders()
    if under and under not in folders:
        return None
    prefix = f"{under}/" if under else ""

    def within(path: str) -> bool:
        return path.startswith(prefix) and (recursive or "/" not in path[len(prefix) :])

    return [tree_folder(commit, path, expand=expand) for path in folders if within(path)] + [
        tree_file(commit, path, expand=expand) for path in sorted(commit.files) if within(path)
    ]


def refs(repo: Repo) -> dict[str, Any]:
    """`GET /api/models/{id}/refs`."""

    def named(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in names.items()]

    return {
        "tags": named("tags", repo.tags),
        "branches": named("heads", repo.branches),
        "converts": [],
        "pullRequests": [],
    }


def commit_entry(repo: Repo, commit: Commit) -> dict[str, Any]:
    author = {"user": repo.namespace or "hub"}
    return {"id": commit.sha, "title": commit.title, "message": "", "authors": [author], "date": timestamp(commit.date)}


def blob_id(path: str, file: HubFile) -> str:
    """The Git object's name: of the file, or of the pointer that stands for it."""
    if not is_lfs(path, file):
        return file.git_oid
    return hashlib.sha1(b"blob %d\0" % len(file.lfs_pointer) + file.lfs_pointer).hexdigest()


def config_summary(commit: Commit) -> dict[str, Any]:
    """The few fields of config.json that the Hub repeats, each of them flat and of the type it should have."""
    config = _json_object(commit.files.get("config.json"))
    summary = {key: config[key] for key, kind in CONFIG_SUMMARY.items() if isinstance(config.get(key), kind)}
    for key, value in summary.items():
        if isinstance(value, dict):
            summary[key] = {name: v for name, v in value.items() if isinstance(v, str | int | float)}
        elif isinstance(value, list):
            summary[key] = [v for v in value if isinstance(v, str)]
    return summary


@lru_cache(maxsize=1024)
def safetensors_counts(commit: Commit) -> dict[str, Any] | None:
    """Parameters by dtype, from the headers of `model.safetensors` or of the shards that the index names.

    None where there are no such files, or where they do not read: a test may well serve broken ones.
    """
    counts: dict[str, int] = {}
    try:
        index = _json_object(commit.files.get("model.safetensors.index.json"))
        for shard in sorted(set(index.get("weight_map", {}).values())) or ["model.safetensors"]:
            for name, tensor in _safetensors_header(commit.files[shard]).items():
                if name != "__metadata__":
                    counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + prod(map(int, tensor["shape"]))
    except (KeyError, TypeError, ValueError, AttributeError, struct.error):
        return None
    return {"parameters": counts, "total": sum(counts.values())} if counts else None


def _safetensors_header(file: HubFile) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", file.read(0, 8))
    return _json_object(file, 8, 8 + length)


def _json_object(file: HubFile | None, start: int = 0, stop: int | None = None) -> dict[str, Any]:
    """A JSON object that a file holds, or nothing where it is missing, huge or broken."""
    if file is None:
        return {}
    stop = file.size if stop is None else min(stop, file.size)
    if stop - start > HEADER_LIMIT:
        return {}
    try:
        value = json.loads(file.read(start, stop), parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _last_commit(commit: Commit) -> dict[str, str]:
    return {"id": commit.sha, "title": commit.title, "date": timestamp(commit.date)}
