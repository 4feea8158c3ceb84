"""The whole answer to one question: this model, this card, this workload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import BadWorkload
from ..hub.reference import parse_reference
from ..precision import DTYPE_BYTES
from ..settings import settings
from .builder import inventory_for
from .fit import FitRow, Workload, fit_table, recommend
from .hardware import Gpu, find_gpu
from .inventory import Inventory

KV_DTYPES = ("auto", "bfloat16", "float16", "float32")
_KV_ALIASES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "": "auto"}


@dataclass(frozen=True)
class Estimate:
    """A fit table: one row a precision, with the recommended one."""

    inventory: Inventory
    gpu: Gpu
    gpu_count: int
    workload: Workload
    rows: tuple[FitRow, ...]
    recommended: str | None
    notes: tuple[str, ...] = ()

    def row(self, precision_id: str) -> FitRow:
        """The row of one precision.

        Raises:
            KeyError: there is no such row.
        """
        return next(row for row in self.rows if row.precision.id == precision_id)

    def as_data(self) -> dict[str, Any]:
        """The JSON object that the API answers with; all bytes are integers."""
        inventory = self.inventory
        return {
            "model": {
                "id": inventory.model_id,
                "revision": inventory.revision,
                "sha": inventory.sha,
                "architecture": inventory.architecture,
                "parameters": inventory.parameters,
                "source": inventory.source,
                "exact": inventory.exact,
                "max_context": inventory.max_context,
                "notes": list(self.notes),
            },
            "gpu": {
                "id": self.gpu.id,
                "name": self.gpu.name,
                "count": self.gpu_count,
                "memory_bytes": self.gpu.memory_bytes * self.gpu_count,
                "usable_bytes": self.gpu.usable_bytes * self.gpu_count,
            },
            "rows": [_row_data(row) for row in self.rows],
            "recommended": self.recommended,
        }


def estimate(
    model: str,
    gpu: str = "t4",
    gpu_count: int = 1,
    context: int = 8192,
    batch: int = 1,
    kv_dtype: str = "auto",
    revision: str = "main",
    *,
    token: str | None = None,
) -> Estimate:
    """Which precisions of a model fit a card, byte for byte.

    Args:
        model: id on the Hub, or the link of its page.
        gpu: id or name of a card in the catalogue.
        gpu_count: like cards in one machine, 1 to 8.
        context: tokens in each sequence.
        batch: sequences at once.
        kv_dtype: dtype of the cache: auto (the model's), bfloat16, float16 or float32.
        revision: branch, tag or commit.

    Raises:
        BadInput, ModelUnavailable, ModelUnsupported: each says what is wrong and what to do.

    Example:
        >>> estimate("google/gemma-3-4b-it", gpu="t4").row("nf4-dq").weights.held
        3228502842
    """
    reference = parse_reference(model, revision)
    card = find_gpu(gpu)
    workload = Workload(
        _whole("context", context, settings().max_context, "tokens"),
        _whole("batch", batch, settings().max_batch, "sequences"),
        _cache_dtype(kv_dtype),
    )
    count = _whole("gpu_count", gpu_count, settings().max_gpu_count, "cards")
    inventory = inventory_for(reference, token)
    rows = fit_table(inventory, card, count, workload)
    return Estimate(inventory, card, count, workload, tuple(rows), recommend(rows), _notes(inventory, workload))


def _notes(inventory: Inventory, workload: Workload) -> tuple[str, ...]:
    made_for = inventory.max_context
    if made_for is not None and workload.context > made_for:
        return (
            *inventory.notes,
            f"This model was made for at most {made_for:,} tokens; the {workload.context:,} asked for are counted "
            "all the same.",
        )
    return inventory.notes


def _whole(name: str, value: Any, limit: int, unit: str) -> int:
    label = {"context": "Context", "batch": "Batch", "gpu_count": "Number of GPUs"}[name]
    hint = f"Give a whole number from 1 to {limit:,} ({unit})."
    if isinstance(value, bool) or value is None or value == "":
        raise BadWorkload(f"{label} is missing or not a number.", hint)
    try:
        number = _spelled(value) if isinstance(value, str) else float(value)
        whole = int(number)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadWorkload(f"{label} is “{str(value)[:40]}”, which is not a number.", hint) from error
    if whole != number:
        raise BadWorkload(f"{label} is {number:g}, which is not a whole number.", hint)
    if not 1 <= whole <= limit:
        raise BadWorkload(f"{label} is {whole:,}, which is outside 1 to {limit:,}.", hint)
    return whole


def _spelled(text: str) -> float:
    """`32k` → 32768, as context lengths are spelled; `32,768` and `32768` too."""
    plain = text.strip().lower().replace(",", "").replace("_", "")
    if plain.endswith("k"):
        return float(plain[:-1]) * 1024
    return float(plain)


def _cache_dtype(text: str) -> str:
    name = str(text or "").strip().lower()
    name = _KV_ALIASES.get(name, name)
    if name not in KV_DTYPES or (name != "auto" and name not in DTYPE_BYTES):
        raise BadWorkload(f"“{name[:40]}” is not a cache dtype.", f"Use one of {', '.join(KV_DTYPES)}.")
    return name


def _row_data(row: FitRow) -> dict[str, Any]:
    return {
        "precision": row.precision.id,
        "label": row.precision.label,
        "footprint_bytes": row.weights.footprint,
        "weights_bytes": row.weights.held,
        "cache_bytes": row.cache_bytes,
        "activation_bytes": row.activation_bytes,
        "overhead_bytes": row.overhead_bytes,
        "total_bytes": row.total_bytes,
        "free_bytes": row.free_bytes,
        "verdict": row.verdict,
        "reason": row.reason,
        "max_context": row.max_context,
        "max_batch": row.max_batch,
        "tokens_per_s": None,
        "loadable": row.loadable,
        "exact": row.exact,
        "notes": list(row.notes),
    }
