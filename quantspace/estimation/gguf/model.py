"""A model's tensors as llama.cpp's quantizer sees them: which are alike, which stay as they are, and what decides.

Everything a mix needs to know of a model, found once. What a mix makes of it is in `mix.py`.
Source: `tensor_get_category`, `tensor_allows_quantization` and the counters of `src/llama-quant.cpp`
(commit 007dbbf3), and `conversion/base.py` for what is converted to float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ..inventory import Inventory
from .names import GgufTensor, gguf_tensors, in_tower

Category = Literal["token_embd", "output", "attn_v", "attn_k", "attn_output", "ffn_down", "other"]

KEPT = 256  # models whose tensors stay classified
_SMALL = "norms, biases"
_CATEGORIES: tuple[tuple[str, Category], ...] = (  # llama.cpp takes the first that is part of the name
    ("attn_qkv.weight", "attn_v"),
    ("attn_kv_b.weight", "attn_v"),
    ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"),
    ("attn_output.weight", "attn_output"),
    ("ffn_down", "ffn_down"),
)
_WHOLE_NAMES = ("output.weight", "token_embd.weight", "per_layer_token_embd.weight")
_KEPT_FLOAT32 = ("ffn_gate_inp.weight", "ssm_conv1d", "shortconv.conv.weight", "position_embd")
_KEPT_AS_CONVERTED = ("attn_rel_b.weight", "per_layer_model_proj", "indexer.k_proj.weight", "indexer.q_proj.weight")
_UNSUPPORTED = ("OPT", "Mllama")  # classes that llama.cpp has no converter for
_PREDICTS_AHEAD = "its layer for predicting ahead (MTP), unless it was converted without"
_ALSO_IN_FILE = {  # what a file holds that transformers does not build
    "Glm4Moe": _PREDICTS_AHEAD,
    "GlmMoeDsa": _PREDICTS_AHEAD,
    "Qwen3_5": _PREDICTS_AHEAD,
}
_SHARED_CACHE = "keys and values of the layers that share another layer's cache"
_SEVENTY_B_LAYERS = 80
_SEVENTY_B = {  # classes of which llama.cpp calls 80 layers “70B”; whether only if query heads share a value head
    "LlamaForCausalLM": True,
    "MistralForCausalLM": True,
    "LlavaForConditionalGeneration": True,
    "Qwen2ForCausalLM": False,
}


@dataclass(frozen=True, slots=True)
class LikeTensors:
    """Tensors that no mix tells apart.

    Attributes:
        what: name in the file, without its layer.
        row: weights in a row, which blocks must divide.
        elements: weights of one tensor.
        kept: the type it has in every mix; `None` where the mix chooses.
        first: among the first sixteenth of the layers; of values, the first two.
        favoured: in the first or last eighth of the layers, or every third of those between.
    """

    what: str
    category: Category
    row: int
    elements: int
    kept: str | None
    first: bool
    favoured: bool


@dataclass(frozen=True)
class GgufModel:
    """What a mix needs to know of a model.

    Attributes:
        tensors: of its GGUF file, like ones counted.
        tied: whether the token embeddings serve as the output too.
        gqa: query heads that share a value head in the first layer; 0 where that has no attention.
        experts: routed experts of a layer.
        seventy_b: whether llama.cpp takes it for Llama-2-70B's like.
        falcon: whether it is a Falcon, which has rules of its own.
        exact: whether the file holds these tensors and no others.
        notes: what people should know of the figures; where they are not exact, first why.
    """

    tensors: Counter[LikeTensors]
    tied: bool
    gqa: int
    experts: int
    seventy_b: bool
    falcon: bool
    exact: bool
    notes: tuple[str, ...]


@lru_cache(maxsize=KEPT)  # an inventory is compared by identity
def gguf_model(inventory: Inventory) -> GgufModel:
    """Classify a model's tensors, once; every mix then takes microseconds."""
    tensors = gguf_tensors(inventory)
    experts = next((t.shape[0] for t in tensors if "_exps.weight" in t.name), 0)
    layers = 1 + max((t.layer for t in tensors), default=0)
    doubts = tuple(_doubts(inventory, tensors))
    return GgufModel(
        tensors=_like(tensors, layers, experts, _stays_mxfp4(inventory)),
        tied=not any(t.name == "output.weight" for t in tensors),
        gqa=_gqa(inventory, tensors),
        experts=experts,
        seventy_b=layers == _SEVENTY_B_LAYERS and _is_seventy_b(inventory),
        falcon=inventory.architecture == "FalconForCausalLM",
        exact=not doubts,
        notes=doubts + tuple(_notes(inventory)),
    )


