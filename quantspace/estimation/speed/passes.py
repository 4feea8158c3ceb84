"""One pass through a model: what it reads from memory, what it computes, and the seconds that takes. Pure arithmetic.

A pass takes as long as the slowest of three things: Python and the driver launching its kernels (transformers
runs eagerly: a small model on a fast card waits for the processor), the card reading weights and cache from its
memory, and its arithmetic (the roofline of Williams et al., 2009, https://doi.org/10.1145/1498765.1498785).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...formula import Formula, Term
from ...precision import Precision
from ..cache import cache_bytes, kept_dtype, tokens_held
from ..hardware import Gpu
from ..inventory import Inventory
from .profiles import LOW, Ends, Profile, pcie, peak, profile_of
from .reads import Reads, expert_share, reads

if TYPE_CHECKING:
    from ..workload import Workload

READ = Formula(
    "layers + head + batch * row + visits * share * experts + copies + passes * cache",
    layers="B of layers", head="B of output head", batch="sequences", row="B of embeddings", visits="passes",
    share="visited", experts="B of experts", copies="B dequantized", passes="passes", cache="B of cache",
)  # fmt: skip
SECONDS = Formula(
    "max(blocks * launch + linears * call + moe * routing, read / (efficiency * bandwidth), operations / rate)"
    " + blocks * gap + offloaded / pcie",
    blocks="layers", launch="s", linears="quantized_layers", call="s", moe="expert_layers", routing="s", read="B",
    bandwidth="B/s", operations="operations", rate="/s", gap="s", offloaded="B", pcie="B/s",
)  # fmt: skip
FUSED_ROWS = 4  # tokens up to which bitsandbytes never dequantizes a whole weight (backends/cuda/ops.py)
DEQUANTIZED_ROWS = 1536  # tokens beyond which it always does


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass through the model at one end of the range, with the operands of its formulas."""

    read: Mapping[str, Any]
    time: Mapping[str, Any]

    @property
    def read_term(self) -> Term:
        """Bytes read, with their formula."""
        return Term("read from memory", READ, self.read, "each part as this precision holds it")

    @property
    def seconds(self) -> float:
        return SECONDS(**self.time)

    @property
    def shown(self) -> str:
        """The formula of its seconds with the operands filled in."""
        return SECONDS.shown(**self.time)


@dataclass(frozen=True, slots=True)
class Case:
    """What both ends of a range share.

    Attributes:
        offloaded: bytes of layers kept in system memory, copied to the card at each pass.
        rates: operations a second of the card, at least and at most; `None` where they aren't known.
        cache: bytes of the cache.
        a_token: share of the routed experts that one token visits.
    """

    inventory: Inventory
    gpu: Gpu
    workload: Workload
    offloaded: int
    touched: Reads
    profile: Profile
    rates: Ends | None
    cache: int
    a_token: float


def case_of(inventory: Inventory, precision: Precision, gpu: Gpu, workload: Workload, offloaded: int) -> Case | None:
    touched = reads(inventory, precision)
    if touched is None or gpu.memory_bandwidth is None or (offloaded and gpu.kind != "gpu"):
        return None
    return Case(
        inventory,
        gpu,
        workload,
        offloaded,
        touched,
        profile_of(precision, gpu),
        peak(gpu, precision.dtype),
        cache_bytes(
            inventory, workload.context, workload.batch, kept_dtype(inventory, workload.kv_dtype, precision.dtype)
        ),
        inventory.experts_per_token / max(inventory.experts, 1),
    )


def decode(case: Case, end: int) -> Pass:
    """A step that gives each sequence one token more."""
    touched, profile, batch = case.touched, case.profile, case.workload.batch
    slowest = end == LOW
    # At its slowest every chosen expert is copied for every token that chose it (integrations/moe.py, batched_mm).
    gathered = slowest and profile.gathers
    repeated = 2 * _queries_a_key(case.inventory) if slowest and profile.repeats_heads else 0
    read = {
        "layers": touched.layers,
        "head": touched.head,
        "batch": batch,
        "row": touched.row,
        "visits": 3 if gathered else 1,
        "share": case.a_token * batch if gathered else _share(case, batch),
        "experts": touched.expert_copies or touched.experts,
        "copies": _copies(touched, slowest and profile.dequantizes and batch > FUSED_ROWS),
        "passes": profile.cache_passes[end] + repeated,
        "cache": case.cache,
    }
    elements = touched.layer_elements + touched.head_elements + case.a_token * touched.expert_elements
    return _timed(case, end, read, 2 * batch * elements, profile.step_rate[end])


def prefill(case: Case, end: int) -> Pass:
    """A pass over the whole prompt of each sequence."""
    touched, profile, workload = case.touched, case.profile, case.workload
    tokens = workload.batch * workload.context
    read = {
        "layers": touched.layers + touched.encoder,
        "head": touched.head,
        "batch": tokens,
        "row": touched.row,
        "visits": 1,
        "share": _share(case, tokens),
        "experts": touched.expert_copies or touched.experts,
        "copies": _copies(touched, profile.dequantizes and (end == LOW or tokens > DEQUANTIZED_ROWS)),
        "passes": 1,
        "cache": case.cache,
    }
    elements = touched.layer_elements + touched.encoder_elements + case.a_token * touched.expert_elements
    pairs = sum(
        layer.count * workload.context * tokens_held(layer, workload.context)
        for layer in case.inventory.cache
        if layer.token_elements
    )
    attention = (4 if end == LOW else 2) * workload.batch * pairs * (case.inventory.hidden_size or 0)
    operations = 2 * (tokens * elements + workload.batch * touched.head_elements) + attention
    return _timed(case, end, read, operations, profile.prompt_rate[end])


def _timed(case: Case, end: int, read: dict[str, Any], operations: float, share: float) -> Pass:
    touched, profile = case.touched, case.profile
    time = {
        "blocks": touched.blocks,
        "launch": profile.launch[end],
        "linears": touched.linears,
        "call": profile.call[end],
        "moe": touched.expert_blocks,
        "routing": profile.routing[end],
        "read": int(READ(**read)),
        "efficiency": profile.efficiency[end],
        "bandwidth": case.gpu.memory_bandwidth,
        "operations": int(operations) if case.rates else 0,
        "rate": int(share * case.rates[end]) if case.rates else 1,
        "gap": profile.gap[end],
        "offloaded": case.offloaded,
        "pcie": pcie(case.gpu)[end],
    }
    return Pass(read, time)


def _copies(touched: Reads, dequantizes: bool) -> int:
    """Bytes of dequantized weights written and read again, the dequantized experts once written."""
    experts = touched.experts + touched.expert_copies if touched.expert_copies else 0
    return experts + (2 * touched.linear_copies if dequantizes else 0)


def _share(case: Case, tokens: int) -> float:
    return expert_share(case.inventory.experts, case.inventory.experts_per_token, tokens)


def _queries_a_key(inventory: Inventory) -> int:
    return max((inventory.attention_heads or 1) // max(inventory.key_value_heads or 1, 1), 1)
