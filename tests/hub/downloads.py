"""How the Hub hands out files: which URL answers with the bytes, under which headers, and which part of them.

What the client reads of it is in `get_hf_file_metadata` and `http_get` (huggingface_hub/file_download.py):

* a file in Git: 307 to `/api/resolve-cache/models/{id}/{sha}/{path}?...` on the same host, which answers with the
  bytes; repositories that are private or gated answer at once, since that cache is public;
* a file in Git LFS: 302 to a signed URL on another origin, with `X-Linked-Size` and `X-Linked-Etag`. The storage
  behind it refuses an `Authorization` header, as S3 does.
"""

import gzip
import hashlib
import re
from urllib.parse import quote, urlencode

from .files import BytesFile, HubFile, is_lfs
from .messages import Request, Response, Target, text_response
from .repos import Commit, Repo

GZIPPED_FROM = 1000  # bytes


def resolve(request: Request, target: Target, repo: Repo, commit: Commit, *, cdn: str, gzip_text: bool) -> Response:
    """`GET /{id}/resolve/{revision}/{path}`: the file, or where it is."""
    path = target.file or ""
    file, tag = commit.files[path], commit.entity_tag(path)
    common = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    if is_lfs(path, file):
        location = cdn + signed(repo, commit, path)
        return _redirect(302, location, {**common, "X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{tag}"'})
    if target.kind == "resolve" and not (repo.private or repo.gated):
        asked = quote(request.path, safe="")
        query = f"{asked}=&" + urlencode({"etag": f'"{tag}"'})
        location = f"/api/resolve-cache/models/{repo.id}/{commit.sha}/{quote(path)}?{query}"
        return _redirect(307, location, {**common, "ETag": f'"{tag}"'})
    headers = {
        **common,
        "ETag": f'"{tag}"',
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Disposition": disposition(path),
    }
    if gzip_text and file.size >= GZIPPED_FROM and "gzip" in request.headers.get("accept-encoding", ""):
        packed = BytesFile(gzip.compress(file.read(0, file.size), mtime=0))
        return Response(200, {**headers, "Content-Encoding": "gzip"}, packed, chunked=True)
    return file_response(request, file, headers)


def stored(request: Request, target: Target, repo: Repo, commit: Commit) -> Response:
    """The storage behind a signed URL."""
    if "authorization" in request.headers:
        return _storage_error(400, "InvalidArgument", "Only one auth mechanism allowed")
    if request.query.get("Signature") != [_signature(repo, commit, target.file or "")]:
        return _storage_error(403, "AccessDenied", "Access denied")
    path = target.file or ""
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": f'"{hashlib.md5(commit.files[path].sha256.encode()).hexdigest()}"',
        "Content-Type": "application/octet-stream",
        "Content-Disposition": disposition(path),
    }
    return file_response(request, commit.files[path], headers)


def file_response(request: Request, file: HubFile, headers: dict[str, str]) -> Response:
    """The whole file, or the one range asked for; a header that is no single range is passed over (RFC 9110, 14.2)."""
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", "").replace(" ", ""))
    if asked is None or asked.groups() == ("", ""):
        return Response(200, headers, file)
    first, last = asked.groups()
    if first == "":
        start, stop = max(0, file.size - int(last)), file.size
    else:
        start, stop = int(first), min(int(last) + 1, file.size) if last else file.size
    if start >= stop:
        return text_response("", 416, {"Content-Range": f"bytes */{file.size}"})
    return Response(206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{file.size}"}, file, start, stop)


def signed(repo: Repo, commit: Commit, path: str) -> str:
    """The path and query of a storage URL. The signature stands for the whole of it."""
    query = urlencode({"Expires": "1893456000", "Signature": _signature(repo, commit, path)})
    return f"/{repo.id}/blob/{commit.sha}/{quote(path)}?{query}"


def disposition(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return f"inline; filename*=UTF-8''{quote(name)}; filename=\"{quote(name)}\";"


def _signature(repo: Repo, commit: Commit, path: str) -> str:
    return hashlib.sha256(f"{repo.id}\0{commit.sha}\0{path}".encode()).hexdigest()


def _redirect(status: int, location: str, headers: dict[str, str]) -> Response:
    reason = {302: "Found", 307: "Temporary Redirect"}[status]
    return text_response(f"{reason}. Redirecting to {location}", status, {**headers, "Location": location})


def _storage_error(status: int, code: str, message: str) -> Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return text_response(text, status, {"Content-Type": "application/xml"})
