"""How the Hub takes files: a repository is created, told which files go to Git LFS, given those, and committed to.

What the client sends is in `create_repo` (huggingface_hub/hf_api.py), `_fetch_upload_modes`, `_send_commit`
(huggingface_hub/_commit_api.py) and `post_lfs_batch_info` (huggingface_hub/lfs.py). No Xet: the client then takes
the LFS path.
"""

import base64
import json
from typing import Any

from . import errors
from .accounts import Account, sees
from .files import LFS_FROM, LFS_SUFFIXES, BytesFile, HubFile
from .messages import Request, Response, Target, json_response, text_response
from .repos import Repo


def create(repos: dict[str, Repo], request: Request, account: Account | None) -> Response:
    """`POST /api/repos/create`."""
    repo_id, asked = _named(request, account)
    if repo_id in repos:
        raise errors.repo_exists(repo_id)
    repo = Repo(repo_id, private=asked.get("visibility") == "private")
    repo.commit({".gitattributes": BytesFile(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")})
    repos[repo_id] = repo
    return json_response({"url": f"/{repo_id}", "name": repo_id, "id": repo_id.encode().hex()[:24]})


def delete(repos: dict[str, Repo], request: Request, account: Account | None) -> Response:
    """`DELETE /api/repos/delete`."""
    repo_id, _ = _named(request, account)
    if repos.pop(repo_id, None) is None:
        raise errors.repo_not_found(signed_in=True)
    return text_response("OK")


def validate_yaml(request: Request) -> Response:
    """`POST /api/validate-yaml`: that there is a header at all is checked, no more."""
    content = json.loads(request.body)["content"]
    if not content.startswith("---\n"):
        return json_response({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    return json_response({"errors": [], "warnings": []})


def preupload(request: Request, target: Target, repo: Repo, account: Account | None) -> Response:
    """`POST /api/models/{id}/preupload/{revision}`: which files go to LFS, by suffix or size."""
    _check_writes(account, repo)
    entries = []
    for file in json.loads(request.body)["files"]:
        lfs = file["size"] > LFS_FROM or any(file["path"].endswith(suffix) for suffix in LFS_SUFFIXES)
        entries.append(
            {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": None}
        )
    return json_response({"files": entries})


def lfs_batch(request: Request, repo: Repo, account: Account | None, stored: dict[str, bytes], cdn: str) -> Response:
    """`POST /{id}.git/info/lfs/objects/batch`: where to put each object; nothing for those that are there."""
    _check_writes(account, repo)
    objects = []
    for entry in json.loads(request.body)["objects"]:
        if entry["oid"] not in stored:
            entry |= {"actions": {"upload": {"href": f"{cdn}/upload/{entry['oid']}"}}}
        objects.append(entry)
    return json_response({"transfer": "basic", "objects": objects})


def put(request: Request, target: Target, stored: dict[str, bytes]) -> Response:
    """`PUT` to the storage: refused where the bytes are not those that were announced."""
    oid = target.file or ""
    if BytesFile(request.body).sha256 != oid:
        return text_response("BadDigest", 400)
    stored[oid] = request.body
    return text_response("")


def commit(request: Request, target: Target, repo: Repo, account: Account | None, stored: dict[str, bytes]) -> Response:
    """`POST /api/models/{id}/commit/{revision}`: lines of JSON, the first of them the message."""
    _check_writes(account, repo)
    lines = [json.loads(line) for line in request.body.splitlines()]
    files: dict[str, HubFile] = dict(repo.at(target.revision).files)
    title = ""
    for line in lines:
        value = line["value"]
        if line["key"] == "header":
            title = value["summary"]
        elif line["key"] == "file":
            files[value["path"]] = BytesFile(base64.b64decode(value["content"]))
        elif line["key"] == "lfsFile":
            files[value["path"]] = BytesFile(stored[value["oid"]])
    sha = repo.commit(files, branch=target.revision, title=title)
    return json_response({"success": True, "commitOid": sha, "commitUrl": f"/{repo.id}/commit/{sha}"})


def _named(request: Request, account: Account | None) -> tuple[str, dict[str, Any]]:
    """The repository that is meant, and all that was asked. Raises HubError where the account may not write there."""
    if account is None:
        raise errors.no_token()
    asked = json.loads(request.body)
    owner = asked.get("organization") or account.name
    if not account.may_write or owner not in (account.name, *account.orgs):
        raise errors.may_not_create(owner)
    return f"{owner}/{asked['name']}", asked


def _check_writes(account: Account | None, repo: Repo) -> None:
    if account is None or not sees(account, repo):
        raise errors.repo_not_found(signed_in=account is not None)
    if not account.may_write or not account.owns(repo):
        raise errors.may_not_write()
