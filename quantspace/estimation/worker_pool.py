"""Work on somebody else's config, in processes that can be ended: bounded in CPU time, wall time and memory.

Every piece of work has a process of its own, forked from a template that has imported torch and transformers
already (`worker_template.py`): it starts in about 20 ms, takes nothing over from the work before it, and leaves
nothing when it is ended. What ends it:

* CPU seconds, counted by the kernel (`ITIMER_PROF`): a machine that is busy makes nobody's model absurd.
* Wall seconds, more of them (`wall_seconds`), for work that waits or is starved.
* `WORKER_BYTES` of private memory (`RLIMIT_DATA`).

Where the system has no fork server, each process imports all of that by itself: slow, and as safe. A script that
never calls `isolate` runs the work in its own process, one piece at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ..units import MIB

WORKERS = max(2, min(4, os.cpu_count() or 1))  # so that one strange config does not keep everybody waiting
WORKER_BYTES = 880 * MIB  # private memory: with the libraries' shared pages a process stays below 1 GiB
RESULT_BYTES = 128 * MIB  # pickled; the largest published model takes 1.5
QUEUE_SECONDS = 60  # until a place is free

_TEMPLATE = f"{__package__}.worker_template"
_ENDED_BY_CLOCK = {-getattr(signal, name) for name in ("SIGPROF", "SIGALRM", "SIGXCPU") if hasattr(signal, name)}

_context: BaseContext | None = None
_places = threading.BoundedSemaphore(WORKERS)
_in_process = threading.Lock()
_starting = threading.Lock()


class WorkStopped(Exception):
    """The process was ended before it had an answer: the work asked for more than it was given."""


class TooLong(WorkStopped):
    """It used up its time."""


class TooLarge(WorkStopped):
    """It asked for more memory than a worker may have, or its process died or could not be started."""


class NoPlace(WorkStopped):
    """All workers were busy for `QUEUE_SECONDS`."""


def isolate() -> None:
    """From now on, work in processes of their own; the template begins to warm up at once."""
    global _context
    with _starting:
        if _context is not None:
            return
        if "forkserver" not in multiprocessing.get_all_start_methods():
            _context = multiprocessing.get_context("spawn")
            return
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload([_TEMPLATE])
        with _importable():
            forkserver.ensure_running()


def run_apart(seconds: float, work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work(*arguments)` returns, or what it raises.

    Args:
        seconds: of CPU time, and `wall_seconds` of that on the wall; not enforced before `isolate`.
        work: a function that can be pickled, as its arguments and its result can.

    Raises:
        WorkStopped: as `TooLong`, `TooLarge` or `NoPlace`.
    """
    if _context is None:
        with _in_process:
            return work(*arguments)
    try:
        task = pickle.dumps((work, arguments))
    except RecursionError as error:
        raise TooLarge("what it is given is nested too deep") from error
    with _place(), _process(_context, seconds, task) as (process, answer):
        succeeded, value = _received(process, answer, wall_seconds(seconds))
    if succeeded:
        return value
    raise value


def wall_seconds(seconds: float) -> float:
    """How long work of so many CPU seconds may take where all workers and the server share two cores."""
    return min(4 * seconds, seconds + 30)


def worker_pids() -> list[int]:
    """Processes at work now."""
    with _starting:
        return [child.pid for child in multiprocessing.active_children() if child.pid and child.name == _TEMPLATE]


@contextmanager
def _place() -> Iterator[None]:
    if not _places.acquire(timeout=QUEUE_SECONDS):
        raise NoPlace(f"all {WORKERS} workers were busy for {QUEUE_SECONDS} s")
    try:
        yield
    finally:
        _places.release()


@contextmanager
def _process(context: Any, seconds: float, task: bytes) -> Iterator[tuple[BaseProcess, Connection]]:
    """A process at that work, and the pipe its answer comes through; afterwards neither is left."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, seconds, task), name=_TEMPLATE, daemon=True)
    with receiver:
        with sender:
            _start(process)
        try:
            yield process, receiver
        finally:
            if process.is_alive():
                process.kill()
            process.join()
            with _starting:
                process.close()


def _start(process: BaseProcess) -> None:
    try:
        with _starting, _importable():  # multiprocessing's list of children is not made for threads
            process.start()
    except (OSError, EOFError) as error:  # the fork server died; the next start brings up another
        raise TooLarge(f"no process could be started ({type(error).__name__})") from error


def _received(process: BaseProcess, answer: Connection, seconds: float) -> tuple[bool, Any]:
    try:
        if not answer.poll(seconds):
            raise TooLong(f"no answer within {seconds:g} s")
        return pickle.loads(answer.recv_bytes(RESULT_BYTES))
    except (EOFError, OSError) as error:  # it died, or its answer is beyond all measure
        process.join(1)
        if process.exitcode in _ENDED_BY_CLOCK:
            raise TooLong("its time was used up") from error
        raise TooLarge(f"the process ended with {process.exitcode}") from error


def _work(answer: Connection, seconds: float, task: bytes) -> None:
    """In the worker: bind itself, work, answer."""
    _limit(seconds)
    try:
        work, arguments = pickle.loads(task)
        outcome = (True, work(*arguments))
    except MemoryError:
        outcome = (False, TooLarge("it asked for more memory than a worker has"))
    except Exception as error:  # a seam: what the work raises is raised where it was asked for
        outcome = (False, error)
    try:
        message = pickle.dumps(outcome)
    except MemoryError:
        message = pickle.dumps((False, TooLarge("its answer takes more memory than a worker has")))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        message = pickle.dumps((False, RuntimeError(f"{type(outcome[1]).__name__} can't be sent: {error}")))
    answer.send_bytes(message)


def _limit(seconds: float) -> None:
    """Let the kernel end this process: it also ends what never comes back to Python."""
    if not hasattr(signal, "setitimer"):  # Windows: the one who waits ends it
        return
    import resource

    for name in ("SIGPROF", "SIGALRM"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, wall_seconds(seconds) + 1)  # outlives nobody who died while waiting
    for limit, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_DATA, WORKER_BYTES)):
        _, highest = resource.getrlimit(limit)
        if highest == resource.RLIM_INFINITY or most < highest:
            resource.setrlimit(limit, (most, most))


@contextmanager
def _importable() -> Iterator[None]:
    """Let the fork server find this package: of the parent's import path it gets the environment's part alone."""
    kept = os.environ.get("PYTHONPATH")
    root = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = root if not kept else f"{root}{os.pathsep}{kept}"
    try:
        yield
    finally:
        if kept is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = kept
