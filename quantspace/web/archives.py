"""A kept copy as one file to download: an uncompressed tar, made while it is sent, so that it takes no disk.

Quantized weights do not compress. An address holds for the copies that its visitor was shown: it carries a pass that
this process alone can make, since a copy may be of a model that not everybody may read.
"""

from __future__ import annotations

import hmac
import secrets
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ..errors import BadInput
from ..runtime import kept
from .responses import PRIVATE, failed

PREFIX = "/kept/"
_PIECE = 1 << 20  # bytes
_BLOCK = tarfile.BLOCKSIZE
_SECRET = secrets.token_bytes(32)


def archive_routes() -> list[Route]:
    """Where copies are downloaded."""
    return [Route(PREFIX + "{key}.tar", _archive, methods=["GET"])]


def archive_url(key: str) -> str:
    """The address of a copy's archive, for whoever was shown the copy; relative to the page."""
    return f"{PREFIX.lstrip('/')}{quote(key)}.tar?pass={_pass(key)}"


def archive_bytes(files: dict[str, int]) -> int:
    """Bytes of the archive of files of these sizes."""
    return sum(_BLOCK + _padded(size) for size in files.values()) + 2 * _BLOCK


async def _archive(request: Request) -> Response:
    key = request.path_params["key"]
    try:
        if not hmac.compare_digest(request.query_params.get("pass", "").encode(), _pass(key).encode()):
            raise BadInput("This address of a copy does not hold any more.", "Look at the list of copies again.")
        copy = await run_in_threadpool(kept.named, key)
    except BadInput as error:
        return failed(error, is_private=True)
    files = {name: copy.folder / name for name in copy.manifest.files}
    headers = {
        "Content-Length": str(archive_bytes(copy.manifest.files)),
        "Content-Disposition": f'attachment; filename="{key}.tar"',
        "Content-Encoding": "identity",  # or it would be compressed on its way, in vain
        "Cache-Control": PRIVATE,
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(_pieces(key, files, copy.manifest.files), headers=headers, media_type="application/x-tar")


def _pieces(key: str, files: dict[str, Path], sizes: dict[str, int]) -> Iterator[bytes]:
    for name, path in files.items():
        member = tarfile.TarInfo(f"{key}/{name}")
        member.size, member.mtime, member.mode = sizes[name], path.stat().st_mtime, 0o644
        yield member.tobuf(tarfile.GNU_FORMAT)
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
        yield bytes(_padded(sizes[name]) - sizes[name])
    yield bytes(2 * _BLOCK)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _pass(key: str) -> str:
    return hmac.new(_SECRET, key.encode(), sha256).hexdigest()
