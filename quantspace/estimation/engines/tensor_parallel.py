"""A model over several GPUs as vLLM splits it: every layer over all of them. For whole layers, see `placement.py`.

Each GPU holds a share of the vocabulary, of every matrix and of the heads, and all of what can't be shared: norms,
routers, the down-projections of MLA and its latent cache, key-value heads where there are fewer than GPUs. Read in
https://github.com/vllm-project/vllm: `vllm/model_executor/layers/linear.py` (ColumnParallelLinear,
RowParallelLinear, QKVParallelLinear), `vocab_parallel_embedding.py`, `fused_moe/layer.py`, `rotary_embedding`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from ...formula import Formula, Term, counted
from ...precision import DTYPE_BYTES, Precision
from ..cache import cache_terms
from ..hardware import Gpu
from ..inventory import CacheLayer, Inventory, TensorSpec
from ..weights import store
from .opinion import latent_width
from .shards import Indivisible, Share, kv_heads, share_of
from .vllm import STEP_TOKENS, vllm_opinion

UTILIZATION_PERCENT = 90  # of a GPU's memory that vLLM takes by default (`--gpu-memory-utilization`)

BUDGET = Formula("usable * percent // 100", usable="B", percent="%")
ROTARY = Formula("positions * dimension * size", positions="positions", dimension="values", size="B")

_NAMES: dict[Share, str] = {
    "vocabulary": "vocabulary, padded and divided",
    "divided": "weights divided over the GPUs",
    "heads": "keys' and values' projections, a head a GPU",
    "whole": "weights that every GPU holds whole",
}
_NOTES = {
    "int8": "vLLM quantizes to 4 bits while loading, not to LLM.int8; a checkpoint stored so needs one GPU.",
    "4bit": "vLLM divides bitsandbytes weights that it quantizes itself (NF4 with double quant, while loading); it "
    "refuses a checkpoint that is stored so on more than one GPU.",
    "torchao": "vLLM takes torchao checkpoints that were saved quantized.",
    "stored": "Divided by bytes: the scales of a block that two GPUs share may be held by both.",
}


@dataclass(frozen=True)
class TensorParallel:
    """What each of `count` GPUs holds of a model and its cache.

    Attributes:
        count: GPUs.
        terms: bytes on each GPU, part by part; none where the model can't be divided so.
        budget_bytes: of a GPU's memory, what vLLM takes.
        reason: why the model can't be divided by `count`; empty where it can.
        notes: what the figures assume.
    """

    count: int
    terms: tuple[Term, ...]
    budget_bytes: int
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def divisible(self) -> bool:
        return not self.reason

    @property
    def total_bytes(self) -> int:
        """Bytes on each GPU."""
        return sum(term.bytes for term in self.terms)

    @property
    def free_bytes(self) -> int:
        """Of the budget of each GPU, what is left; negative where it does not do."""
        return self.budget_bytes - self.total_bytes

    @property
    def fits(self) -> bool:
        return self.divisible and self.free_bytes >= 0

    @property
    def formula_text(self) -> str:
        """The sum with its operands filled in."""
        return " + ".join(term.shown for term in self.terms)


def tensor_parallel(
    inventory: Inventory, precision: Precision, gpu: Gpu, count: int, context: int, batch: int, kv_dtype: str
) -> TensorParallel | None:
    """What each of `count` GPUs holds as vLLM divides a model; `None` for what vLLM does not run.

    Args:
        context: tokens of each of `batch` sequences.
        kv_dtype: dtype of the cache.
    """
    tensors = inventory.native if precision.method == "stored" else inventory.tensors
    if precision.engine != "transformers" or gpu.kind != "gpu" or not tensors:
        return None
    budget = BUDGET(usable=gpu.usable_bytes, percent=UTILIZATION_PERCENT)
    try:
        cache = _cache_terms(_divided_cache(inventory, count), context, batch, kv_dtype)
        weights = tuple(_weight_terms(inventory, precision, count))
    except Indivisible as error:
        return TensorParallel(count, (), budget, str(error))
    rest = (_activations(inventory, precision, context), _outside(gpu))
    terms = tuple(term for term in (*weights, *_rotary_terms(inventory, precision), *cache, *rest) if term.bytes)
    return TensorParallel(count, terms, budget, notes=tuple(_notes(precision)))


def weight_shard_bytes(inventory: Inventory, precision: Precision, count: int) -> int:
    """Bytes of weights and rotary tables on each GPU: what vLLM logs as taken by loading the model.

    Raises:
        Indivisible: the model can't be divided by `count`.
    """
    terms = (*_weight_terms(inventory, precision, count), *_rotary_terms(inventory, precision))
    return sum(term.bytes for term in terms)


def _weight_terms(inventory: Inventory, precision: Precision, count: int) -> Iterator[Term]:
    held: dict[Share, int] = defaultdict(int)
    _check_heads(inventory, count)
    for (share, shard, by_bytes), times in _shards(inventory, count, precision.method == "stored").items():
        whole = store(shard, precision).held_bytes
        held[share] += times * (-(-whole // count) if by_bytes else whole)
    for share, name in _NAMES.items():
        yield counted(name, held[share], f"Over {count} GPUs, after vLLM's parallel layers.")


@lru_cache(maxsize=512)
def _shards(inventory: Inventory, count: int, stored: bool) -> Counter[tuple[Share, TensorSpec, bool]]:
    """Like shares of tensors counted: which share, of which shape, and whether its bytes are still to be divided."""
    found: Counter[tuple[Share, TensorSpec, bool]] = Counter()
    for spec in inventory.native if stored else inventory.tensors:
        if spec.tied_to is None and not spec.name.endswith("inv_freq"):
            share, shard = share_of(inventory, spec, count, by_bytes=stored)
            found[share, replace(shard, name=""), share == "divided" and shard is spec] += 1
    return found


def _check_heads(inventory: Inventory, count: int) -> None:
    """Raises `Indivisible` where attention heads can't be shared out (vllm/config: verify_with_parallel_config)."""
    heads = inventory.attention_heads
    if heads and heads % count:
        raise Indivisible(f"Its {heads} attention heads can't be divided over {count} GPUs.")


