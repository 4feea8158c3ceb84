"""An experiment in a process of its own: few threads, no GPU, an end to its time; gone when nobody waits for it.

For: a server that answers others meanwhile, keeps its own random state, and on ZeroGPU forks workers, which a
process that has started PyTorch's threads must not do.

    python -m quantspace.lab.apart      reads a pickled experiment, writes its events, each with its length before it
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import QuantSpaceError, shorten
from ..runtime.job import Failed, Phase
from .experiments import Event, Experiment

THREADS = min(2, os.cpu_count() or 1)
SECONDS = 300  # that an experiment may take on the wall
PULSE = 0.25  # seconds between signs of life: a reader who left is noticed at the next
_LENGTH = struct.Struct("<I")
_NOISY = ("torchao", "torch.utils._pytree")  # at import, of extensions for GPUs
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": str(THREADS),
    "MKL_NUM_THREADS": str(THREADS),
    "OMP_WAIT_POLICY": "PASSIVE",  # a thread that waits leaves its core to whoever else is at work
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


def perform(experiment: Experiment, seconds: float = SECONDS) -> Generator[Event, None, None]:
    """The experiment's events; `Failed` is last where it does not succeed.

    Closing the iterator ends the process.
    """
    environment = os.environ | _ENVIRONMENT | {"PYTHONPATH": _import_path()}
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    try:
        yield from _events(process, experiment, time.monotonic() + seconds)
    finally:
        process.kill()
        process.wait()


def _events(process: subprocess.Popen[bytes], experiment: Experiment, deadline: float) -> Iterator[Event]:
    frames: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(process, experiment, frames), daemon=True, name="lab").start()
    latest = Phase("Starting")
    while time.monotonic() < deadline:
        try:
            event = frames.get(timeout=PULSE)
        except queue.Empty:
            yield latest
            continue
        if event is None:
            return
        if isinstance(event, Phase):
            latest = event
        yield event
    yield Failed("lab_too_long", "The experiment took longer than it may.", "Try fewer steps, or when it is quieter.")


def _read(process: subprocess.Popen[bytes], experiment: Experiment, frames: queue.SimpleQueue[Event | None]) -> None:
    """Hand the experiment over and pass on what comes back; `None` is the end."""
    assert process.stdin is not None and process.stdout is not None
    try:
        with process.stdin, process.stdout:
            process.stdin.write(pickle.dumps(experiment))
            process.stdin.close()
            ended = False
            while not ended and (event := _received(process.stdout)) is not _LOST:
                frames.put(event)
                ended = event is None
    except OSError:  # it died before it had read
        ended = False
    if not ended:
        frames.put(Failed("lab_died", "The experiment's process ended before its time.", "Try again."))
        frames.put(None)


_LOST = object()


def _received(stream: BinaryIO) -> Event | object | None:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return _LOST
    (length,) = _LENGTH.unpack(head)
    body = stream.read(length)
    return pickle.loads(body) if len(body) == length else _LOST


def _send(stream: BinaryIO, event: Event | None) -> None:
    body = pickle.dumps(event)
    stream.write(_LENGTH.pack(len(body)) + body)
    stream.flush()


def _import_path() -> str:
    root = str(Path(__file__).parents[2])
    kept = os.environ.get("PYTHONPATH")
    return root if not kept else f"{root}{os.pathsep}{kept}"


def main() -> None:
    """In the process: read, run, send."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no event
    experiment = pickle.load(sys.stdin.buffer)
    try:
        _prepare()
        for event in experiment.run():
            _send(answers, event)
    except BrokenPipeError:
        return  # nobody waits
    except QuantSpaceError as error:
        _send(answers, Failed(**error.as_data()))
    except Exception as error:  # a seam: what broke is told, not raised
        text = f"{type(error).__name__}: {shorten(str(error), 200)}"
        _send(answers, Failed("internal", f"Something broke here: {text}", "Try again."))
    _send(answers, None)


def _prepare() -> None:
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


if __name__ == "__main__":
    main()
