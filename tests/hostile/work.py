"""What workers are given to do in tests."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from quantspace.errors import ModelUnsupported

from .samples import LLAMA


def add(first: Any, second: Any) -> Any:
    return first + second


def refuse() -> None:
    raise ModelUnsupported("It is not.", "Do that.")


def spin() -> None:
    while True:
        pass


def spin_outside_of_python() -> None:
    re.fullmatch(r"(a+)+", "a" * 60 + "!")


def catch_everything() -> None:
    while True:
        with suppress(BaseException):  # as a class built from a config may
            spin()


def wait() -> None:
    time.sleep(600)


def eat() -> None:
    held = []
    while True:
        held.append(b"\1" * 2**22)


def eat_and_tell() -> int:
    """Bytes this process had in memory when it got no more."""
    held = []
    try:
        while True:
            held.append(b"\1" * 2**22)
    except MemoryError:
        held = held[:-16]
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def die() -> None:
    os._exit(3)


def answer_too_much() -> bytes:
    return bytes(200 * 2**20)


def answer_unsendable() -> Any:
    return threading.Lock()


def build(changes: dict[str, Any]) -> Any:
    from quantspace.estimation.meta.reader import inventory_from_config

    return inventory_from_config({**LLAMA, **changes}, "hostile/build")


STRANGE = (
    (build, {"num_attention_heads": 3}),
    (build, {"hidden_act": "no_such_function"}),
    (build, {"vocab_size": -1}),
    (build, {"rope_scaling": {"rope_type": "yarn", "factor": "wide"}}),
    (refuse,),
    (die,),
)


def read_configs(texts: list[str]) -> list[str]:
    """Read each config as the app does; what broke in another way than with a sentence, as tracebacks."""
    from quantspace.errors import QuantSpaceError
    from quantspace.estimation.builder import read_class
    from quantspace.estimation.config_limits import check

    names = {"model_id": "hostile/fuzz", "revision": "main", "sha": None, "source": "config.json"}
    broke = []
    for text in texts:
        try:
            config = json.loads(text)
            if isinstance(config, dict):  # anything else is refused where files are read
                check(config)
                read_class(config, names)
        except QuantSpaceError as error:
            if not (error.message and error.hint.endswith(".")):
                broke.append(f"{text}\n{error.as_data()}")
        except MemoryError:
            raise
        except Exception:
            broke.append(f"{text}\n{traceback.format_exc()}")
    return broke
