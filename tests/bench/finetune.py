"""How much of a training step the assumed activations cover, and how long watching takes: a table to read.

    python -m tests.bench.finetune configs/a.json configs/b.json …

For each `config.json`: bytes of activations and
logits a token as watched, as `finetune.py` assumes them, and by 34·s·b·h + 12·s·b·V of arXiv:2205.05198.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.hardware import find_gpu
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.training.assumed import LOGITS_BYTES
from quantspace.estimation.training.finetune import FinetuneWorkload, finetune
from quantspace.estimation.training.watch import watch_finetune

TOKENS = 4096
PASSING = ("gradients", "activations", "logits", "masks", "inputs of checkpointed")
WORKLOADS = [
    FinetuneWorkload(method, precision, sequence=TOKENS, checkpointing=checkpointing)
    for method, precision in (("full", "bf16"), ("lora", "bf16"), ("qlora", "nf4-dq"))
    for checkpointing in (False, True)
]


def main(paths: list[Path]) -> None:
    card = find_gpu("h200")
    for path in paths:
        data = json.loads(path.read_text())
        data.pop("quantization_config", None)
        inventory, config = inventory_from_config(data, path.stem), parse_config(data)
        for workload in WORKLOADS:
            start = time.perf_counter()
            peak = watch_finetune(config, model_class(config), inventory, workload)
            seconds = time.perf_counter() - start
            assumed = finetune(inventory, card, workload)
            name = f"{path.stem[:34]:34} {workload.method:5} checkpointing={workload.checkpointing:d}"
            if peak is None:
                print(f"{name} can't be watched ({seconds:.1f} s)")
                continue
            watched = finetune(inventory, card, workload, peak)
            text = config.get_text_config()
            layers = 2 * text.num_hidden_layers + 34 if workload.checkpointing else 34 * text.num_hidden_layers
            paper = TOKENS * (layers * text.hidden_size + LOGITS_BYTES * text.vocab_size)
            seen, guess = _passing(watched), _passing(assumed)
            print(
                f"{name} watched {seen / 1e9:8.2f} GB  assumed {guess / seen:5.2f}×  "
                f"paper {paper / seen:5.2f}×  {seconds:5.1f} s"
            )


def _passing(fit) -> int:
    return sum(term.bytes for term in fit.terms if term.name.startswith(PASSING))


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
