"""The app as a person starts it, `python app.py`, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
START_SECONDS = 90
NOWHERE = "http://127.0.0.1:9"  # the discard port: every connection is refused at once


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running_app(endpoint: str, log: Path, **environment: str) -> Iterator[str]:
    """Start the app with its Hub at `endpoint`; gives its address.

    Args:
        log: file for what the app prints; shown when it does not start.
    """
    port = free_port()
    variables = os.environ | {"HF_ENDPOINT": endpoint, "GRADIO_SERVER_PORT": str(port)} | environment
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=variables, stdout=output, stderr=output)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_it_answers(url, process, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=20)


def _wait_until_it_answers(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"{url}/config", timeout=2).raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise RuntimeError(f"the app did not start:\n{log.read_text()[-4000:]}")
