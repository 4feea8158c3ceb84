"""Requests and answers as values, and what a URL of the Hub asks for.

Paths are taken apart before they are unquoted: a revision comes as `refs%2Fpr%2F1` and a folder as `a%2Fb`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from .files import BytesFile, HubFile

Origin = Literal["hub", "cdn"]
Kind = Literal[
    "info", "tree", "paths-info", "refs", "commits", "auth-check", "resolve", "resolve-cache", "cdn", "search",
    "whoami", "create", "delete", "validate-yaml", "preupload", "commit", "lfs-batch", "upload", "other",
]  # fmt: skip
NOTHING = BytesFile(b"")
VERBS = {"revision": "info"} | {
    v: v for v in ("tree", "paths-info", "refs", "commits", "auth-check", "preupload", "commit")
}
ACCOUNTS: dict[str, Kind] = {
    "/api/whoami-v2": "whoami",
    "/api/repos/create": "create",
    "/api/repos/delete": "delete",
    "/api/validate-yaml": "validate-yaml",
    "/api/models": "search",
}  # addresses that are about no repository
LFS_BATCH = (".git", "/info/lfs/objects/batch")


@dataclass(frozen=True)
class Target:
    """What a URL asks for."""

    kind: Kind
    repo: str | None = None
    revision: str = "main"
    file: str | None = None  # path in the repository: a file, or the folder of a tree


@dataclass(frozen=True)
class Request:
    method: str
    url: str  # path and query, as sent
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    origin: Origin

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.url).query, keep_blank_values=True)

    @property
    def form(self) -> dict[str, list[str]]:
        """The body's fields, from a form or from JSON."""
        if "json" in self.headers.get("content-type", ""):
            values = json.loads(self.body)
            return {k: v if isinstance(v, list) else [str(v)] for k, v in values.items()}
        return parse_qs(self.body.decode())

    @property
    def token(self) -> str | None:
        return self.headers.get("authorization", "").removeprefix("Bearer ").strip() or None

    def flag(self, name: str) -> bool:
        """A Boolean in the query or the form, as httpx (`true`) or a person (`True`, `1`) writes it."""
        values = self.form if self.method == "POST" else self.query
        return values.get(name, [""])[-1].lower() in ("true", "1")


@dataclass
class Response:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    file: HubFile = NOTHING
    start: int = 0  # bytes [start, stop) of `file` are the body
    stop: int | None = None  # None: to the end
    chunked: bool = False  # sent without Content-Length

    @property
    def length(self) -> int:
        return (self.file.size if self.stop is None else self.stop) - self.start


def json_response(value: Any, status: int = 200, **headers: str) -> Response:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    body = BytesFile(json.dumps(value).encode())
    return Response(status, {"Content-Type": "application/json; charset=utf-8", **named}, body)


def text_response(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, {"Content-Type": "text/plain; charset=utf-8", **(headers or {})}, BytesFile(text.encode()))


def parse_target(origin: Origin, path: str) -> Target:
    """What the path of a URL asks for, with repository ids of one part (`gpt2`) or two (`org/name`)."""
    segments = [segment for segment in path.split("/") if segment]
    if origin == "cdn" and segments[:1] == ["upload"]:
        return Target("upload", file=segments[-1])
    if origin == "cdn":
        return _file_target("cdn", segments, segments.index("blob") if "blob" in segments else 0)
    if path.rstrip("/") in ACCOUNTS:
        return Target(ACCOUNTS[path.rstrip("/")])
    if path.endswith("".join(LFS_BATCH)):
        return Target("lfs-batch", unquote(path.removesuffix("".join(LFS_BATCH)).strip("/")))
    if segments[:2] == ["api", "models"]:
        return _api_target(segments[2:])
    if segments[:3] == ["api", "resolve-cache", "models"]:
        rest = segments[3:]
        at = 1 if len(rest) > 1 and _is_sha(rest[1]) else 2
        return _file_target("resolve-cache", [*rest[:at], "at", *rest[at:]], at)
    for at in (1, 2):
        if segments[at : at + 1] == ["resolve"]:
            return _file_target("resolve", segments, at)
    return Target("other")


def _api_target(rest: list[str]) -> Target:
    at = next((i for i in (1, 2) if rest[i : i + 1] and rest[i] in VERBS), len(rest))
    repo, kind = unquote("/".join(rest[:at])), VERBS[rest[at]] if at < len(rest) else "info"
    if at > 2:
        return Target("other")
    revision = unquote(rest[at + 1]) if len(rest) > at + 1 else "main"
    return Target(kind, repo, revision, unquote("/".join(rest[at + 2 :])) or None)


def _file_target(kind: Kind, segments: list[str], verb: int) -> Target:
    repo, rest = unquote("/".join(segments[:verb])), segments[verb + 1 :]
    if verb == 0 or len(rest) < 2:
        return Target("other")
    width = 3 if rest[0] == "refs" and len(rest) > 3 else 1  # refs/pr/1, unquoted
    return Target(kind, repo, unquote("/".join(rest[:width])), unquote("/".join(rest[width:])))


def _is_sha(segment: str) -> bool:
    return len(segment) == 40 and set(segment) <= set("0123456789abcdef")
