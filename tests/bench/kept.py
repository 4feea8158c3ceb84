"""Loading a kept copy against quantizing again, both through this app's loader, in one process.

    python -m tests.bench.kept [precision ...]

A checkpoint of SmolLM2-135M's shape with random weights, on the processor. What is compared is `Readout.seconds`:
from the first byte read to a model that can answer; and processor seconds, which hardly grow with what else the
machine does. It fails where either is not as many times less as promised, where a byte more or less is held than of
the model that was quantized here, or where its logits are others.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROUNDS = {"quantized": 3, "kept": 5}
BOUND = 5.0  # times faster, of 4-bit copies
BOUNDED = ("nf4", "nf4-dq", "fp4")
PRECISIONS = ("nf4-dq", "nf4", "fp4", "int8", "int8-ao", "fp8-ao")
SHAPE = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True, "max_position_embeddings": 8192,
}  # fmt: skip


def write_checkpoint(folder: Path) -> Path:
    """Random bf16 weights of SmolLM2-135M's shape, and the demo's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from quantspace.hub.demo import demo_folder

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).to(torch.bfloat16).save_pretrained(folder)
    for file in demo_folder().glob("*token*"):
        shutil.copy(file, folder)
    return folder


def main(precisions: tuple[str, ...]) -> int:
    with tempfile.TemporaryDirectory(prefix="quantspace-bench-") as home:
        os.environ |= {"QUANTSPACE_KEPT_FOLDER": f"{home}/kept", "HF_HUB_OFFLINE": "1"}
        folder = write_checkpoint(Path(home) / "model")
        print(
            f"{'precision':10} {'quantized here':>15} {'kept copy':>10} {'times faster':>13}  {'held':>12}  same logits"
        )
        return sum(not measure(folder, precision) for precision in precisions)


def measure(folder: Path, precision: str) -> bool:
    """Load, keep, load the copy; prints a line, and says whether all is as promised."""
    import torch

    from quantspace.runtime import worker
    from quantspace.runtime.job import Done, Job, Loaded
    from quantspace.runtime.kept_task import KeepTask

    original = Job("bench/135m", "0" * 40, str(folder), precision, 0, 0)
    ids = torch.arange(5, 69)[None]

    def load(job: Job) -> tuple[tuple[float, float], int, torch.Tensor]:
        worker.unload()
        before = time.process_time()
        *_, last = worker.serve(job)
        assert isinstance(last, Loaded), last
        spent = (last.readout.seconds, time.process_time() - before)
        with torch.no_grad():
            return spent, last.readout.held_bytes, worker._slot.model(ids).logits

    runs = [load(original) for _ in range(ROUNDS["quantized"])]
    _, held, logits = runs[-1]
    *_, done = worker.serve(replace(original, task=KeepTask(str(folder), held, public=False)))
    assert isinstance(done, Done), done
    copy = replace(original, folder=str(done.result.folder), kept=str(done.result.folder))
    again = [load(copy) for _ in range(ROUNDS["kept"])]
    slow, fast = ([statistics.median(run[0][i] for run in group) for i in (0, 1)] for group in (runs, again))
    gains = [slow[i] / fast[i] for i in (0, 1)]
    same = all(torch.equal(logits, other) and held == count for _, count, other in again)
    spent = "".join(f" {wall:9.2f} s {cpu:6.2f} s cpu" for wall, cpu in (slow, fast))
    print(f"{precision:10}{spent} {gains[0]:6.1f} {gains[1]:6.1f} {held:15,}  {same}", flush=True)
    return same and (precision not in BOUNDED or min(gains) >= BOUND)


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:]) or PRECISIONS))
