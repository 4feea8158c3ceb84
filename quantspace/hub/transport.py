"""One question to the Hub: bounded in bytes, and in time from the first to the last of them, redirects included.

The session, the headers and the reading of refusals are huggingface_hub's. Its own calls wait without end for a Hub
that hangs, and read answers whole, however large; so they are not used for what somebody waits for.

The token goes to the configured Hub alone: a redirect to any other origin goes without it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any

from httpx2 import Client, ReadError, RemoteProtocolError, Request, Response, Timeout, TimeoutException, WriteError
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from ..errors import QuantSpaceError, RedirectLoop
from ..settings import settings
from .dense_json import parse_json
from .reference import ModelRef
from .refusals import broke_off, checked_token, garbled, refusal, timed_out

MOST_REDIRECTS = 5  # the Hub itself needs two: a repository that was renamed, and where the file lies
MAX_JSON_BYTES = 16 * 2**20  # of an answer of the API: 50,000 files with their hashes
_MAX_REFUSAL_BYTES = 64 * 2**10
_PLAIN = ("", "identity")
_TELL_OF_REFUSAL = frozenset(
    ("content-type", "x-error-code", "x-error-message", "retry-after", "ratelimit", "ratelimit-policy", "x-request-id")
)
_NO_COOKIES = DefaultCookiePolicy(allowed_domains=())


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: 200 or 206.
        headers: names in lower case.
        body: at most as many bytes as were asked for.
        whole: whether the body ended in them.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool


@dataclass(frozen=True)
class _Question:
    """Without a `repr` of its headers, which hold the token."""

    ref: ModelRef | None
    method: str
    url: str
    headers: dict[str, str]
    limit: int  # bytes of the body
    deadline: float  # of time.monotonic()

    def __repr__(self) -> str:
        return f"_Question({self.method} {self.url})"


def ask(
    ref: ModelRef | None,
    url: str,
    *,
    token: str | bool | None,
    limit: int,
    seconds: float,
    what: str = "An answer",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Ask a URL of the configured Hub, and follow where it leads.

    Args:
        ref: the model that the question is about, for messages; `None` where it is about an account.
        token: as `sent_token` gives it.
        limit: bytes of the body that are read.
        seconds: for all of it.
        what: is asked for, for messages.

    Raises:
        ModelUnavailable, ModelUnsupported: in time, and without a trace of the token.
    """
    sent = build_hf_headers(token=token) | dict(headers or {})
    if "authorization" in sent:  # the machine's own login too: what can't be sent would stand in the error
        checked_token(sent["authorization"].removeprefix("Bearer "))
    sent["Accept-Encoding"] = "identity"  # what is limited is what is sent
    question = _Question(ref, method, url, sent, limit, time.monotonic() + seconds)
    outcome = _in_time(question, seconds)
    # Raised here, where no other exception is at hand that would be kept behind it, with the request in it.
    if isinstance(outcome, TimeoutException):
        raise timed_out(ref, min(seconds, settings().hub_timeout), what)
    if outcome is None or isinstance(outcome, TimeoutError):
        raise timed_out(ref, seconds, what)
    if isinstance(outcome, QuantSpaceError):
        raise outcome
    if isinstance(outcome, BaseException):
        raise refusal(ref, outcome)
    return outcome


def ask_json(ref: ModelRef | None, path: str, *, token: str | bool | None, seconds: float | None = None) -> Any:
    """What the Hub's API answers at a path such as `/api/whoami-v2`.

    Args:
        seconds: for all of it; `hub_timeout` without it.

    Raises:
        ModelUnavailable: GarbledAnswer where it is no JSON, or more of it than any model has.
    """
    wait = settings().hub_timeout if seconds is None else seconds
    answer = ask(ref, constants.ENDPOINT + path, token=token, limit=MAX_JSON_BYTES, seconds=wait)
    if not answer.whole:
        raise garbled(ref, "goes on and on")
    try:
        return parse_json(answer.body)
    except ValueError:
        pass
    raise garbled(ref)


def _in_time(question: _Question, seconds: float) -> Answer | BaseException | None:
    """The answer, or what went wrong, or `None` when time is up.

    In a thread of its own, which may outlast the wait: the network's timeouts are for one read each, and whoever
    sends a byte now and then, of the headers say, could keep the asking thread for hours.
    """
    outcomes: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcomes.put(_follow(question))
        except BaseException as error:  # a thread's seam: whatever it is, the waiting side tells it
            outcomes.put(error)

    threading.Thread(target=work, name="hub-question", daemon=True).start()
    try:
        return outcomes.get(timeout=max(0.0, seconds))
    except queue.Empty:
        return None


def _follow(question: _Question) -> Answer:
    session = get_session()
    # All visitors share it: what one answer sets must not go with the question of another.
    session.cookies.jar.set_policy(_NO_COOKIES)
    request = session.build_request(question.method, question.url, headers=question.headers)
    for _ in range(MOST_REDIRECTS + 1):
        left = max(0.05, question.deadline - time.monotonic())
        request.extensions["timeout"] = Timeout(min(settings().hub_timeout, left)).as_dict()
        response = _send(session, request)
        try:
            if not response.has_redirect_location:
                return _answer(question, response)
            _read(question, response, _MAX_REFUSAL_BYTES)  # so that the connection can be used again
        finally:
            response.close()
        if response.next_request is None or response.next_request.url.scheme not in ("http", "https"):
            raise garbled(question.ref, "leads to where no file of the Hub lies")
        request = response.next_request  # to another origin without the token: `Client._redirect_headers` of httpx2
    raise RedirectLoop(
        f"What answers at {constants.ENDPOINT} for {question.ref.id if question.ref else 'an account'} sends from one"
        f" address to the next, more than {MOST_REDIRECTS} times.",
        "Try again later, or pick another revision; a proxy on the way may be misconfigured.",
    )


def _send(session: Client, request: Request) -> Response:
    """The answer without its body; a second try where the first met a connection that had died in the meantime."""
    try:
        return session.send(request, stream=True, follow_redirects=False)
    except (RemoteProtocolError, ReadError, WriteError):
        return session.send(request, stream=True, follow_redirects=False)


def _answer(question: _Question, response: Response) -> Answer:
    plain = response.headers.get("content-encoding", "").lower() in _PLAIN
    if response.status_code not in (200, 206):
        body, _ = _read(question, response, min(question.limit, _MAX_REFUSAL_BYTES))
        headers = {name: text for name, text in response.headers.items() if name in _TELL_OF_REFUSAL}
        hf_raise_for_status(
            Response(response.status_code, headers=headers, content=body if plain else b"", request=response.request)
        )
        raise garbled(question.ref)  # a status that is neither an error nor an answer
    if not plain:
        raise garbled(question.ref, "sends compressed what was asked for as it is")
    body, whole = _read(question, response, question.limit)
    return Answer(response.status_code, dict(response.headers), body, whole)


def _read(question: _Question, response: Response, limit: int) -> tuple[bytes, bool]:
    """At most `limit` bytes of the body, and whether it ended in them."""
    body = bytearray()
    try:
        for piece in response.iter_raw():
            body += piece
            if len(body) > limit:
                return bytes(body[:limit]), False
            if time.monotonic() > question.deadline:
                raise TimeoutError  # nobody waits for it any more
    except (RemoteProtocolError, ReadError):
        pass
    else:
        return bytes(body), True
    raise broke_off(question.ref)
