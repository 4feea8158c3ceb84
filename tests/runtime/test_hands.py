"""Threads that are used again: none is shared, lost after an error, or kept from a fork."""

import gc
import os
import threading
import weakref

import torch

from quantspace.runtime import hands


def doer(*, until: threading.Event | None = None) -> tuple[hands.Work, list[int]]:
    """Work that tells its thread, and waits."""
    told: list[int] = []

    def work() -> None:
        told.append(threading.get_ident())
        if until is not None:
            until.wait(20)

    return hands.start(work), told


def thread_of_work() -> int:
    work, told = doer()
    work.join()
    return told[0]


def test_the_next_work_is_done_by_the_same_hand():
    assert thread_of_work() == thread_of_work()


def test_two_at_once_have_two_hands_and_neither_waits():
    go_on = threading.Event()
    first, one = doer(until=go_on)
    second, two = doer()
    second.join(20)
    assert not second.is_alive() and first.is_alive()
    go_on.set()
    first.join(20)
    assert not first.is_alive() and one[0] != two[0]


def test_a_hand_that_an_error_ends_is_not_given_more(monkeypatch):
    told: list[threading.Thread] = []

    def fails() -> None:
        told.append(threading.current_thread())
        raise RuntimeError

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    work = hands.start(fails)
    work.join(20)
    told[0].join(20)
    assert not work.is_alive() and not told[0].is_alive()
    assert thread_of_work()


def test_what_was_worked_on_is_given_back():
    class Held:
        pass

    held = Held()
    gone = weakref.ref(held)
    work = hands.start(lambda thing: None, held)
    work.join(20)
    del held, work
    thread_of_work()  # the hand has surely let go before
    gc.collect()
    assert gone() is None


def test_torch_computes_with_as_many_threads_as_where_it_was_asked():
    def threads() -> int:
        told: list[int] = []
        hands.start(lambda: told.append(torch.get_num_threads())).join(20)
        return told[0]

    before = torch.get_num_threads()
    try:
        for count in (before + 1, 1):
            torch.set_num_threads(count)
            assert threads() == count
    finally:
        torch.set_num_threads(before)


def test_a_fork_makes_hands_of_its_own():
    thread_of_work()
    child = os.fork()
    if child == 0:  # what a ZeroGPU worker is
        work, told = doer()
        work.join(10)
        os._exit(0 if told else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
