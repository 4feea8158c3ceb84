"""Which status an error has, and what happens when too much is asked at once."""

import threading

import anyio
import pytest

from quantspace import errors
from quantspace.web.responses import Busy, failed, status_of
from quantspace.web.workers import Workers
from tests.loops import apart


def kinds(of=errors.QuantSpaceError):
    return [of, *(kind for sub in of.__subclasses__() for kind in kinds(sub))]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.BadWorkload, 400),
        (errors.UnknownGpu, 404),
        (errors.ModelNotFound, 404),
        (errors.NotSignedIn, 401),
        (errors.TokenMalformed, 401),
        (errors.TermsNotAccepted, 403),
        (errors.TokenLacksScope, 403),
        (errors.ModelUnsupported, 422),
        (errors.RateLimited, 429),
        (errors.HubDown, 502),
        (errors.HubUnreachable, 503),
        (Busy, 503),
        (errors.HubTimedOut, 504),
    ],
)
def test_an_error_has_the_status_that_fits(kind, status):
    answer = failed(kind("What was found.", "What to do."))
    assert answer.status_code == status
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    assert ("www-authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_and_is_kept_nowhere(kind):
    assert 400 <= status_of(kind("x")) < 600
    assert failed(kind("x")).headers["cache-control"] == "no-store"
    assert failed(kind("x"), is_private=True).headers["cache-control"] == "private, no-store"


def test_those_who_come_when_all_places_are_taken_are_told_at_once():
    gate = threading.Event()
    told = []

    async def crowd():
        workers = Workers(at_once=2, waiting=3)

        async def ask():
            try:
                told.append(await workers.run(gate.wait, 30))
            except Busy as error:
                told.append(error.code)
                if told.count("busy") == 4:
                    gate.set()

        async with anyio.create_task_group() as group:
            for _ in range(9):
                group.start_soon(ask)

    apart(anyio.run, crowd)
    assert told == ["busy"] * 4 + [True] * 5