@lru_cache(maxsize=512)
def _divided_cache(inventory: Inventory, count: int) -> Inventory:
    """The inventory with the cache rows of one GPU; a latent is held by every GPU."""
    latent = latent_width(inventory)
    rows = (_divided_row(inventory, row, count, whole=bool(latent)) for row in inventory.cache)
    return replace(inventory, cache=tuple(rows))


def _divided_row(inventory: Inventory, row: CacheLayer, count: int, whole: bool) -> CacheLayer:
    token = row.token_elements
    if token and not whole and (heads := kv_heads(inventory, row)):
        if heads % count and count % heads:
            raise Indivisible(f"Its {heads} key-value heads can neither be divided nor repeated over {count} GPUs.")
        token = token // heads * max(1, heads // count)
    return replace(
        row,
        token_elements=token,
        state_elements=-(-row.state_elements // count),
        state_bytes=-(-row.state_bytes // count),
    )


def _cache_terms(inventory: Inventory, context: int, batch: int, kv_dtype: str) -> tuple[Term, ...]:
    opinion = vllm_opinion(inventory, context, batch, kv_dtype)
    if opinion is not None:
        return opinion.terms
    return tuple(cache_terms(inventory, context, batch, kv_dtype))  # vLLM's rule isn't known: transformers'


def _rotary_terms(inventory: Inventory, precision: Precision) -> Iterator[Term]:
    """Cosines and sines of every position, which vLLM makes once for layers of like rotary embeddings."""
    size = DTYPE_BYTES[precision.dtype]
    for spec in inventory.tensors:
        own = spec.name.endswith("inv_freq") and "original" not in spec.name
        if own and not any(tower in spec.name for tower in ("visual", "vision", "audio")):
            operands = {"positions": inventory.max_context or 0, "dimension": 2 * spec.elements, "size": size}
            yield Term("rotary tables", ROTARY, operands, "vllm/model_executor/layers/rotary_embedding/base.py")


def _activations(inventory: Inventory, precision: Precision, context: int) -> Term:
    """What a step holds at its peak on one GPU: an upper bound, as most of it is divided too."""
    tokens = min(context, STEP_TOKENS)
    peak = max((term.at(tokens, 1) for term in inventory.peak), default=0)
    note = f"Of a step of {tokens:,} tokens in one GPU under transformers, its cache included: an upper bound."
    return counted("activations of a step", peak * DTYPE_BYTES[precision.dtype] // 2, note)


def _outside(gpu: Gpu) -> Term:
    note = "Outside PyTorch's allocator; buffers of NCCL come on top, some 0.1 to 1 GiB."
    return counted("CUDA context", gpu.context_bytes_or_default, note)


def _notes(precision: Precision) -> Iterator[str]:
    yield f"vLLM takes {UTILIZATION_PERCENT}% of a GPU's memory by default; all that is left becomes cache."
    if precision.method in _NOTES:
        yield _NOTES[precision.method]
