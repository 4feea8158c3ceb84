"""What vLLM keeps of a context: blocks of tokens, in groups of like layers.

Read in https://github.com/vllm-project/vllm at 001cabc: `vllm/v1/kv_cache_interface.py` for the blocks a request
may need and `vllm/v1/core/kv_cache_utils.py` for the groups; `vllm/model_executor/layers/mamba/mamba_utils.py`
at 02d7108 and `vllm/model_executor/models/config.py` at 0144dd5 for states.

    full       ⌈context / block⌉ blocks
    window     ⌈min(W − 1 + step, context) / block⌉ + 1 blocks, where a step schedules so many tokens
    state      one block a sequence, as large as an attention block (whose tokens are chosen to hold it)

Where kinds are mixed, all pages have one size, and layers are grouped by kind: the smallest kind gives the
group's size, others are padded to a multiple. This is what a request of `context` tokens takes of the pool;
the pool itself is whatever memory vLLM was given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ...formula import Formula, Term, ceil
from ...precision import DTYPE_BYTES
from ..inventory import CacheLayer, Inventory
from .opinion import Opinion, conv_kernel, index_width, is_known, latent_width, opinion_of

BLOCK = 16  # tokens; vLLM's default on CUDA
LATENT_BLOCK = 64  # tokens; what FlashMLA takes
STEP_TOKENS = 2048  # scheduled at once: the server's default below 70 GiB of memory (vllm/engine/arg_utils.py)
STATE_DTYPE_BYTES = 2  # of a convolution's state, which follows the model's dtype, not the cache's
INDEX_GROUP = 128  # values of an index key that share a float32 scale, themselves FP8
LATENT_FP8_BYTES = 656  # a token in `fp8_ds_mla`: 512 FP8 values, 4 float32 scales, 64 bfloat16 values
PADDING = 1.5  # kinds whose layers differ by less are padded to the larger (kv_cache_utils.py)

_UNITS = {
    "batch": "sequences", "layers": "layers", "context": "tokens", "block": "tokens a block", "token": "B",
    "window": "tokens", "step": "tokens a step", "page": "B a page",
}  # fmt: skip
FULL = Formula("batch * layers * ceil(context, block) * block * token", **_UNITS)
WINDOW = Formula("batch * layers * (ceil(min(window - 1 + step, context), block) + 1) * block * token", **_UNITS)
STATE = Formula("batch * layers * page", **_UNITS)

_REPO = "https://github.com/vllm-project/vllm/blob"
_SOURCE = f"{_REPO}/001cabc1be16a59a70d720ed61a13b678c060a18/vllm/v1/kv_cache_interface.py"
_STATE_SOURCE = f"{_REPO}/02d710837549a368073552333f66d714477415d2/vllm/model_executor/layers/mamba/mamba_utils.py"

Kind = Literal["full", "window", "state"]


@dataclass(frozen=True)
class _Spec:
    """One kind of layer: `count` of them, with bytes a token or bytes of state."""

    kind: Kind
    count: int
    token: int = 0
    window: int = 0
    state: int = 0

    @property
    def type(self) -> tuple[Kind, int]:
        return self.kind, self.window


def vllm_opinion(
    inventory: Inventory, context: int, batch: int, kv_dtype: str, step_tokens: int = STEP_TOKENS
) -> Opinion | None:
    """Bytes of blocks that `batch` requests of `context` tokens take in vLLM, or `None`.

    Args:
        kv_dtype: a dtype; one of eight bits is vLLM's FP8 cache.
        step_tokens: `--max-num-batched-tokens`.
    """
    if kv_dtype not in DTYPE_BYTES or not is_known(inventory):
        return None
    specs = [spec for row in inventory.cache for spec in _specs(inventory, row, DTYPE_BYTES[kv_dtype])]
    block = LATENT_BLOCK if latent_width(inventory) else BLOCK
    if len({spec.type for spec in specs}) < 2:  # one kind: every layer has blocks of its own size
        terms = [_term(spec, spec.count, block, spec.state, context, batch, step_tokens) for spec in specs]
    else:
        page = _page(specs, block)
        if any(spec.token and page % spec.token for spec in specs):
            return None  # vLLM cannot give these layers pages of one size
        size = _group_size([spec.count for spec in specs])
        terms = [
            _term(
                spec,
                ceil(spec.count, size) * size,
                page // spec.token if spec.token else 0,
                page,
                context,
                batch,
                step_tokens,
            )
            for spec in specs
        ]
    rule = f"Blocks of {block} tokens or more, taken as a request grows; those behind a window are given back."
    return opinion_of("vLLM", terms, rule, _notes(inventory, specs, kv_dtype), (inventory, context, batch, kv_dtype))


def _specs(inventory: Inventory, row: CacheLayer, size: int) -> Iterator[_Spec]:
    if row.token_elements or row.token_bytes:
        token = _token_bytes(inventory, row, size)
        # Chunked windows are held whole unless VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE is set.
        windowed = row.window and row.kind != "chunked_attention"
        yield _Spec("window" if windowed else "full", row.count, token, row.window if windowed else 0)
    if row.state_elements or row.state_bytes:
        kernel = conv_kernel(inventory, row)
        columns = row.state_elements // kernel * max(kernel - 1, 1)
        yield _Spec("state", row.count, state=columns * STATE_DTYPE_BYTES + row.state_bytes)


def _token_bytes(inventory: Inventory, row: CacheLayer, size: int) -> int:
    index = index_width(inventory, row)
    latent = row.token_elements - index
    indexed = row.kind == "DynamicIndexedLayer"
    held = LATENT_FP8_BYTES if indexed and size == 1 else latent * size
    return held + index + 4 * ceil(index, INDEX_GROUP) + row.token_bytes


def _page(specs: list[_Spec], block: int) -> int:
    """Bytes of the page that all layers share: the largest block, and no smaller than a state."""
    token = max((spec.token for spec in specs), default=0)
    state = max((spec.state for spec in specs), default=0)
    return max(ceil(state, block * token), 1) * block * token if token else state


def _group_size(counts: list[int]) -> int:
    return max(counts) if max(counts) < PADDING * min(counts) else min(counts)


def _term(spec: _Spec, layers: int, block: int, page: int, context: int, batch: int, step: int) -> Term:
    padding = f" {spec.count} layers, padded to {layers}." if layers > spec.count else ""
    common = {"batch": batch, "layers": layers}
    if spec.kind == "state":
        return Term("recurrent states", STATE, {**common, "page": page}, _STATE_SOURCE + padding)
    operands = {**common, "context": context, "block": block, "token": spec.token}
    if spec.kind == "full":
        return Term("attention over all tokens", FULL, operands, _SOURCE + padding)
    operands |= {"window": spec.window, "step": step}
    return Term(f"windows of {spec.window:,} tokens", WINDOW, operands, _SOURCE + padding)


def _notes(inventory: Inventory, specs: list[_Spec], kv_dtype: str) -> Iterator[str]:
    kinds = {spec.kind for spec in specs}
    if "window" in kinds:
        yield (
            f"With {STEP_TOKENS:,} tokens a step (`--max-num-batched-tokens`); servers with 70 GiB or more "
            "of GPU memory default to 8,192."
        )
    if any(row.kind == "chunked_attention" for row in inventory.cache):
        yield "Chunked windows are held whole, unless VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE=1 is set."
    if any(row.state_bytes for row in inventory.cache):
        yield (
            "Recurrent states in float32, as Qwen3.5 and Nemotron-H ask for; elsewhere vLLM's default is the "
            "model's dtype, half of it (`--mamba-ssm-cache-dtype`)."
        )
    if "state" in kinds:
        yield "One state a request; with prefix caching vLLM keeps two or more (`--mamba-cache-mode`)."
    if any(row.kind == "DynamicIndexedLayer" for row in inventory.cache) and DTYPE_BYTES[kv_dtype] > 1:
        yield f"By default vLLM keeps this latent in FP8, {LATENT_FP8_BYTES} B a token and layer (`fp8_ds_mla`)."
