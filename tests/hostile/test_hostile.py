"""Every row of the table is answered in time, with a sentence, and leaves the app as it was.

The app runs as people start it, and its Hub is the local one: nothing of either is patched.
"""

from __future__ import annotations

import json
import time

import httpx
import pytest

from quantspace import errors
from tests.app_server import running_app
from tests.hub import LocalHub

from .inputs import TABLE
from .rows import ESTIMATE, Hostile
from .samples import LLAMA
from .watching import Watch, app_process

pytestmark = pytest.mark.xdist_group("hostile")

SOON = 5.0  # s on the wall, for any of them, less what is spent waiting for a processor
WORKER_BYTES = 2**30
SERVER_GROWTH = 2**29  # bytes that the server may have grown by after all of them
IMPATIENT = {"QUANTSPACE_HUB_TIMEOUT": "2", "QUANTSPACE_FETCH_SECONDS": "2.5"}
FIELDS = {
    "model": "", "gpu": "t4", "gpu_count": 1, "context": 8192, "batch": 1, "kv_dtype": "auto", "revision": "main",
}  # fmt: skip


def codes(error_class: type) -> set[str]:
    """Codes of a class of errors and of those below it."""
    return {error_class.code}.union(*(codes(below) for below in error_class.__subclasses__()))


def accepted(outcome) -> set[str]:
    """What may come of a row: codes of errors, and `ESTIMATE`."""
    outcomes = outcome if isinstance(outcome, tuple) else (outcome,)
    return set().union(*({ESTIMATE} if one == ESTIMATE else codes(one) for one in outcomes))


@pytest.fixture(scope="module")
def trouble():
    """A Hub of this module's own."""
    hub = LocalHub()
    with hub.running():
        yield hub


@pytest.fixture(scope="module")
def app(trouble, tmp_path_factory):
    log = tmp_path_factory.mktemp("hostile") / "app.log"
    store = {"QUANTSPACE_STORE_FOLDER": str(log.parent / "store")}
    with running_app(trouble.url, log, **IMPATIENT, **store) as url:
        ask(url, {"model": "quantspace/demo"}, seconds=60)  # its workers are warm
        yield url


@pytest.fixture(scope="module")
def watch(app):
    watch = Watch(app_process(app))
    watch.look()
    watch.server_at_first = watch.server_bytes
    with watch.watching():
        yield watch


def ask(url: str, fields: dict, seconds: float = 20.0) -> tuple[dict, float]:
    """What /estimate answers, and after how long."""
    started = time.monotonic()
    body = {"data": list({**FIELDS, **fields}.values())}
    answer = httpx.post(f"{url}/gradio_api/run/estimate", json=body, timeout=seconds)
    taken = time.monotonic() - started
    assert answer.status_code == 200, answer.text[:1000]
    return answer.json()["data"][0], taken


def is_right(answer: dict) -> bool:
    """Whether this is the answer for the demo model, every byte of it."""
    return {row["precision"]: row["footprint_bytes"] for row in answer["rows"]} == DEMO


DEMO: dict[str, int] = {}


@pytest.fixture(scope="module", autouse=True)
def right_answer(app):
    answer, _ = ask(app, {"model": "quantspace/demo"})
    DEMO.update({row["precision"]: row["footprint_bytes"] for row in answer["rows"]})
    assert DEMO["bf16"] > 0


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_it_is_answered_in_time_and_the_next_request_is_right(app, trouble, watch, row: Hostile):
    model_id = row.put(trouble)
    watch.forget()
    answer, taken = ask(app, {"model": model_id, **row.typed})
    starved = watch.starved()
    trouble.faults.clear()

    came = answer["error"]["code"] if "error" in answer else ESTIMATE
    assert came in accepted(row.outcome), answer.get("error", answer.get("model"))
    if came == ESTIMATE:
        assert answer["rows"] and row.says in " ".join(answer["model"]["notes"])
        assert all(type(line["weights_bytes"]) is int and line["weights_bytes"] >= 0 for line in answer["rows"])
    else:
        assert_is_a_sentence(answer["error"])
        assert row.says in answer["error"]["message"]
    assert taken - starved <= SOON
    assert watch.worker_bytes <= WORKER_BYTES
    assert is_right(ask(app, {"model": "quantspace/demo"})[0])


def assert_is_a_sentence(error: dict) -> None:
    """What people are shown: one sentence of what was found, one of what to do, and nothing of our insides."""
    message, hint = error["message"], error["hint"]
    assert message.endswith((".", "?", ")")) or ": " in message, error  # after a colon stands what a library said
    assert hint.endswith("."), error
    assert len(message) < 600 and len(hint) < 400, error
    assert message.isprintable() and hint.isprintable(), error
    for inside in ("Traceback", 'File "/', "site-packages", "quantspace/estimation"):
        assert inside not in message + hint


def test_the_table_is_long_enough_and_its_names_are_its_own():
    assert len(TABLE) >= 80
    assert len({row.name for row in TABLE}) == len(TABLE)
    assert accepted(errors.QuantSpaceError) >= {"model_unsupported", "bad_model_id", "hub_unreachable"}


def test_after_all_of_them_a_model_that_nobody_asked_for_is_built(app, trouble):
    trouble.faults.clear()
    trouble.add_repo("valid/llama", {"config.json": json.dumps(LLAMA)})
    answer, taken = ask(app, {"model": "valid/llama"})
    vocabulary, hidden, wide = LLAMA["vocab_size"], LLAMA["hidden_size"], LLAMA["intermediate_size"]
    layer = 2 * hidden * hidden + 2 * hidden * hidden // 2 + 3 * hidden * wide + 2 * hidden
    assert answer["model"]["parameters"] == 2 * vocabulary * hidden + 2 * layer + hidden
    assert answer["model"]["exact"] and taken <= SOON


def test_after_all_of_them_nothing_is_left_behind(app, watch):
    assert not watch.zombies()
    assert watch.server.memory_info().rss - watch.server_at_first <= SERVER_GROWTH
