"""Files of the Hub's cache whose bytes are no longer those that were fetched: found by their names, and removed.

The cache names a file after what the Hub calls it: the SHA-256 of a file in Git LFS, the SHA-1 of a Git blob
(`git hash-object`). A disk that failed, or a machine that stopped while it wrote, is seen so.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_BLOBS = "blobs"
_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


def remove_broken(folder: Path) -> tuple[str, ...]:
    """Remove the broken files of a downloaded commit, so that the next load fetches them anew; gives their names.

    All files are read whole: it is for when a load has failed.

    Args:
        folder: of the commit, as `download` gave it; in any other, nothing is found.
    """
    removed = []
    for link in sorted(folder.iterdir()) if folder.is_dir() else ():
        blob = link.resolve()
        if blob.parent.name == _BLOBS and blob.is_file() and not _is_whole(blob):
            blob.unlink(missing_ok=True)
            link.unlink(missing_ok=True)
            removed.append(link.name)
    return tuple(removed)


def _is_whole(blob: Path) -> bool:
    if _SHA256.fullmatch(blob.name):
        digest = hashlib.sha256()
    elif _SHA1.fullmatch(blob.name):
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
    else:  # another hub's names say nothing of the bytes
        return True
    with blob.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest() == blob.name
