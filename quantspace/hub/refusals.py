"""What the Hub refuses, as a person would want to be told it: which refusal it is, and what to do.

Status, `X-Error-Code` and `X-Error-Message` of an answer tell (`hf_raise_for_status`, huggingface_hub/utils/_http.py).
Nothing of the library's own exceptions goes into ours: they carry the request, and with it the token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import parse_ratelimit_headers

from ..errors import (
    BodyBrokeOff,
    GarbledAnswer,
    HubDown,
    HubTimedOut,
    HubUnreachable,
    ModelDisabled,
    ModelGated,
    ModelNotFound,
    ModelUnavailable,
    ModelUnsupported,
    NotSignedIn,
    QuantSpaceError,
    RateLimited,
    TokenLacksScope,
    TokenMalformed,
    TokenRefused,
    shorten,
)
from .gated import gated
from .reference import ModelRef

NETWORK_ERRORS = (HTTPError, OSError)  # what huggingface_hub and the network under it raise
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]{1,4096}=*")  # RFC 6750, 2.1: what may stand after `Bearer`
_MOST_WAIT = 86_400  # s; a longer `Retry-After` is no advice


class _Asked(NamedTuple):
    """A question that was refused: of which model, and what the refusal says."""

    ref: ModelRef | None  # None: of the account behind a token
    said: str
    signed_in: bool
    status: int | str

    @property
    def what(self) -> str:
        return self.ref.id if self.ref else "the account behind a token"

    @property
    def page(self) -> str:
        return f"{constants.ENDPOINT}/{self.ref.id}" if self.ref else constants.ENDPOINT


def checked_token(token: str) -> str:
    """The token, if it can be one: a header is made of it, and what can't be sent would stand in an error.

    Raises:
        TokenMalformed: which says nothing of the token itself.
    """
    if not _TOKEN.fullmatch(token):
        raise TokenMalformed(
            "What was given as a token holds spaces, line breaks or signs that no token has; it was not sent.",
            f"Copy the token again, alone and whole: one word that begins with hf_, from {_tokens_page()}.",
        )
    return token


@contextmanager
def hub_errors(ref: ModelRef | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into errors with a next step, without a trace of the request."""
    try:
        yield
    except QuantSpaceError:
        raise
    except (*NETWORK_ERRORS, EntryNotFoundError, ValueError, TypeError) as error:
        told = refusal(ref, error)
        _empty(error)
        raise told from None


def refusal(ref: ModelRef | None, error: BaseException) -> QuantSpaceError:
    """What to tell of an error that huggingface_hub or the network raised.

    Args:
        ref: the model that was asked for; `None` where the question was about an account.
    """
    response = error.response if isinstance(error, HfHubHTTPError) else None
    if response is not None:
        said = f"{response.headers.get('X-Error-Message', '')} {getattr(error, 'server_message', None) or ''}"
        asked = _Asked(ref, said, "authorization" in response.request.headers, response.status_code)
        return _of_answer(asked, response.headers.get("X-Error-Code"), response.headers)
    return _of_network(_Asked(ref, "", False, ""), error)


def garbled(ref: ModelRef | None, what: str = "does not speak as the Hub does") -> GarbledAnswer:
    """An answer that is not what was asked for.

    Args:
        what: is wrong with it, to stand after “What answers at … for …”.
    """
    return GarbledAnswer(
        f"What answers at {constants.ENDPOINT} for {_Asked(ref, '', False, '').what} {what}.",
        "Check the network: a proxy or a sign-in page may stand between; then try again.",
    )


def timed_out(ref: ModelRef | None, seconds: float, what: str = "An answer") -> HubTimedOut:
    """Nothing, or not enough, came in time."""
    return HubTimedOut(
        f"{what} for {_Asked(ref, '', False, '').what} did not arrive within {seconds:g} s (Timeout).",
        f"Check the network and try again; {_status_page()} tells whether the Hub is slow.",
    )


def broke_off(ref: ModelRef | None) -> BodyBrokeOff:
    """The connection ended before the answer did."""
    return BodyBrokeOff(
        f"The answer for {_Asked(ref, '', False, '').what} broke off before its end.",
        "Check the network and try again.",
    )


def _of_answer(asked: _Asked, code: str | None, headers: object) -> QuantSpaceError:
    if code in _BY_CODE:
        return _BY_CODE[code](asked)
    if "resource is disabled" in asked.said:
        return _disabled(asked)
    if asked.status == 429:
        return _limited(headers)
    if asked.status in _BY_STATUS:
        return _BY_STATUS[asked.status](asked)
    kind = HubDown if isinstance(asked.status, int) and asked.status >= 500 else HubUnreachable
    return kind(
        f"The Hub answered the request for {asked.what} with {asked.status}.",
        f"Try again in a minute; {_status_page()} tells whether it is down.",
    )


def _gated(asked: _Asked) -> ModelGated:
    return gated(asked.what, asked.page, asked.said, asked.signed_in)


def _no_repository(asked: _Asked) -> ModelUnavailable:
    if asked.signed_in and asked.status == 401:
        return _refused_token(asked)
    if asked.signed_in:
        return ModelNotFound(
            f"There is no model {asked.what} on {constants.ENDPOINT}, or it is private and not for this token.",
            "Check the spelling, with the organisation before the slash; "
            "a private model needs a token of its owners that may read it.",
        )
    return ModelNotFound(
        f"There is no public model {asked.what} on {constants.ENDPOINT}.",
        "Check the spelling, with the organisation before the slash; if it is private, use a read token of its owners.",
    )


