"""What a conversion to GGUF makes of a model's tensors: their names there, and the shapes they are stored in.

Follows llama.cpp's converter (`conversion/*.py`, and the names of `gguf-py/gguf/tensor_mapping.py`) from
the names of transformers 5, whose fused experts GGUF keeps apart. Which type a tensor ends in is the
matter of `mix.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from ..inventory import Inventory, TensorSpec

_TOWER = re.compile(r"(^|\.)(vision|visual|audio|multi_modal|mm_|embed_vision|embed_audio|image_|connector|qformer)")
_LAYER = re.compile(r"^(?:(?P<stack>.*?)\.)?(?:layers|h|blocks?)\.(?P<layer>\d+)\.(?:layer\.\d+\.)?(?P<rest>.+)$")
_GROUPS = {"attn": "self_attn", "self_attention": "self_attn", "SelfAttention": "self_attn", "feed_forward": "mlp",
           "ffn": "mlp", "DenseReluDense": "mlp", "block_sparse_moe": "mlp"}  # fmt: skip
_STORED_BUFFERS = ("e_score_correction_bias", "layer_scalar")
_FUSED = ("gate_up_proj", "up_proj", "down_proj")  # parameters that hold all experts of a layer
_OF_MIXERS = ("mixer", "self_attn", "mlp")  # Nemotron-H calls every kind of layer a mixer

_MODEL = {
    "embed_tokens": "token_embd", "embeddings": "token_embd", "word_embeddings": "token_embd", "wte": "token_embd",
    "shared": "token_embd", "embed_tokens_per_layer": "per_layer_token_embd", "lm_head": "output",
    "wpe": "position_embd", "embed_positions": "position_embd", "per_layer_model_projection": "per_layer_model_proj",
}  # fmt: skip
_LAYERS = {
    **dict.fromkeys(("self_attn.q_proj", "self_attn.q"), "attn_q"),
    **dict.fromkeys(("self_attn.k_proj", "self_attn.k"), "attn_k"),
    **dict.fromkeys(("self_attn.v_proj", "self_attn.v"), "attn_v"),
    **dict.fromkeys(
        ("self_attn.qkv_proj", "self_attn.c_attn", "self_attn.query_key_value", "self_attn.Wqkv",
         "linear_attn.in_proj_qkv"), "attn_qkv",
    ),
    **dict.fromkeys(
        ("self_attn.o_proj", "self_attn.out_proj", "self_attn.dense", "self_attn.c_proj"), "attn_output"
    ),
    "self_attn.o": "attn_o",
    **{f"EncDecAttention.{part}": f"cross_attn_{part}" for part in "qkvo"},
    "self_attn.relative_attention_bias": "attn_rel_b",
    "self_attn.q_a_proj": "attn_q_a", "self_attn.q_b_proj": "attn_q_b", "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.indexer.wq_b": "indexer.attn_q_b", "self_attn.indexer.wk": "indexer.attn_k",
    "self_attn.indexer.weights_proj": "indexer.proj",
    "self_attn.indexer.q_proj": "indexer.q_proj", "self_attn.indexer.k_proj": "indexer.k_proj",
    "linear_attn.in_proj_z": "attn_gate", "linear_attn.in_proj_a": "ssm_alpha", "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_ba": "ssm_ba", "linear_attn.out_proj": "ssm_out", "linear_attn.conv1d": "ssm_conv1d",
    "mixer.in_proj": "ssm_in", "mixer.x_proj": "ssm_x", "mixer.dt_proj": "ssm_dt", "mixer.out_proj": "ssm_out",
    "mixer.conv1d": "ssm_conv1d", "mixer.A_log": "ssm_a",
    "mixer.fc1_latent_proj": "ffn_latent_down", "mixer.fc2_latent_proj": "ffn_latent_up",
    "conv.in_proj": "shortconv.in_proj", "conv.out_proj": "shortconv.out_proj", "conv.conv": "shortconv.conv",
    **dict.fromkeys(("mlp.gate_proj", "mlp.w1"), "ffn_gate"),
    **dict.fromkeys(
        ("mlp.up_proj", "mlp.w3", "mlp.gate_up_proj", "mlp.c_fc", "mlp.dense_h_to_4h", "fc1", "mlp.wi"), "ffn_up"
    ),
    **dict.fromkeys(("mlp.down_proj", "mlp.w2", "mlp.c_proj", "mlp.dense_4h_to_h", "fc2", "mlp.wo"), "ffn_down"),
    **dict.fromkeys(("mlp.gate", "mlp.router", "router.proj"), "ffn_gate_inp"),
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    **{f"mlp.shared_expert{plural}.{half}_proj": f"ffn_{half}_shexp"
       for plural in ("", "s") for half in ("gate", "up", "down")},
    "mlp.shared_experts.gate_up_proj": "ffn_up_shexp",
    "per_layer_input_gate": "inp_gate", "per_layer_projection": "proj",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor of a GGUF file.

    Attributes:
        name: without its layer: `attn_v.weight`.
        layer: its block; -1 outside of the blocks, and in an encoder-decoder, whose blocks are named otherwise.
        shape: as in transformers, rows last; ggml lists it the other way around.
        order: full name: llama.cpp goes through the tensors by block, then by name.
        known: whether `name` is GGUF's; otherwise it is the model's own.
    """

    name: str
    layer: int
    shape: tuple[int, ...]
    order: str
    known: bool = True

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def dims(self) -> int:
        """Dimensions as ggml counts them: outermost ones of size 1 don't."""
        shape = self.shape
        while len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
        return len(shape)


