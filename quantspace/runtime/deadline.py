"""A time limit for Python code that is not ours."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """What `work()` gives, unless it takes longer: a `TimeoutError` is then raised inside it, in this thread.

    For code that runs in the interpreter, such as a chat template in Jinja's sandbox, which may loop for
    hours. A call that stays in C is interrupted only when it returns.

    Raises:
        TimeoutError: time was up.
    """
    thread = ctypes.c_ulong(threading.get_ident())
    raise_here = ctypes.pythonapi.PyThreadState_SetAsyncExc
    timer = threading.Timer(seconds, raise_here, (thread, ctypes.py_object(TimeoutError)))
    timer.daemon = True
    timer.start()
    try:
        return work()
    finally:
        timer.cancel()