def _like(tensors: Sequence[GgufTensor], layers: int, experts: int, keep_mxfp4: bool) -> Counter[LikeTensors]:
    """Like tensors, counted. Values are told apart by their place among all values, down projections by layer."""
    values = sum(_category(t.name) == "attn_v" for t in tensors)
    seen: Counter[str] = Counter()
    like: Counter[LikeTensors] = Counter()
    for t in tensors:
        kept = "MXFP4" if keep_mxfp4 and "_exps.weight" in t.name else _kept_type(t.name, t.dims)
        category = _category(t.name)
        first = favoured = False
        if kept is None and category in ("attn_v", "ffn_down"):
            by_layer = category == "ffn_down" and experts > 1
            place, of = (t.layer if by_layer else seen[category]), (values if category == "attn_v" else layers)
            first = place < (2 if category == "attn_v" else of // 16)
            favoured = _favoured(place, of)
            seen[category] += 1
        what = _SMALL if t.dims < 2 else t.name.removesuffix(".weight")
        like[LikeTensors(what, category, t.shape[-1] if t.shape else 1, t.elements, kept, first, favoured)] += 1
    return like


@lru_cache(maxsize=1024)  # a few dozen names, once a layer
def _category(name: str) -> Category:
    if name in _WHOLE_NAMES:
        return "output" if name == "output.weight" else "token_embd"
    return next((kind for part, kind in _CATEGORIES if part in name), "other")


@lru_cache(maxsize=1024)
def _kept_type(name: str, dims: int) -> str | None:
    """The type of a tensor that is not quantized: `None` where it is."""
    if dims < 2 or not name.endswith("weight") or "_norm.weight" in name:
        return "F32"
    if any(part in name for part in _KEPT_FLOAT32):
        return "F32"
    return "F16" if any(part in name for part in _KEPT_AS_CONVERTED) else None


def _favoured(place: int, of: int) -> bool:
    """`use_more_bits` of llama.cpp."""
    return place < of // 8 or place >= 7 * of // 8 or (place - of // 8) % 3 == 2


def _gqa(inventory: Inventory, tensors: Iterable[GgufTensor]) -> int:
    first = {t.name for t in tensors if t.layer == 0}
    recurrent = first & {"ssm_in.weight", "shortconv.in_proj.weight"}  # head counts are then listed layer by layer
    if recurrent and not first & {"attn_q.weight", "attn_qkv.weight"}:
        return 0
    heads = inventory.attention_heads or 1
    return heads // (inventory.key_value_heads or heads)


def _is_seventy_b(inventory: Inventory) -> bool:
    if_shared = _SEVENTY_B.get(inventory.architecture)
    return if_shared is False or (if_shared is True and inventory.attention_heads != inventory.key_value_heads)


def _stays_mxfp4(inventory: Inventory) -> bool:
    """Experts that are published as MXFP4 are converted as they are, and llama.cpp does not quantize them again."""
    return inventory.prequantized == "mxfp4"


def _doubts(inventory: Inventory, tensors: Sequence[GgufTensor]) -> Iterator[str]:
    """Why a file may hold other bytes than these."""
    if inventory.architecture.startswith(_UNSUPPORTED):
        yield "llama.cpp does not convert this architecture: the figure is what its rules would give."
    extras = [extra for prefix, extra in _ALSO_IN_FILE.items() if inventory.architecture.startswith(prefix)]
    if _shares_cache(tensors):
        extras.append(_SHARED_CACHE)
    for extra in extras:
        yield f"A GGUF file of this model also holds {extra}; that is not counted here."
    if unknown := sorted({t.name for t in tensors if not t.known}):
        listed = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
        yield f"Counted as ordinary weights, since what GGUF makes of them is not known: {listed}."


def _shares_cache(tensors: Sequence[GgufTensor]) -> bool:
    """Whether some layers have queries and no keys of their own, as the last ones of Gemma 4 E2B."""
    layers = {name: {t.layer for t in tensors if t.name == f"{name}.weight"} for name in ("attn_q", "attn_k")}
    latent = any(t.name == "attn_kv_a_mqa.weight" for t in tensors)
    return not latent and bool(layers["attn_q"] - layers["attn_k"])


def _notes(inventory: Inventory) -> Iterator[str]:
    if any(in_tower(t) for t in inventory.tensors):
        yield "Its vision or audio tower goes to a file of its own (mmproj) and is not counted here."
    if _stays_mxfp4(inventory):
        yield "Its experts are published as MXFP4 and stay so in every mix."
