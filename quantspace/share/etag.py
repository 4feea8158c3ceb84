"""The ETag of what is served: the same content has the same tag, on every worker and after every restart."""

from __future__ import annotations

from hashlib import sha256


def etag(content: str | bytes) -> str:
    """A strong entity tag (RFC 9110, 8.8.3), quotes included."""
    data = content.encode() if isinstance(content, str) else content
    return f'"{sha256(data).hexdigest()[:32]}"'
