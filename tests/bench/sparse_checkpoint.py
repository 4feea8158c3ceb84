"""Checkpoints of true size that take no disk: real configs, real names and shapes, weights that are holes.

A hole in a file reads as zeros, so that the app's own loader reads such a checkpoint as it reads a published
one. `fill` then gives the loaded model random weights in place, for zeros route every token to the same experts
and make quantized weights divide by nothing.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.core_model_loading import revert_weight_conversion

from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.meta.reader import build_on_meta

WORDS = 512  # of the vocabulary that prompts are made of
FIRST_WORD = 3  # the ids before are special in most models
SCALE = 0.05  # of a block or a row of a quantized weight
_DTYPES = {torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}
_BYTES = {"BF16": 2, "I64": 8, "I32": 4, "BOOL": 1}

_NARROWER = 8  # times, at most; heads of linear attention stay, a CPU's 4-bit kernels take no fewer
_HEADS = ("num_attention_heads", "n_head", "num_heads")
_DIVIDED = ("num_key_value_heads", "sliding_window")
_WIDTHS = ("hidden_size", "n_embd", "intermediate_size", "moe_intermediate_size", "n_inner", "vocab_size")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_LAYERS = ("num_hidden_layers", "n_layer", "depth")
_FEWEST_LAYERS = 4  # the first, the last, and two between them
_UNIT = 64  # widths stay multiples of it: a block of a 4-bit weight


def write_sparse(config: Mapping[str, Any], folder: Path) -> int:
    """Write a checkpoint whose weights are holes, in bf16, and a tokenizer of `WORDS` words; returns its bytes."""
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(plain), encoding="utf-8")
    # Published ones have this file; without it, generation follows config.json, which may turn the cache off.
    GenerationConfig(do_sample=True).save_pretrained(folder)
    words_tokenizer().save_pretrained(folder)
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in published_tensors(plain).items():
        size = _BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return at


def published_tensors(config: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of each tensor of a published checkpoint, under the names that `save_pretrained` gives it.

    These are the names before transformers fuses experts, so that a load does that work too.
    """
    parsed = parse_config(config)
    model = build_on_meta(parsed, model_class(parsed), torch.bfloat16)
    kept = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    state = {name: tensor for name, tensor in model.state_dict().items() if name in kept}
    with torch.device("meta"):
        published = revert_weight_conversion(model, state)
    return {name: (_DTYPES.get(tensor.dtype, "BF16"), tuple(tensor.shape)) for name, tensor in published.items()}


def words_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each of the words `w0`, `w1`, …: a text of n words is n tokens."""
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", model_max_length=10**9)


def prompt_of(tokens: int, seed: int = 0) -> str:
    """A text of exactly so many random tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(FIRST_WORD, WORDS, (tokens,), generator=generator)
    return " ".join(f"w{number}" for number in ids.tolist())


@torch.no_grad()
def fill(model: PreTrainedModel) -> None:
    """Random weights in place of zeros, without another byte: norms pass on what they get."""
    for name, parameter in model.named_parameters():
        data = parameter.data
        if data.dtype in (torch.int8, torch.uint8):
            data.random_(-127, 128) if data.dtype == torch.int8 else data.random_(0, 256)
            _fill_scales(parameter)
        elif data.is_floating_point() and data.dim() > 1:
            data.normal_(0, 0.02)
        elif "norm" in name and name.endswith("weight"):
            data.fill_(1)


def _fill_scales(parameter: torch.nn.Parameter) -> None:
    if (scales := getattr(parameter, "SCB", None)) is not None:
        scales.fill_(SCALE)
    if (state := getattr(parameter, "quant_state", None)) is None:
        return
    if state.nested:
        state.state2.absmax.zero_()
        state.offset.fill_(SCALE)
    else:
        state.absmax.fill_(SCALE)


def shrunk(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same architecture for a CPU: fewer layers, heads and experts, narrower, with every kind of layer kept.

    Heads keep their size, for rotary factors are made for it.
    """
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    whole = json.loads(parse_config(plain).to_json_string(use_diff=False))
    for key in ("text_config", "vision_config"):
        if isinstance(whole.get(key), dict):
            whole[key] = (_shrunk_text if key == "text_config" else _fewer_layers)(whole[key])
    return whole if "text_config" in whole else _shrunk_text(whole)


def _shrunk_text(config: dict[str, Any]) -> dict[str, Any]:
    small = _fewer_layers(config)
    heads = next(config[key] for key in _HEADS if config.get(key))
    by = next(n for n in range(_NARROWER, 0, -1) if heads % n == 0)
    for key in (*_HEADS, *_DIVIDED):
        if isinstance(config.get(key), int):
            small[key] = max(config[key] // by, 1)
    unit = _UNIT if config.get("head_dim") else 1  # else heads × their size
    for key in _WIDTHS:
        if isinstance(config.get(key), int):
            width = unit if key in ("hidden_size", "n_embd") else _UNIT
            small[key] = max(config[key] // by // width, 1) * width
    chosen = config.get("num_experts_per_tok") or 0
    for key in _EXPERTS:
        if isinstance(config.get(key), int):
            small[key] = max(config[key] // by, 2 * chosen)
    small.pop("num_experts", None) if "num_local_experts" in small else None
    return {key: _within(key, value, small["vocab_size"]) for key, value in small.items()}


def _within(key: str, value: Any, vocabulary: int) -> Any:
    """Ids of special tokens inside of a smaller vocabulary, after the words of prompts."""
    if not key.endswith(("_token_id", "_token_index")) or value is None:
        return value
    return [min(one, vocabulary - 1) for one in value] if isinstance(value, list) else min(value, vocabulary - 1)


def _fewer_layers(config: dict[str, Any]) -> dict[str, Any]:
    key = next((key for key in _LAYERS if config.get(key)), None)
    if key is None:
        return dict(config)
    kinds = config.get("layer_types") or []
    layers = min(config[key], max([_FEWEST_LAYERS, *(kinds.index(kind) + 1 for kind in kinds)]))
    cut = {k: v[:layers] if isinstance(v, list) and len(v) == config[key] else v for k, v in config.items()}
    return cut | {key: layers}
