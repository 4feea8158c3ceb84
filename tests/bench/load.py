"""What the app adds to a load: its seconds against a bare `from_pretrained`.

Run it as `python -m tests.bench.load [rounds [precision…]]`.

A model of SmolLM2-135M's shape with random weights, loaded in turns: bare, bare with its tokenizer, and by the app,
whose seconds are those that its readout tells (the tokenizer included, the readout itself not). Each
round gives a ratio, so that what slows the machine for a while slows both; the median is told. The first round, in
which modules are imported and the file enters the page cache, is not counted. Seconds of the processor, of all
threads, are told beside: they hold on a busy machine too.
"""

from __future__ import annotations

import gc
import logging
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from quantspace.hub.demo import demo_folder
from quantspace.precision import PRECISIONS
from quantspace.runtime.job import Job
from quantspace.runtime.loader import load

SHAPE = {
    "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip
ROUNDS = 15
MEASURED = ("bf16", "fp32", "int8", "nf4", "nf4-dq", "int8-ao")


class Seconds(NamedTuple):
    wall: float
    processor: float


def main(rounds: int = ROUNDS, *precisions: str) -> None:
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        folder = checkpoint(Path(place))
        print(
            f"{'precision':10} {'bare':>7} {'app':>7} {'÷ bare':>7} {'÷ with tokenizer':>17} {'of the processor':>17}"
        )
        for precision_id in precisions or MEASURED:
            measure(folder, precision_id, rounds)


def checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE, dtype="bfloat16")).to(torch.bfloat16).save_pretrained(folder)
    for file in demo_folder().glob("*token*"):
        shutil.copy(file, folder)
    return folder


def measure(folder: Path, precision_id: str, rounds: int) -> None:
    def bare() -> Seconds:
        return seconds(lambda: _model(folder, precision_id))

    def with_tokenizer() -> Seconds:
        return seconds(lambda: (_model(folder, precision_id), AutoTokenizer.from_pretrained(folder)))

    ways = [bare, with_tokenizer, lambda: by_the_app(folder, precision_id)]
    rows = [[way() for way in ways] for _ in range(rounds + 1)][1:]
    middle = statistics.median
    print(
        f"{precision_id:10} {middle(bare.wall for bare, _, _ in rows):6.2f}s"
        f" {middle(app.wall for _, _, app in rows):6.2f}s"
        f" {middle(app.wall / bare.wall for bare, _, app in rows):7.3f}"
        f" {middle(app.wall / both.wall for _, both, app in rows):17.3f}"
        f" {middle(app.processor / both.processor for _, both, app in rows):17.3f}",
        flush=True,
    )


def by_the_app(folder: Path, precision_id: str) -> Seconds:
    def work() -> float:
        *_, loaded = load(Job("bench", "local", str(folder), precision_id, 0, 0), [])
        return loaded.readout.seconds

    before = time.process_time()
    told = work()
    taken = Seconds(told, time.process_time() - before)
    gc.collect()
    return taken


def seconds(work: Callable[[], object]) -> Seconds:
    started, before = time.perf_counter(), time.process_time()
    kept = work()
    taken = Seconds(time.perf_counter() - started, time.process_time() - before)
    del kept
    gc.collect()
    return taken


def _model(folder: Path, precision_id: str) -> object:
    kwargs = PRECISIONS[precision_id].transformers_kwargs()
    return LlamaForCausalLM.from_pretrained(folder, device_map={"": "cpu"}, local_files_only=True, **kwargs)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