def in_tower(spec: TensorSpec) -> bool:
    """Whether a tensor belongs to a vision or audio tower, which is converted to a file of its own (mmproj)."""
    return bool(_TOWER.search(spec.name))


def gguf_tensors(inventory: Inventory) -> list[GgufTensor]:
    """The tensors of the language model as its GGUF file holds them, in the order llama.cpp visits them."""
    text = {t.name: t for t in inventory.tensors if _is_stored(t) and not in_tower(t)}
    hidden = next((t.shape[-1] for t in text.values() if t.role == "embedding"), 0)
    context = _Context(inventory.attention_heads or 0, hidden, text)
    tensors = [tensor for spec in text.values() for tensor in _converted(spec, context)]
    return sorted(tensors, key=lambda tensor: (tensor.layer, tensor.order))


def _is_stored(spec: TensorSpec) -> bool:
    """Whether a file holds it: of the buffers, those that a checkpoint holds too (rotary tables are not)."""
    return spec.tied_to is None and (spec.role != "buffer" or spec.name.endswith(_STORED_BUFFERS))


@dataclass(frozen=True, slots=True)
class _Context:
    """What splitting a tensor takes beside its own shape."""

    heads: int
    hidden: int
    tensors: Mapping[str, TensorSpec]

    def beside(self, name: str, leaf: str, other: str) -> tuple[int, ...] | None:
        """Shape of the tensor that is called `other` where `name` is called `leaf`; `None` without one."""
        found = self.tensors.get(name.replace(leaf, other))
        return found.shape if found else None


def _converted(spec: TensorSpec, context: _Context) -> Iterator[GgufTensor]:
    stack, layer, path = _place(spec.name)
    for name, shape in _parts(spec, path, context):
        full = f"{name or path}{_suffix(spec, name)}"
        known = name is not None or len(shape) < 2 or spec.role in ("norm", "bias")
        yield GgufTensor(full, -1 if stack else layer, shape, f"{stack}{layer}.{full}", known)


def _suffix(spec: TensorSpec, name: str | None) -> str:
    if name == "ssm_a" or (name is None and spec.name.endswith("bias")):
        return ""
    return ".bias" if spec.name.endswith("bias") else ".weight"


def _place(name: str) -> tuple[str, int, str]:
    """`model.layers.3.mlp.up_proj.weight` → `("", 3, "mlp.up_proj")`; T5 has an `enc` and a `dec` stack."""
    match = _LAYER.match(name)
    bare = name.removesuffix(".weight")
    if match is None:
        return "", -1, bare.rpartition(".")[2]
    stack = {"encoder": "enc", "decoder": "dec"}.get(match["stack"] or "", "")
    group, dot, tail = match["rest"].removesuffix(".weight").partition(".")
    return stack, int(match["layer"]), f"{_GROUPS.get(group, group)}{dot}{tail}"


def _parts(spec: TensorSpec, path: str, context: _Context) -> Iterator[tuple[str | None, tuple[int, ...]]]:
    """The names and shapes that one tensor becomes."""
    group, _, leaf = path.rpartition(".")
    shape = spec.shape
    if group.rpartition(".")[2] == "experts" and leaf.removesuffix("_bias") in _FUSED:
        yield from _experts(leaf, shape, context.hidden)
    elif leaf == "kv_b_proj" and context.heads and (output := context.beside(spec.name, leaf, "o_proj")):
        values = output[1] // context.heads
        yield "attn_k_b", (context.heads, shape[1], shape[0] // context.heads - values)
        yield "attn_v_b", (context.heads, values, shape[1])
    elif leaf == "in_proj_qkvz" and (convolution := context.beside(spec.name, leaf, "conv1d")):
        yield "attn_qkv", (convolution[0], shape[1])
        yield "attn_gate", (shape[0] - convolution[0], shape[1])
    elif len(shape) == 3:  # a convolution over time, one input channel a filter
        yield _gguf_name(path), (shape[0], shape[2])
    else:
        yield _gguf_name(path), shape[::-1] if spec.transposed else shape


def _experts(leaf: str, shape: tuple[int, ...], hidden: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Experts, gate and up apart, rows last; gpt-oss and Llama 4 hold them transposed."""
    halves = ("gate", "up") if leaf.startswith("gate_up") else (leaf.partition("_")[0],)
    if len(shape) == 2:  # their biases
        yield from ((f"ffn_{half}_exps", (shape[0], shape[1] // len(halves))) for half in halves)
        return
    experts, out, row = shape
    if out != row and hidden == (row if halves == ("down",) else out):
        out, row = row, out
    yield from ((f"ffn_{half}_exps", (experts, out // len(halves), row)) for half in halves)


@lru_cache(maxsize=1024)  # a few dozen paths, once a layer
def _gguf_name(path: str) -> str | None:
    group, _, tail = path.partition(".")
    if not tail:
        return _MODEL.get(path) or _LAYERS.get(path)
    groups = _OF_MIXERS if group == "mixer" else (group,)
    return next((_LAYERS[f"{each}.{tail}"] for each in groups if f"{each}.{tail}" in _LAYERS), None)
