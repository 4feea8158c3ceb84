"""GGUF what-ifs: the type that llama.cpp's quantizer gives every tensor under a mix such as Q4_K_M.

A mix is a default type and rules that give sensitive tensors more: the output, values, and half of the
down projections. The rules are those of `llama_tensor_get_type_impl` and `tensor_allows_quantization` in
llama.cpp's `src/llama-quant.cpp` (commit 007dbbf3), run without an importance matrix. This is for
what-ifs; a GGUF file that exists is read by its own header.

Sums are of the tensors, what llama.cpp prints as model size. A file also holds the tokenizer (some MB)
and, where the rotary embedding is scaled by a table, that table (under 1 KB).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ...formula import Formula, Term
from ..inventory import Inventory
from .model import Category, GgufModel, LikeTensors, gguf_model
from .types import BLOCKS, PACKED, PLAIN, fits, fitting_type

SOURCE = "llama.cpp, src/llama-quant.cpp, llama_tensor_get_type_impl"
DEFAULT_TYPES = {"q8_0": "Q8_0", "q6_k": "Q6_K", "q5_k_m": "Q5_K", "q4_k_m": "Q4_K", "q3_k_m": "Q3_K", "q2_k": "Q2_K"}
MANY_QUERIES = 4  # query heads that share a value head, from which Q2_K spares the values


@dataclass(frozen=True, slots=True)
class GgufGroup:
    """Like tensors that end in one type.

    Attributes:
        what: their name in the file, without the layer.
        type: ggml's name of the type.
        count: number of tensors.
        elements: weights of one of them.
    """

    what: str
    type: str
    count: int
    elements: int

    @property
    def formula(self) -> Formula:
        return PACKED if BLOCKS[self.type][0] > 1 else PLAIN

    @property
    def operands(self) -> dict[str, int]:
        block, size = BLOCKS[self.type]
        packed = {"block": block} if block > 1 else {}
        return {"count": self.count, "elements": self.elements, "size": size, **packed}

    @property
    def bytes(self) -> int:
        """Bytes of all of them."""
        return self.formula(**self.operands)

    @property
    def term(self) -> Term:
        return Term(f"{self.what} in {self.type}", self.formula, self.operands, SOURCE)


def gguf_weights(inventory: Inventory, mix_id: str) -> tuple[GgufGroup, ...]:
    """The tensors of a model's GGUF file under a mix, grouped; the sum of their bytes is what it holds.

    Args:
        mix_id: a key of `DEFAULT_TYPES`, such as `q4_k_m`.
    """
    model = gguf_model(inventory)
    groups: Counter[tuple[str, str, int]] = Counter()
    for like, count in model.tensors.items():
        groups[like.what, tensor_type(like, mix_id, model), like.elements] += count
    return tuple(GgufGroup(what, kind, count, elements) for (what, kind, elements), count in groups.items())


def tensor_type(like: LikeTensors, mix_id: str, model: GgufModel) -> str:
    """The type that one tensor gets under a mix, rows that do not fit its blocks considered."""
    if like.kept:
        return like.kept
    default = DEFAULT_TYPES[mix_id]
    if like.category == "output" or (model.tied and like.category == "token_embd"):
        return fitting_type(_output_type(default, like.row, model), like.row)
    rule = _RULES.get(like.category)
    return fitting_type(rule(like, mix_id, default, model) if rule else default, like.row)


def _output_type(default: str, row: int, model: GgufModel) -> str:
    return "Q8_0" if default == "Q8_0" or model.falcon or not fits(default, row) else "Q6_K"


def _attn_v_type(like: LikeTensors, mix_id: str, default: str, model: GgufModel) -> str:
    if model.experts == 8:
        return "Q8_0"
    chosen = default
    if mix_id == "q2_k":
        chosen = "Q4_K" if model.gqa >= MANY_QUERIES else "Q3_K"
    elif mix_id == "q3_k_m":
        chosen = "Q5_K" if like.first else "Q4_K"
    elif mix_id in ("q4_k_m", "q5_k_m") and like.favoured:
        chosen = "Q6_K"
    return "Q5_K" if model.seventy_b and chosen in ("Q3_K", "Q4_K") else chosen


def _attn_k_type(like: LikeTensors, mix_id: str, default: str, model: GgufModel) -> str:
    return "Q8_0" if model.experts == 8 else default


def _attn_output_type(like: LikeTensors, mix_id: str, default: str, model: GgufModel) -> str:
    if model.falcon:
        return default
    if model.experts == 8:
        return "Q5_K" if mix_id in ("q2_k", "q3_k_m", "q4_k_m") else default
    return {"q2_k": "Q3_K", "q3_k_m": "Q4_K"}.get(mix_id, default)


def _ffn_down_type(like: LikeTensors, mix_id: str, default: str, model: GgufModel) -> str:
    if mix_id == "q2_k":
        return "Q3_K"
    if mix_id == "q3_k_m":
        return "Q5_K" if like.first else "Q4_K" if like.favoured or not model.falcon else "Q3_K"
    if mix_id == "q4_k_m" and model.falcon:
        return "Q6_K" if like.first else "Q5_K" if like.favoured else "Q4_K"
    return "Q6_K" if mix_id in ("q4_k_m", "q5_k_m") and like.favoured else default


_RULES: dict[Category, Callable[[LikeTensors, str, str, GgufModel], str]] = {
    "attn_v": _attn_v_type,
    "attn_k": _attn_k_type,
    "attn_output": _attn_output_type,
    "ffn_down": _ffn_down_type,
}
