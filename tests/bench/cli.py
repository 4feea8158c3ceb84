"""From the shell's start to the answer: this terminal for bundled models, `accelerate estimate-memory` beside it.

    python -m tests.bench.cli

Both run in this run, in turn, on this machine. accelerate reads the config from a Hub: the local one serves the same
bundled config. Wall times grow with what else the machine does; processor times hardly do.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from quantspace.hub.catalogue import find_bundled
from tests.hub import LocalHub

ROOT = Path(__file__).parent.parent.parent
MODELS = ("google/gemma-3-4b-it", "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-30B-A3B", "openai-community/gpt2")
ROUNDS = 5
BOUND = 1.5  # seconds


def seconds(command: list[str], environment: dict[str, str]) -> tuple[float, float, str]:
    """Wall and processor seconds of a command that must answer, and what it printed."""
    before, started = _processor(), time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    wall, processor = time.perf_counter() - started, _processor() - before
    fine = (0, 1) if "quantspace" in command else (0,)  # 1: the answer is that nothing fits
    if done.returncode not in fine:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return wall, processor, done.stdout


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    hub = LocalHub()
    for model in MODELS:
        config = json.dumps(find_bundled(model).config)
        hub.add_repo(model, {"config.json": config}, library_name="transformers")
    with tempfile.TemporaryDirectory() as home, hub.running() as url:
        environment = os.environ | {"HF_ENDPOINT": url, "HF_HOME": home, "PYTHONWARNINGS": "ignore"}
        print(f"{'median of ' + str(ROUNDS):36} {'quantspace':>22} {'accelerate':>22}  ratio of wall times")
        for model in MODELS:
            measure(model, environment)


def measure(model: str, environment: dict[str, str]) -> None:
    accelerate = str(Path(sys.executable).with_name("accelerate"))
    commands = {
        "quantspace": [sys.executable, "-m", "quantspace", model, "--gpu", "t4"],
        "accelerate": [accelerate, "estimate-memory", model, "--library_name", "transformers"],
    }
    times: dict[str, list[tuple[float, float, str]]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            times[name].append(seconds(command, environment))
    medians = {name: [statistics.median(run[i] for run in runs) for i in (0, 1)] for name, runs in times.items()}
    shown = "".join(f" {wall:8.2f} s {cpu:6.2f} s cpu" for wall, cpu in medians.values())
    ratio = medians["accelerate"][0] / medians["quantspace"][0]
    late = "" if medians["quantspace"][0] <= BOUND else f"  over {BOUND} s"
    print(f"{model:36}{shown}  {ratio:5.1f}{late}")


if __name__ == "__main__":
    main()
