"""What `nf4-moe` holds, takes while loading, and costs a token, on three kinds of mixtures of experts.

    python -m tests.bench.moe [threads]

Models of random weights whose experts outweigh the rest, as in published ones. Speeds are ratios within this run: of
visited experts alone unpacked (what the app does), against a layer's experts unpacked at each pass (bitsandbytes'
parametrization under transformers' own `grouped_mm`), and against experts in bf16. Below, by arithmetic, published
sizes: held, and at most while loading, when the last layer is read.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedModel

from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.bundled import bundled_inventory
from quantspace.estimation.inventory import Inventory
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.weights import weight_bytes
from quantspace.precision import PRECISIONS
from quantspace.runtime.experts import load_with_experts
from quantspace.runtime.readout import held_tensors
from tests.allocated import Allocated

COMMON = {
    "vocab_size": 1024, "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 512,
}  # fmt: skip
MIXTURES = {
    "qwen3_moe": {
        "num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 256, "intermediate_size": 512,
    },
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 1024},
    "gpt_oss": {"num_local_experts": 16, "num_experts_per_tok": 4, "intermediate_size": 512, "sliding_window": 128},
}  # fmt: skip
PUBLISHED = (
    "Qwen/Qwen3-30B-A3B",
    "mistralai/Mixtral-8x7B-v0.1",
    "openai/gpt-oss-20b",
    "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    "deepseek-ai/DeepSeek-V3",
)
PROMPT, STEPS, ROUNDS = 64, 8, 3
GIB = 2**30


def main(threads: int = 1) -> None:
    torch.set_num_threads(threads)
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    for model_type in MIXTURES:
        with tempfile.TemporaryDirectory() as folder:
            measure(model_type, Path(folder))
    for model_id in PUBLISHED:
        tell(model_id)


def measure(model_type: str, folder: Path) -> None:
    inventory = make(model_type, folder)
    bf16 = weight_bytes(inventory, PRECISIONS["bf16"]).held
    expected = weight_bytes(inventory, PRECISIONS["nf4-moe"]).held
    with Allocated() as loading:
        started = time.perf_counter()
        packed = load(folder, load_with_experts)
        seconds = time.perf_counter() - started
    held = sum(tensor.held_bytes for tensor in held_tensors(packed))
    print(f"{model_type}: bf16 {bf16:,} B; held {held:,} ({held / bf16:.1%}), {held - expected:+d} B off the estimate")
    print(f"  loading: at most {loading.peak:,} ({loading.peak / bf16:.1%} of bf16) in {seconds:.1f} s")
    layer = 2 * sum(tensor.elements for tensor in inventory.tensors if tensor.role == "experts")
    layer //= COMMON["num_hidden_layers"]
    for tokens in (1, PROMPT):
        taken = peak(packed, tokens)
        print(f"  a pass of {tokens} tokens takes {taken:,} B; a layer's experts in bf16 are {layer:,}")
    plain = load(folder, lambda cls, path, config, device, **kwargs: cls.from_pretrained(path, config=config, **kwargs))
    steps = {"bf16": step(plain), "visited": step(packed)}
    packed.set_experts_implementation("grouped_mm")
    steps["whole layers"] = step(packed)
    shown = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in steps.items())
    print(f"  a token: {shown}: {steps['whole layers'] / steps['visited']:.1f}× as fast as by whole layers")


def make(model_type: str, folder: Path) -> Inventory:
    config = CONFIG_MAPPING[model_type](**COMMON, **MIXTURES[model_type])
    cls = model_class(config)
    config.architectures = [cls.__name__]
    torch.manual_seed(0)
    cls(config).to(torch.bfloat16).save_pretrained(folder)
    return inventory_from_config(json.loads((folder / "config.json").read_text()), model_type)


def load(folder: Path, how: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    config = parse_config(json.loads((folder / "config.json").read_text()))
    return how(model_class(config), folder, config, "cpu", dtype=torch.bfloat16)


@torch.no_grad()
def peak(model: PreTrainedModel, tokens: int) -> int:
    prompt = torch.randint(3, 1000, (1, tokens))
    model(prompt)  # bitsandbytes may pack linear layers anew at their first pass
    with Allocated() as passing:
        model(prompt)
    return passing.peak


@torch.no_grad()
def step(model: PreTrainedModel) -> float:
    """Processor seconds of a decoding step, the fastest of some rounds' medians: others use this machine too."""
    prompt = torch.randint(3, 1000, (1, PROMPT))
    rounds = []
    for _ in range(ROUNDS):
        cache = model(prompt, use_cache=True).past_key_values
        times = []
        for _ in range(STEPS):
            started = time.process_time()
            model(prompt[:, :1], past_key_values=cache, use_cache=True)
            times.append(time.process_time() - started)
        rounds.append(statistics.median(times))
    return min(rounds)


def tell(model_id: str) -> None:
    inventory = bundled_inventory(model_id)
    held = weight_bytes(inventory, PRECISIONS["nf4-moe"], on_gpu=True).held
    bf16, linear = (weight_bytes(inventory, PRECISIONS[name]).held for name in ("bf16", "nf4-dq"))
    merging = 4 * max(tensor.elements for tensor in inventory.tensors if tensor.role == "experts")
    print(
        f"{model_id}: bf16 {bf16 / GIB:.1f} GiB, nf4-dq {linear / GIB:.1f}, nf4-moe {held / GIB:.2f} "
        f"({held / bf16:.1%}), at most {(held + merging) / GIB:.2f} while loading"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
