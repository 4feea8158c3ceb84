"""HTTP answers: statuses of errors, tags of contents, and how long they may be kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from huggingface_hub import get_token
from starlette.requests import Request
from starlette.responses import Response

from .. import errors
from ..settings import settings
from ..share.etag import etag

JSON = "application/json"
PRIVATE = "private, no-store"
TRANSIENT = "no-store"
RETRY_SECONDS = 30


class Busy(errors.QuantSpaceError):
    """More was asked at once than this machine answers."""

    code = "busy"


class NoSuchRoute(errors.QuantSpaceError):
    """Nothing is at that address, or it is not asked that way."""

    code = "no_such_route"


# The nearest class counts. 501 is left out on purpose: it says that the server lacks a method of HTTP, is taken
# for an outage by monitors, and may be tried again by clients; what can't be built here never will be.
STATUSES: Mapping[type[errors.QuantSpaceError], int] = {
    errors.BadInput: 400,
    errors.UnknownGpu: 404,
    errors.ModelNotFound: 404,
    NoSuchRoute: 404,
    errors.ModelDisabled: 403,
    errors.ModelGated: 403,
    errors.NotSignedIn: 401,
    errors.TokenRefused: 401,
    errors.ModelUnsupported: 422,
    errors.LoadFailed: 422,
    errors.RateLimited: 429,
    errors.ModelUnavailable: 502,
    errors.HubUnreachable: 503,  # no connection at all: it may come back
    errors.HubTimedOut: 504,
    errors.HubDown: 502,  # something came back, and it was not an answer
    errors.RedirectLoop: 502,
    errors.BodyBrokeOff: 502,
    errors.GarbledAnswer: 502,
    Busy: 503,
    errors.QuantSpaceError: 500,
}


def status_of(error: errors.QuantSpaceError) -> int:
    """The HTTP status that fits an error."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def unexpected() -> errors.QuantSpaceError:
    """What is told of a mistake of our own; the log has what it was."""
    return errors.QuantSpaceError("Something went wrong here that should not.", "Try again, or ask otherwise.")


def as_json(data: Any) -> bytes:
    """Compact JSON, the same bytes for the same data."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


@lru_cache(maxsize=1)
def open_to_all() -> bool:
    """Whether pages of any site may read the answers.

    Where the machine's own login reads the Hub, a page on the web could learn of private models through the
    browser of whoever runs this app; then only pages of that very machine may.
    """
    return settings().on_space or not get_token()


def tag_of(body: bytes) -> str:
    """The entity tag of a body: weak, since it stays the same when the body is compressed on its way."""
    return f"W/{etag(body)}"


def kept(request: Request, body: bytes, media_type: str, max_age: int, **headers: str) -> Response:
    """An answer that anybody may keep for `max_age` seconds: 304 without a body where it is known already."""
    tag = tag_of(body)
    headers |= {
        "ETag": tag,
        "Cache-Control": f"public, max-age={max_age}, stale-while-revalidate={10 * max_age}",
        "Vary": "X-HF-Token" if open_to_all() else "X-HF-Token, Origin",
        "X-Content-Type-Options": "nosniff",
    }
    if open_to_all():  # also where no page asks: a browser may hand the same copy to one later
        headers["Access-Control-Allow-Origin"] = "*"
    if _knows(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers)


def private(body: bytes) -> Response:
    """An answer for whoever sent a token, and nobody else; kept nowhere."""
    return Response(body, media_type=JSON, headers={"Cache-Control": PRIVATE, "X-Content-Type-Options": "nosniff"})


def failed(error: errors.QuantSpaceError, is_private: bool = False, status: int | None = None) -> Response:
    """An error as JSON with the status that fits; kept nowhere, for it may be over in a moment."""
    status = status or status_of(error)
    headers = {"Cache-Control": PRIVATE if is_private else TRANSIENT, "X-Content-Type-Options": "nosniff"}
    if status == 401:
        headers["WWW-Authenticate"] = "X-HF-Token"
    if status in (429, 503):
        headers["Retry-After"] = str(RETRY_SECONDS)
    return Response(as_json({"error": error.as_data()}), status, headers, JSON)


def _knows(request: Request, tag: str) -> bool:
    """Whether the caller holds this content already (RFC 9110, 13.1.2: tags are compared weakly)."""
    held = request.headers.get("if-none-match", "")
    opaque = tag.removeprefix("W/")
    return held.strip() == "*" or opaque in (one.strip().removeprefix("W/") for one in held.split(","))
