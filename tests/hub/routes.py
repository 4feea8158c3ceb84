"""Which answer belongs to which request. Nothing here knows of sockets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from . import accounts, descriptions, downloads, errors, uploads
from .accounts import Account
from .messages import Request, Response, Target, json_response, text_response
from .repos import Commit, Repo

PAGE = 1000  # entries of a listing, 50 of an expanded one (`_iter_repo_tree_pages`, huggingface_hub/hf_api.py)
PAGE_EXPANDED = 50
SORT_KEYS = {"lastModified": "lastModified", "createdAt": "createdAt", "likes": "likes"}
MANY_VALUED = ("expand", "expand[]")


@dataclass
class Catalogue:
    """What the Hub holds."""

    repos: dict[str, Repo] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)  # former id -> id
    accounts: dict[str, Account] = field(default_factory=dict)  # token -> user
    stored: dict[str, bytes] = field(default_factory=dict)  # SHA-256 -> what was uploaded to LFS
    gzip_text: bool = False


@dataclass(frozen=True)
class Call:
    """A request for something of a repository that this account may know of."""

    request: Request
    target: Target
    repo: Repo
    account: Account | None
    urls: Mapping[str, str]
    gzip_text: bool
    stored: dict[str, bytes]

    @property
    def commit(self) -> Commit:
        return _commit(self.repo, self.target.revision)


def answer(hub: Catalogue, request: Request, target: Target, urls: Mapping[str, str]) -> Response:
    """The Hub's answer, refusals included. `urls` are the addresses of the two origins."""
    try:
        if target.kind == "upload":
            return uploads.put(request, target, hub.stored)
        if request.origin == "cdn":
            return _storage(hub, request, target)
        return _page(hub, request, target, urls)
    except errors.HubError as error:
        return refusal(error, target)


def refusal(error: errors.HubError, target: Target) -> Response:
    """JSON from the API, plain text from `/resolve/`; the same message in `X-Error-Message`."""
    headers = {"X-Error-Message": " ".join(error.message.encode("ascii", "replace").decode().split())}
    if error.code:
        headers["X-Error-Code"] = error.code
    if error.commit:
        headers["X-Repo-Commit"] = error.commit
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="Authentication required", charset="UTF-8"'
    if target.kind in ("resolve", "resolve-cache"):
        return text_response(error.message, error.status, headers)
    response = json_response({"error": error.message}, error.status)
    response.headers |= headers
    return response


def _page(hub: Catalogue, request: Request, target: Target, urls: Mapping[str, str]) -> Response:
    account = hub.accounts.get(request.token) if request.token else None
    if request.token and account is None:
        raise errors.bad_token()
    if target.kind == "whoami":
        if account is None:
            raise errors.no_token()
        return json_response(account.whoami())
    if target.kind == "search":
        return _search(hub, request, account, urls)
    if target.kind in ABOUT_NO_REPO:
        return ABOUT_NO_REPO[target.kind](hub, request, account)
    if target.repo is None:
        raise errors.unknown_page()
    if target.repo in hub.renamed:
        return _renamed(request, target.repo, hub.renamed[target.repo])
    repo = accounts.check_visible(account, hub.repos.get(target.repo))
    return PAGES[target.kind](Call(request, target, repo, account, urls, hub.gzip_text, hub.stored))


def _commit(repo: Repo, revision: str) -> Commit:
    try:
        return repo.at(revision)
    except KeyError:
        raise errors.revision_not_found(revision) from None


def _renamed(request: Request, old: str, new: str) -> Response:
    """A repository that moved: the same URL under its new name, relative, method and body kept."""
    location = request.url.replace(f"/{quote(old)}", f"/{quote(new)}", 1)
    return text_response(f"Temporary Redirect. Redirecting to {location}", 307, {"Location": location})


def _storage(hub: Catalogue, request: Request, target: Target) -> Response:
    repo = hub.repos.get(target.repo or "")
    if repo is None or target.file is None:
        raise errors.unknown_page()
    commit = _commit(repo, target.revision)
    if target.file not in commit.files:
        raise errors.unknown_page()
    return downloads.stored(request, target, repo, commit)


def _expand(request: Request) -> list[str]:
    return [name for key in MANY_VALUED for value in request.query.get(key, ()) for name in value.split(",")]


