"""What other engines than transformers keep of a context: second opinions on the cache, each with its formula.

All of it follows from the rows of an inventory's cache, not from names of models. Where a row is of a kind
whose rule in an engine isn't known here, that engine has no opinion.
"""

from __future__ import annotations

from ..inventory import Inventory
from .llama_cpp import llama_cpp_compute_bytes, llama_cpp_opinion
from .opinion import Opinion
from .vllm import vllm_opinion

__all__ = ["Opinion", "llama_cpp_compute_bytes", "llama_cpp_opinion", "second_opinions", "vllm_opinion"]


def second_opinions(inventory: Inventory, context: int, batch: int, kv_dtype: str) -> tuple[Opinion, ...]:
    """Bytes that vLLM and llama.cpp keep for `batch` sequences of `context` tokens, where their rule is known.

    Args:
        kv_dtype: a dtype of `precision.DTYPE_BYTES`, or `fp8`, `int4`, `int2`; eight bits are FP8 to vLLM and
            Q8_0 to llama.cpp, which keeps four where fewer are asked for; vLLM has nothing below eight.
    """
    kv_dtype = {"fp8": "float8_e4m3fn"}.get(kv_dtype, kv_dtype)
    opinions = (opinion(inventory, context, batch, kv_dtype) for opinion in (vllm_opinion, llama_cpp_opinion))
    return tuple(opinion for opinion in opinions if opinion is not None)
