"""Programs that bring a load to its end for real, each in a process of its own: they print what came of it as JSON.

    python -m tests.runtime.failure_programs memory_for_a_load FOLDER

Memory runs out by a limit on the address space (`RLIMIT_AS`), disks by a small file system that somebody fills.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

MB = 10**6
ROOM = 150 * MB  # of address space that is left to a load or an answer


@contextmanager
def little_memory(room: int = ROOM) -> Iterator[None]:
    """Let this process have `room` more bytes of address space than it has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def held() -> int:
    """Bytes of memory that are this process's own."""
    gc.collect()
    return psutil.Process().memory_full_info().uss


def memory_for_a_load(folder: str) -> dict[str, Any]:
    """Load the bundled model, then a large one into too little memory, then the bundled one again."""
    from quantspace.runtime import worker
    from quantspace.runtime.job import Job

    assert kind(list(load_demo())[-1]) == "Loaded"
    worker.unload()
    before = held()
    with little_memory():
        last = list(worker.serve(Job("large/model", "0" * 40, folder, "fp32", 0, 0)))[-1]
    worker.unload()
    return told(last) | {"kept": held() - before, "next": kind(list(load_demo())[-1])}


def memory_for_an_answer(folder: str) -> dict[str, Any]:
    """Answer a long prompt with too little memory, then a short one."""
    from quantspace.runtime import session, worker
    from quantspace.runtime.job import Job, Message, Sampling

    job = Job("wide/model", "0" * 40, folder, "fp32", 0, 0)
    brief = Sampling(greedy=True, max_new_tokens=2)
    short = (Message("user", "w4 w5"),)
    list(session.chat(job, short, brief))
    before = held()
    with little_memory(4 * MB):
        last = list(session.chat(job, (Message("user", "w4 " * 3000),), brief))[-1]
    kept = held() - before
    after = list(session.chat(job, short, brief))[-1]
    worker.unload()
    return told(last) | {"kept": kept, "next": kind(after)}


def disk_for_a_download(model_id: str) -> dict[str, Any]:
    """Fetch a model while somebody fills the disk, then again once there is room."""
    from huggingface_hub import constants

    from quantspace.errors import QuantSpaceError
    from quantspace.hub.client import repo_facts
    from quantspace.hub.download import download
    from quantspace.hub.reference import ModelRef

    home = Path(constants.HF_HOME)
    facts, filler = repo_facts(ModelRef(model_id)), home / "filler"
    before = shutil.disk_usage(home).used
    result: dict[str, Any] = {}
    try:
        for event in download(facts):
            if not filler.exists() and getattr(event, "done", 0):
                fill(filler)
    except QuantSpaceError as error:
        result = error.as_data()
    filler.unlink()
    result["kept"] = shutil.disk_usage(home).used - before
    *_, folder = download(facts)
    sizes = {path.name: path.stat().st_size for path in Path(folder).iterdir()}
    return result | {"next": "whole" if sizes == facts.files else str(sizes)}


def disk_for_a_copy(folder: str) -> dict[str, Any]:
    """Keep a copy that is larger than was foreseen on a disk that has just what was foreseen; then the bundled one."""
    from quantspace.runtime import kept, worker
    from quantspace.runtime.job import Job
    from quantspace.runtime.kept_disk import BESIDE_WEIGHTS
    from quantspace.runtime.kept_task import KeepTask

    job = Job("large/model", "0" * 40, folder, "nf4", 0, 0)
    loaded = list(worker.serve(job))[-1]
    assert kind(loaded) == "Loaded", loaded
    kept.root().mkdir(exist_ok=True)
    before = shutil.disk_usage(kept.root()).used
    filler = kept.root().parent / "filler"
    fill(filler, leave=BESIDE_WEIGHTS + MB)
    last = list(worker.serve(replace(job, task=KeepTask(folder, 0, public=True))))[-1]
    filler.unlink()
    result = told(last) | {"kept": shutil.disk_usage(kept.root()).used - before}
    again = list(worker.serve(replace(job, task=KeepTask(folder, loaded.readout.held_bytes, public=True))))[-1]
    return result | {"next": kind(again), "copies": len(kept.copies())}


def fill(path: Path, leave: int = 0) -> None:
    """Write a file until the disk has only `leave` bytes free."""
    with path.open("wb", buffering=0) as file:
        try:
            while (free := shutil.disk_usage(path.parent).free - leave) > 0:
                file.write(bytes(min(free, MB)))
            while not leave:  # what is free for whoever writes next
                file.write(bytes(4096))
        except OSError:
            return


def load_demo(precision: str = "bf16") -> Iterator[Any]:
    from quantspace.hub.demo import DEMO_ID
    from quantspace.runtime.session import load_model

    return load_model(DEMO_ID, precision)


def kind(event: object) -> str:
    return type(event).__name__


def told(event: Any) -> dict[str, Any]:
    """An error as data; the name of what came instead of one."""
    return asdict(event) if kind(event) == "Failed" else {"code": kind(event), "message": str(event)[:300], "hint": ""}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print("\n" + json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
