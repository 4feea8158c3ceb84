"""What reading the headers of the largest models costs: bytes, requests, seconds. `python -m tests.bench.headers`

Sparse files of true size from the local Hub, so the network takes nothing: with a round trip of r seconds, add
about r × (1 + requests / 8), and the bytes over the line's rate.
"""

import json
import os
import time
from collections.abc import Mapping
from itertools import islice
from math import prod

from tests.hub import HubFile, LocalHub, SparseFile
from tests.hub.files import BITS

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]


def llama(layers: int, hidden: int, inner: int, kept: int, vocabulary: int) -> Tensors:
    """Names, dtypes and shapes of a Llama of `kept` key-value heads of 128 (or as wide as a small one allows)."""
    keys = kept * min(128, hidden // kept)
    shapes = {
        "input_layernorm": (hidden,), "mlp.down_proj": (hidden, inner), "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden), "post_attention_layernorm": (hidden,), "self_attn.k_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden), "self_attn.q_proj": (hidden, hidden), "self_attn.v_proj": (keys, hidden),
    }  # fmt: skip
    tensors = {"model.embed_tokens.weight": ("BF16", (vocabulary, hidden))}
    for layer in range(layers):
        tensors |= {f"model.layers.{layer}.{name}.weight": ("BF16", shape) for name, shape in shapes.items()}
    return tensors | {"model.norm.weight": ("BF16", (hidden,)), "lm_head.weight": ("BF16", (vocabulary, hidden))}


def deepseek_v3() -> Tensors:
    """Those of DeepSeek-V3 in FP8 with a scale for each block of 128 × 128: 61 layers of 256 experts, and one ahead."""
    hidden, expert, inner = 7168, 2048, 18432
    attention = {
        "q_a_proj": (1536, hidden), "q_b_proj": (24576, 1536), "kv_a_proj_with_mqa": (576, hidden),
        "kv_b_proj": (32768, 512), "o_proj": (hidden, 16384),
    }  # fmt: skip
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {"model.embed_tokens.weight": ("BF16", (129280, hidden))}

    def add(name: str, shape: tuple[int, int]) -> None:
        tensors[f"{name}.weight"] = ("F8_E4M3", shape)
        tensors[f"{name}.weight_scale_inv"] = ("F32", (-(-shape[0] // 128), -(-shape[1] // 128)))

    for layer in range(62):
        stem = f"model.layers.{layer}"
        for name, shape in attention.items():
            add(f"{stem}.self_attn.{name}", shape)
        mlps = {"mlp": inner} if layer < 3 else {f"mlp.experts.{n}": expert for n in range(256)}
        if layer >= 3:
            mlps["mlp.shared_experts"] = expert
            tensors[f"{stem}.mlp.gate.weight"] = ("BF16", (256, hidden))
            tensors[f"{stem}.mlp.gate.e_score_correction_bias"] = ("F32", (256,))
        for name, width in mlps.items():
            add(f"{stem}.{name}.gate_proj", (width, hidden))
            add(f"{stem}.{name}.up_proj", (width, hidden))
            add(f"{stem}.{name}.down_proj", (hidden, width))
        for norm, size in (("input_layernorm", hidden), ("post_attention_layernorm", hidden),
                           ("self_attn.q_a_layernorm", 1536), ("self_attn.kv_a_layernorm", 512)):  # fmt: skip
            tensors[f"{stem}.{norm}.weight"] = ("BF16", (size,))
    return tensors | {"model.norm.weight": ("BF16", (hidden,)), "lm_head.weight": ("BF16", (129280, hidden))}


def sharded(tensors: Tensors, shards: int) -> dict[str, HubFile | str]:
    """The files of a repository: so many shards of about as many tensors, and their index."""
    rows = iter(tensors.items())
    parts = [list(islice(rows, size)) for size in _even(len(tensors), shards)]
    files: dict[str, HubFile | str] = {}
    weight_map = {}
    for number, part in enumerate(parts, 1):
        path = f"model-{number:05}-of-{len(parts):05}.safetensors"
        files[path] = SparseFile.safetensors(dict(part), {"format": "pt"})
        weight_map |= {name: path for name, _ in part}
    total = sum(prod(shape) * BITS[dtype] // 8 for dtype, shape in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return {**files, "model.safetensors.index.json": json.dumps(index, indent=2)}


def _even(count: int, parts: int) -> list[int]:
    return [count * (n + 1) // parts - count * n // parts for n in range(parts)]


MODELS = {
    "70B in 30 shards": (lambda: llama(80, 8192, 28672, 8, 128256), 30),
    "405B in 191 shards": (lambda: llama(126, 16384, 53248, 8, 128256), 191),
    "DeepSeek-V3 in 163 shards": (deepseek_v3, 163),
}


def main() -> None:
    hub = LocalHub()
    with hub.running() as url:
        os.environ["HF_ENDPOINT"] = url  # before the client is imported: it reads its variables once
        from quantspace.hub.client import repo_facts
        from quantspace.hub.fetch import Fetched
        from quantspace.hub.reference import ModelRef
        from quantspace.hub.safetensors_headers import read_headers

        print(f"{'model':28} {'tensors':>8} {'files':>6} {'GB':>7} {'bytes':>12} {'requests':>9} {'seconds':>8}")
        for name, (tensors, shards) in MODELS.items():
            model_id = f"bench/{name.replace(' ', '-')}"
            hub.add_repo(model_id, sharded(tensors(), shards), safetensors=None)
            facts, cost = repo_facts(ModelRef(model_id)), Fetched()
            started = time.perf_counter()
            headers = read_headers(facts, cost=cost)
            seconds = time.perf_counter() - started
            held, count = sum(h.data_bytes for h in headers), sum(len(h.tensors) for h in headers)
            fetched = f"{cost.bytes:12,} {cost.requests:9} {seconds:8.2f}"
            print(f"{name:28} {count:8,} {len(headers):6} {held / 1e9:7.1f} {fetched}")


if __name__ == "__main__":
    main()
