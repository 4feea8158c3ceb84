"""Which share of one tensor a GPU holds under tensor parallelism, by the tensor's place in its layer.

After vLLM's parallel layers: a column-parallel layer divides its outputs and its bias, a row-parallel one its
inputs and no bias. Only names of modules that model classes share are told apart here, never models.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from ..inventory import CacheLayer, Inventory, TensorSpec

VOCABULARY_BLOCK = 64  # rows that the vocabulary is padded to (vocab_parallel_embedding.py)

Share = Literal["vocabulary", "divided", "heads", "whole"]

# Modules that every GPU holds whole (ReplicatedLinear, or a plain module).
_WHOLE = frozenset(
    {
        "q_a_proj",
        "kv_a_proj_with_mqa",
        "gate",
        "router",
        "shared_expert_gate",
        "indexer",
        "patch_embed",
        "patch_embedder",
        "patch_embedding",
        "multi_modal_projector",
        "embed_vision",
        "embed_audio",
    }
)
# Layers that divide their inputs; all others divide their outputs.
_ROW_PARALLEL = frozenset(
    {
        "o_proj",
        "out_proj",
        "down_proj",
        "c_proj",
        "dense",
        "dense_4h_to_h",
        "fc2",
        "fc_out",
        "linear_fc2",
        "proj",
        "w2",
        "wo",
    }
)
_SELF_ATTENTION = re.compile(r"\.(\d+)\.(?:self_attn|attention|mixer)\.")
_FUSED_QKV = frozenset({"qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv"})


class Indivisible(ValueError):
    """A model can't be divided over so many GPUs; the message says why."""


def share_of(inventory: Inventory, spec: TensorSpec, count: int, by_bytes: bool) -> tuple[Share, TensorSpec]:
    """How a tensor is shared out over `count` GPUs, and the tensor that each of them holds.

    Args:
        by_bytes: divide a packed tensor's bytes, not its shape: the same tensor then comes back as `divided`.

    Raises:
        Indivisible: a dimension that has to be divided can't be.
    """
    path = spec.name.split(".")
    if spec.role in ("head", "embedding") and spec.shape[0] >= (inventory.vocab_size or 1 << 62):
        return "vocabulary", _vocabulary(spec, count)
    if count == 1 or spec.role in ("embedding", "norm", "buffer") or not _WHOLE.isdisjoint(path):
        return "whole", spec
    if by_bytes:
        return ("divided", spec) if len(spec.shape) > 1 else ("whole", spec)
    if spec.role == "experts":
        return "divided", _experts(inventory, spec, count)
    if spec.role == "linear":
        return _linear(inventory, spec, _module(path), count)
    return _beside(spec, _module(path), count)


def kv_heads(inventory: Inventory, row: CacheLayer) -> int:
    """Key-value heads of a cache row; layers that differ tell their head's width by the norm of their keys."""
    heads = inventory.key_value_heads or 0
    if len({other.token_elements for other in inventory.cache if other.token_elements}) < 2:
        return heads
    norm = f".layers.{row.layers[0]}.self_attn.k_norm.weight"
    widths = [t.shape[0] for t in inventory.tensors if t.name.endswith(norm) and "vision" not in t.name]
    return row.token_elements // (2 * widths[0]) if widths else heads


def _module(path: list[str]) -> str:
    """The name of the layer that a tensor belongs to; `linear` is a wrapper's name for what it wraps."""
    names = [name for name in path[:-1] if name != "linear"]
    return names[-1] if names else ""


def _vocabulary(spec: TensorSpec, count: int) -> TensorSpec:
    rows = -(-spec.shape[0] // VOCABULARY_BLOCK) * VOCABULARY_BLOCK
    return _cut(spec, (rows, *spec.shape[1:]), 0, count, f"vocabulary of {rows:,}")


def _experts(inventory: Inventory, spec: TensorSpec, count: int) -> TensorSpec:
    """Fused experts, whose intermediate values are divided; along which axis, its bytes do not tell."""
    fused = 2 if "gate_up" in spec.name else 1
    hidden = inventory.hidden_size or 1
    width = spec.elements // (spec.shape[0] * hidden * fused) if len(spec.shape) == 3 else spec.shape[-1] // fused
    if len(spec.shape) < 3 and "down" in spec.name:
        return spec
    if width % count:
        raise Indivisible(f"The {width:,} intermediate values of its experts can't be divided over {count} GPUs.")
    axis = max(range(1, len(spec.shape)), key=lambda axis: spec.shape[axis] == width * fused)
    return _cut(spec, spec.shape, axis, count, "experts")


def _linear(inventory: Inventory, spec: TensorSpec, module: str, count: int) -> tuple[Share, TensorSpec]:
    outputs, inputs = (1, 0) if spec.transposed else (0, 1)
    rows = spec.shape[outputs]
    if module in ("k_proj", "v_proj") and (heads := _cached_heads(inventory, spec)) and heads < count:
        return "heads", _resized(spec, outputs, rows // heads)
    if module in _FUSED_QKV and (width := _fused_width(inventory, rows, count)):
        return "divided", _resized(spec, outputs, width)
    axis = inputs if module in _ROW_PARALLEL else outputs
    what = f"{spec.shape[axis]:,} {'inputs' if axis == inputs else 'outputs'} of {module}"
    return "divided", _cut(spec, spec.shape, axis, count, what)


def _beside(spec: TensorSpec, module: str, count: int) -> tuple[Share, TensorSpec]:
    """Biases follow their layer's outputs; convolutions and what a recurrence holds by head are divided too."""
    own = spec.name.rpartition(".")[2]
    by_channel = "conv" in module or own in ("A_log", "D", "dt_bias")
    divided = by_channel or (spec.role == "bias" and module not in _ROW_PARALLEL)
    if not divided or spec.shape[0] % count:
        return "whole", spec
    return "divided", _cut(spec, spec.shape, 0, count, spec.name)


def _cached_heads(inventory: Inventory, spec: TensorSpec) -> int:
    """Key-value heads behind a projection of the text model, 0 for one of another tower."""
    place = _SELF_ATTENTION.search(spec.name)
    width = spec.shape[1 if spec.transposed else 0]
    if place is None:
        return 0
    rows = (row for row in inventory.cache if row.token_elements == 2 * width and int(place[1]) in row.layers)
    return next((kv_heads(inventory, row) for row in rows), 0)


def _fused_width(inventory: Inventory, rows: int, count: int) -> int:
    heads, cached = inventory.attention_heads or 0, inventory.key_value_heads or 0
    if not heads or rows % (heads + 2 * cached):
        return 0
    return rows // (heads + 2 * cached) * (heads // count + 2 * max(1, cached // count))


def _cut(spec: TensorSpec, shape: tuple[int, ...], axis: int, count: int, what: str) -> TensorSpec:
    if shape[axis] % count:
        raise Indivisible(f"The {what} can't be divided over {count} GPUs.")
    return _resized(replace(spec, shape=shape), axis, shape[axis] // count)


def _resized(spec: TensorSpec, axis: int, size: int) -> TensorSpec:
    shape = (*spec.shape[:axis], size, *spec.shape[axis + 1 :])
    rows = size if spec.rows and axis == (1 if spec.transposed else 0) else spec.rows
    return replace(spec, shape=shape, rows=rows)
