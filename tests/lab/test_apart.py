"""An experiment runs in a process of its own, and leaves nothing behind."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest
import torch

from quantspace.errors import BadInput
from quantspace.lab.apart import THREADS, perform
from quantspace.lab.experiments import DynamicInt8, DynamicResult, LowBits
from quantspace.runtime.job import Failed, Phase


@dataclass(frozen=True)
class Tell:
    """What the process is like, as a phase's name."""

    def run(self) -> Iterator[Phase]:
        print("not an event")
        yield Phase(f"{os.getpid()} {torch.get_num_threads()} {torch.cuda.is_available()}")


@dataclass(frozen=True)
class Refuse:
    def run(self) -> Iterator[Phase]:
        yield Phase("first")
        raise BadInput("No.", "Try yes.")


@dataclass(frozen=True)
class Break:
    def run(self) -> Iterator[Phase]:
        raise ZeroDivisionError("by nought")
        yield


@dataclass(frozen=True)
class Die:
    def run(self) -> Iterator[Phase]:
        yield Phase("alive")
        os._exit(9)


@pytest.fixture(autouse=True)
def these_can_be_unpickled(monkeypatch):
    """The process finds this module, as it finds the project's."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.setitem(sys.modules, "tests.lab.test_apart", sys.modules[__name__])


def told(events) -> list:
    return [event for event in events if event != Phase("Starting")]


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_it_runs_elsewhere_with_few_threads_and_no_card():
    pid, threads, card = told(perform(Tell()))[0].name.split()
    assert int(pid) != os.getpid()
    assert int(threads) == THREADS <= 2
    assert card == "False"


def test_an_experiment_comes_back_whole():
    last = told(perform(DynamicInt8(("lstm",))))[-1]
    assert isinstance(last, DynamicResult)
    assert last.rows[0].saved_after == 11_685


def test_what_it_refuses_is_told_with_its_hint():
    assert told(perform(Refuse())) == [Phase("first"), Failed("bad_input", "No.", "Try yes.")]


def test_what_breaks_is_told_in_a_sentence():
    (failed,) = told(perform(Break()))
    assert failed.code == "internal"
    assert "ZeroDivisionError: by nought" in failed.message


def test_a_process_that_dies_is_told():
    assert [getattr(event, "code", "") for event in told(perform(Die()))][-1] == "lab_died"


def test_an_end_is_put_to_what_takes_too_long():
    events = list(perform(LowBits(), seconds=1.0))
    assert events[-1].code == "lab_too_long"


def test_whoever_leaves_ends_it():
    before = children()
    events = perform(LowBits())
    next(events)
    assert children() - before
    events.close()
    assert children() == before


def test_signs_of_life_come_while_it_works():
    began, events = time.monotonic(), perform(LowBits())
    for _ in range(3):
        next(events)
    assert time.monotonic() - began < 10
    events.close()


def test_no_thread_is_left():
    list(perform(Refuse()))
    deadline = time.monotonic() + 5
    while any(thread.name == "lab" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [thread for thread in threading.enumerate() if thread.name == "lab"]