def _no_revision(asked: _Asked) -> ModelNotFound:
    revision = asked.ref.revision if asked.ref else "main"
    return ModelNotFound(
        f"{asked.what} has no revision “{shorten(revision)}”.", "Use main, or a branch, tag or commit of that model."
    )


def _no_file(asked: _Asked) -> ModelNotFound:
    return ModelNotFound(
        f"A file of {asked.what} that the Hub listed is not there.", "Try again; the repository may have just changed."
    )


def _refused_token(asked: _Asked) -> ModelUnavailable:
    if not asked.signed_in:
        return not_signed_in(asked.ref)
    which = f"the token that came with the request for {asked.what}" if asked.ref else "this token"
    return TokenRefused(
        f"The Hub refuses {which}: it is wrong, expired or revoked.",
        f"Use a new read token from {_tokens_page()}, or sign in anew where you did; a public model needs none.",
    )


def not_signed_in(ref: ModelRef | None) -> NotSignedIn:
    """No token was given where one is needed."""
    asked = _Asked(ref, "", False, 401)
    return NotSignedIn(
        f"The Hub tells of {asked.what} only to those who bring a token.",
        f"Use a read token from {_tokens_page()}.",
    )


def _forbidden(asked: _Asked) -> ModelUnavailable:
    if asked.signed_in:
        return TokenLacksScope(
            f"This token may not read {asked.what} (403).",
            f"Give it read access to that repository at {_tokens_page()}, or use a token of the type Read.",
        )
    return ModelUnavailable(
        f"The Hub, or what stands before it, forbids the request for {asked.what} (403).",
        "Use a read token; if it stays so, check the network for a proxy that blocks.",
    )


def _disabled(asked: _Asked) -> ModelDisabled:
    return ModelDisabled(
        f"{asked.what} is disabled on the Hub: nobody can read it now.",
        f"Pick another model; {asked.page} may say why.",
    )


def _ends_before(asked: _Asked) -> ModelUnsupported:
    return ModelUnsupported(
        f"A file of {asked.what} ends before the part that its own header or index points to.",
        "The repository may be broken; try another revision.",
    )


def _limited(headers: object) -> RateLimited:
    seconds = _wait(headers)
    return RateLimited(
        "The Hub limits requests from here (429).",
        f"Wait {f'{seconds} s' if seconds else 'a minute'} and try again; with a token, the limit is higher.",
    )


def _wait(headers: object) -> int | None:
    """Seconds, of `Retry-After` or of the limit's own state."""
    given = headers.get("Retry-After", "").strip()  # type: ignore[attr-defined]
    limit = parse_ratelimit_headers(headers)  # type: ignore[arg-type]
    if given.isascii() and given.isdecimal() and len(given) < 9:
        seconds = int(given)
    elif limit is not None and limit.remaining == 0:
        seconds = limit.reset_in_seconds
    else:
        return None
    return seconds if 0 < seconds <= _MOST_WAIT else None


_BY_CODE: dict[str | None, Callable[[_Asked], QuantSpaceError]] = {
    "GatedRepo": _gated,
    "RepoNotFound": _no_repository,
    "RevisionNotFound": _no_revision,
    "EntryNotFound": _no_file,
}
_BY_STATUS: dict[int | str, Callable[[_Asked], QuantSpaceError]] = {
    401: _refused_token,
    403: _forbidden,
    404: _no_repository,
    410: _disabled,
    416: _ends_before,
    451: _disabled,
}


def _of_network(asked: _Asked, error: BaseException) -> QuantSpaceError:
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, OfflineModeIsEnabled):
        return HubUnreachable(
            f"{constants.ENDPOINT} can't be reached for {asked.what}: HF_HUB_OFFLINE is set.",
            "Unset it and start again. Until then, bundled models can be estimated and the demo model loaded.",
        )
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return _no_file(asked)
    if names & {"TimeoutException", "TimeoutError"}:
        return HubTimedOut(
            f"{constants.ENDPOINT} did not answer in time for {asked.what} ({type(error).__name__}).",
            "Check the network and try again. Without it, bundled models can be estimated and the demo model loaded.",
        )
    if "RemoteProtocolError" in names and "complete" in str(error):
        return broke_off(asked.ref)
    if names & {"UnsupportedProtocol", "InvalidURL", "DecodingError"} or not isinstance(error, NETWORK_ERRORS):
        return garbled(asked.ref)
    return HubUnreachable(
        f"{constants.ENDPOINT} can't be reached for {asked.what} ({type(error).__name__}).",
        "Check the network and try again. Without it, bundled models can be estimated and the demo model loaded.",
    )


def _empty(error: BaseException | None) -> None:
    """Leave nothing in an exception, or in those behind it, but its type."""
    while error is not None:
        error.args = ()
        vars(error).clear()
        before = error.__cause__ or error.__context__
        error.__cause__ = error.__context__ = None
        error = before


def _tokens_page() -> str:
    return f"{constants.ENDPOINT}/settings/tokens"


def _status_page() -> str:
    return "status.huggingface.co"
