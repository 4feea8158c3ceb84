"""How long the largest models take: the inventory, then the fit table. `python -m tests.bench.inventory`

Times are of this machine in this run; the ratio to one bare build of the class on `meta` travels better.
"""

import gc
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.fit import Hardware, Workload, fit_table
from quantspace.estimation.hardware import gpus
from quantspace.estimation.meta.reader import build_on_meta, inventory_from_config
from quantspace.hub.catalogue import find_bundled

MODELS = (
    "meta-llama/Meta-Llama-3.1-405B",
    "deepseek-ai/DeepSeek-V3",
    "Qwen/Qwen3-235B-A22B-FP8",  # the 128-expert model
    "openai/gpt-oss-120b",
    "google/gemma-3-4b-it",
)
ROUNDS = 5


def median_ms(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def main() -> None:
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    inventory_from_config(find_bundled("openai-community/gpt2").config, "warm-up")
    gc.freeze()  # as the worker that builds classes does: collecting over the modules of torch doubles the time
    print(f"{'model':32} {'bare build':>10} {'inventory':>10} {'ratio':>6} {'one GPU':>8} {'all GPUs':>9}  (ms)")
    for model_id in MODELS:
        measure(model_id, find_bundled(model_id).config)


def measure(model_id: str, config: dict[str, Any]) -> None:
    parsed = parse_config(config)
    bare = median_ms(lambda: build_on_meta(parsed, model_class(parsed), torch.bfloat16))
    whole = median_ms(lambda: inventory_from_config(config, model_id))
    inventory = inventory_from_config(config, model_id)
    cards = list(gpus().values())
    one = median_ms(lambda: fit_table(inventory, Hardware(cards[0]), Workload()))
    every = median_ms(lambda: [fit_table(inventory, Hardware(card), Workload()) for card in cards], 2)
    print(f"{model_id:32} {bare:10.0f} {whole:10.0f} {whole / bare:6.1f} {one:8.1f} {every:9.0f}")


if __name__ == "__main__":
    main()
