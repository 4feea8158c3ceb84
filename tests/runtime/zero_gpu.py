"""ZeroGPU on the CPU: a local server stands for its scheduler, and `spaces` forks its workers for real.

Only the three steps that need a driver are left out (`BEFORE_ANY_JOB`, below).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

ROOT = Path(__file__).parents[2]

# A program begins with this, and ends by printing `TOLD` with what it has seen as JSON.
BEFORE_ANY_JOB = """
import json, multiprocessing, os, sys
import torch
torch.version.cuda = "12.8"  # `spaces` reads these on import; a CPU build of torch lacks them
torch._C._cuda_init = lambda: None
torch.cuda._is_in_bad_fork = bool  # asked in another process, so it has to pickle
from dataclasses import replace
from quantspace.runtime import gpu
import spaces.zero.torch
torch.version.cuda = None
spaces.zero.torch.init = lambda uuid: None  # would open the CUDA driver
spaces.zero.torch.move = lambda callback=None: None
"""


class Scheduler(ThreadingHTTPServer):
    """ZeroGPU's side: hands out one GPU a turn, and keeps a list of what it was asked.

    Args:
        kept: numbers of the turns, from 1, that get the worker of the turn before.
        refused: numbers of the turns for which no GPU is free.
    """

    daemon_threads = True

    def __init__(self, kept: Collection[int] = (), refused: Collection[int] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.kept, self.refused = kept, refused
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def of(self, path: str) -> list[dict[str, str]]:
        return [query for asked, query in self.asked if asked == path]


class _Request(BaseHTTPRequestHandler):
    server: Scheduler

    def do_POST(self) -> None:
        link = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(link.query).items()}
        self.server.asked.append((link.path, query))
        turn = len(self.server.of("/schedule"))
        status = 503 if link.path == "/schedule" and turn in self.server.refused else 200
        body = json.dumps({
            "idle": turn in self.server.kept,
            "nvidiaIndex": 0,
            "nvidiaUUID": "GPU-0",
            "allowToken": f"turn-{turn}",
        }).encode()  # fmt: skip
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Told:
    """What a program has seen, what the scheduler was asked, and what went to the error stream."""

    seen: Any
    scheduler: Scheduler
    stderr: str


def run_on_zero_gpu(program: str, arguments: Sequence[str], folder: Path, scheduler: Scheduler) -> Told:
    """Run a program as if on ZeroGPU; its temporary files go below `folder`."""
    (folder / "cgroup").write_text("0::/\n")
    threading.Thread(target=scheduler.serve_forever, daemon=True).start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "TMPDIR": str(folder),
                "SPACES_ZERO_GPU": "true",
                "SPACES_ZERO_DEVICE_API_URL": scheduler.url,
                "ZEROGPU_PROC_SELF_CGROUP_PATH": str(folder / "cgroup"),
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    finally:
        scheduler.shutdown()
        scheduler.server_close()
    lines = [line for line in done.stdout.splitlines() if line.startswith("TOLD ")]
    assert lines, done.stderr[-4000:]
    return Told(json.loads(lines[0].removeprefix("TOLD ")), scheduler, done.stderr)
