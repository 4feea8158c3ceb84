"""What keeps one visitor from spoiling the day of the next."""

import dataclasses
import math
import threading
import time

import pytest

from quantspace.errors import BadInput
from quantspace.hub.client import sent_token
from quantspace.hub.demo import DEMO_ID, demo_folder
from quantspace.precision import find_precision
from quantspace.runtime import loader, session, worker
from quantspace.runtime.deadline import within
from quantspace.runtime.job import Failed, Job, Loaded, Message, Sampling

JOB = Job(DEMO_ID, "bundled", str(demo_folder()), "bf16", 0, 0)


@pytest.fixture(autouse=True)
def empty_slot():
    worker.unload()
    yield
    worker.unload()


def test_python_code_that_never_ends_is_ended():
    def forever():
        while True:
            pass

    started = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.3, forever)
    assert time.monotonic() - started < 5


def test_work_within_its_time_gives_its_result():
    assert within(5, lambda: 6 * 7) == 42


def test_a_chat_template_that_loops_ends_as_an_error_and_the_next_job_is_served(tmp_path, monkeypatch):
    monkeypatch.setattr("quantspace.runtime.prompt.TEMPLATE_SECONDS", 1)
    for file in demo_folder().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(loops)
    slow = dataclasses.replace(JOB, folder=str(tmp_path), sha="loops", messages=(Message("user", "hello"),))

    *_, last = worker.serve(slow)
    assert isinstance(last, Failed)
    assert "template took more than" in last.message
    assert isinstance(list(worker.serve(JOB))[-1], Loaded)


def test_leaving_during_a_load_does_not_wait_for_it_but_the_next_job_does(monkeypatch):
    go_on = threading.Event()
    real = loader._load

    def slow(*arguments):
        go_on.wait(20)
        return real(*arguments)

    monkeypatch.setattr(loader, "_load", slow)
    stream = worker.serve(JOB)
    next(stream)
    started = time.monotonic()
    stream.close()
    assert time.monotonic() - started < 10
    assert worker._busy.locked()  # the thread still loads

    go_on.set()
    assert isinstance(list(worker.serve(JOB))[-1], Loaded)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1},
        {"temperature": math.nan},
        {"temperature": "hot"},
        {"temperature": None},
        {"top_p": 5},
        {"max_new_tokens": 0},
        {"max_new_tokens": 10**9},
        {"max_new_tokens": None},
        {"max_new_tokens": True},
    ],
    ids=str,
)
def test_sampling_out_of_range_is_refused_with_the_range(values):
    with pytest.raises(BadInput) as caught:
        Sampling(**values)
    assert "Give a number from" in caught.value.hint


@pytest.mark.parametrize("value", ["int3", "", None, 5, [], {}], ids=repr)
def test_an_unknown_precision_is_refused_with_the_known_ones(value):
    with pytest.raises(BadInput, match="not a precision") as caught:
        find_precision(value)
    assert "nf4-dq" in caught.value.hint


def test_a_message_too_long_to_read_is_refused_before_it_takes_the_machine():
    (only,) = session.chat(JOB, [Message("user", "x" * 1_000_000)], Sampling())
    assert isinstance(only, Failed)
    assert "1,000,000 characters" in only.message


def test_the_token_of_a_space_is_never_sent_for_visitors(monkeypatch):
    assert sent_token(None) is None  # the login of one's own machine
    monkeypatch.setenv("SPACE_ID", "somebody/quantspace")
    assert sent_token(None) is False
    assert sent_token("hf_visitor") == "hf_visitor"