def _search(hub: Catalogue, request: Request, account: Account | None, urls: Mapping[str, str]) -> Response:
    """`GET /api/models`: every word of `search` is in the id; most downloaded first."""
    query = {key: values[-1] for key, values in request.query.items()}
    words = query.get("search", "").lower().split()
    expand = _expand(request)
    found = []
    for repo in hub.repos.values():
        info = descriptions.model_info(repo, repo.head)
        wanted = (
            accounts.sees(account, repo)
            and all(word in repo.id.lower() for word in words)
            and query.get("author", repo.namespace or "") == (repo.namespace or "")
            and query.get("pipeline_tag") in (None, info.get("pipeline_tag"))
            and set(request.query.get("filter", ())) <= set(info["tags"])
            and query.get("gated") in (None, "true" if repo.gated else "false")
        )
        if wanted:
            found.append((repo, info))
    key = SORT_KEYS.get(query.get("sort", ""), "downloads")
    found.sort(key=lambda pair: pair[1][key], reverse=query.get("direction") != "1")
    fields = descriptions.LISTED_IN_FULL if request.flag("full") else descriptions.LISTED
    fields += ("config",) if request.flag("config") else ()
    entries = [
        descriptions.model_info(repo, repo.head, expand=expand)
        if expand
        else {name: info[name] for name in fields if name in info}
        for repo, info in found
    ]
    return _paged(entries, request, urls, PAGE)


def _info(call: Call) -> Response:
    info = descriptions.model_info(
        call.repo, call.commit, blobs=call.request.flag("blobs"), expand=_expand(call.request)
    )
    if call.request.flag("securityStatus"):
        info["securityRepoStatus"] = {"scansDone": True, "filesWithIssues": []}
    return json_response(info)


def _tree(call: Call) -> Response:
    folder, expand = call.target.file, call.request.flag("expand")
    entries = descriptions.tree(call.commit, folder, recursive=call.request.flag("recursive"), expand=expand)
    if entries is None:
        raise errors.folder_not_found(folder or "", call.target.revision, call.commit.sha)
    return _paged(entries, call.request, call.urls, PAGE_EXPANDED if expand else PAGE)


def _paths_info(call: Call) -> Response:
    """`POST /api/models/{id}/paths-info/{revision}`: what does not exist is left out."""
    commit, expand = call.commit, call.request.flag("expand")
    folders = commit.folders()
    entries = []
    for path in (p.strip("/") for p in call.request.form.get("paths", ())):
        if path in commit.files:
            entries.append(descriptions.tree_file(commit, path, expand=expand))
        elif path in folders:
            entries.append(descriptions.tree_folder(commit, path, expand=expand))
    return json_response(entries)


def _refs(call: Call) -> Response:
    return json_response(descriptions.refs(call.repo))


def _commits(call: Call) -> Response:
    history = call.repo.history(call.commit.sha)
    entries = [descriptions.commit_entry(call.repo, commit) for commit in history]
    return _paged(entries, call.request, call.urls, PAGE_EXPANDED)


def _auth_check(call: Call) -> Response:
    accounts.check_files_open(call.account, call.repo)
    return text_response("OK")


def _file(call: Call) -> Response:
    accounts.check_files_open(call.account, call.repo)
    if call.target.file not in call.commit.files:
        raise errors.entry_not_found(call.commit.sha)
    return downloads.resolve(
        call.request, call.target, call.repo, call.commit, cdn=call.urls["cdn"], gzip_text=call.gzip_text
    )


ABOUT_NO_REPO: dict[str, Callable[[Catalogue, Request, Account | None], Response]] = {
    "create": lambda hub, request, account: uploads.create(hub.repos, request, account),
    "delete": lambda hub, request, account: uploads.delete(hub.repos, request, account),
    "validate-yaml": lambda hub, request, account: uploads.validate_yaml(request),
}
PAGES: dict[str, Callable[[Call], Response]] = {
    "info": _info,
    "tree": _tree,
    "paths-info": _paths_info,
    "refs": _refs,
    "commits": _commits,
    "auth-check": _auth_check,
    "resolve": _file,
    "resolve-cache": _file,
    "preupload": lambda call: uploads.preupload(call.request, call.target, call.repo, call.account),
    "commit": lambda call: uploads.commit(call.request, call.target, call.repo, call.account, call.stored),
    "lfs-batch": lambda call: uploads.lfs_batch(call.request, call.repo, call.account, call.stored, call.urls["cdn"]),
}


def _paged(entries: list[Any], request: Request, urls: Mapping[str, str], page: int) -> Response:
    """One page of a listing, and in `Link` the URL of the next (huggingface_hub/utils/_pagination.py)."""
    limit, start = min(page, _number(request, "limit", page)), _number(request, "cursor", 0)
    response = json_response(entries[start : start + limit])
    if start + limit < len(entries):
        query = [pair for pair in parse_qsl(request.url.partition("?")[2]) if pair[0] != "cursor"]
        following = f"{urls['hub']}{request.path}?{urlencode([*query, ('cursor', str(start + limit))])}"
        response.headers["Link"] = f'<{following}>; rel="next"'
    return response


def _number(request: Request, name: str, default: int) -> int:
    text = request.query.get(name, [str(default)])[-1]
    if not text.isdecimal():
        raise errors.not_a_number(name)
    return int(text)
