"""The whole answer to one question: this model, this card, this workload."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..errors import BadWorkload, shorten
from ..hub.reference import parse_reference
from ..settings import settings
from .builder import inventory_for
from .cache import kept_dtype
from .engines import Opinion, second_opinions
from .engines.tensor_parallel import TensorParallel
from .fit import FitRow, Measurements, fit_table, recommend
from .hardware import find_gpu
from .inventory import Inventory
from .placement import Share
from .quantized_cache import FORMATS, can_quantize
from .speed.expected import SpeedRange
from .workload import Hardware, Workload

KV_DTYPES = ("auto", "bfloat16", "float16", "float32", *FORMATS)
DEFAULT_RAM_GB = 32
_MAX_RAM_GB = 100_000
_POWERS = {"k": 2**10, "m": 2**20}
_KV_ALIASES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "": "auto"}


@dataclass(frozen=True)
class Estimate:
    """A fit table: one row a precision, with the recommended one."""

    inventory: Inventory
    hardware: Hardware
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

    def opinions(self) -> tuple[Opinion, ...]:
        """What other engines keep of the same context, where their rule differs."""
        dtype = kept_dtype(self.inventory, self.workload.kv_dtype, "bfloat16")
        found = second_opinions(self.inventory, self.workload.context, self.workload.batch, dtype)
        return tuple(opinion for opinion in found if opinion.differs)

    def as_data(self) -> dict[str, Any]:
        """The JSON object that the API answers with; all bytes are integers."""
        inventory, gpu = self.inventory, self.hardware.gpu
        return {
            "model": {
                "id": inventory.model_id,
                "revision": inventory.revision,
                "sha": inventory.sha,
                "architecture": inventory.architecture,
                "parameters": inventory.parameters,
                "source": inventory.source,
                "source_kind": inventory.source_kind,
                "weights_only": inventory.weights_only or None,
                "exact": inventory.exact,
                "max_context": inventory.max_context,
                "notes": list(self.notes),
            },
            "gpu": {
                "id": gpu.id,
                "name": gpu.name,
                "count": self.hardware.count,
                "memory_bytes": gpu.memory_bytes * self.hardware.count,
                "usable_bytes": self.hardware.usable_bytes,
                "host_bytes": self.hardware.host_bytes,
            },
            "rows": [_row_data(row) for row in self.rows],
            "recommended": self.recommended,
            "engines": [_opinion_data(opinion) for opinion in self.opinions()],
        }


def estimate(
    model: str,
    gpu: str = "t4",
    gpu_count: int = 1,
    context: int = 8192,
    batch: int = 1,
    kv_dtype: str = "auto",
    revision: str = "main",
    ram_gb: float = DEFAULT_RAM_GB,
    images: int = 0,
    *,
    token: str | None = None,
    measured: Measurements | None = None,
) -> Estimate:
    """Which precisions of a model fit a card, byte for byte.

    Args:
        model: id on the Hub, or the link of its page.
        gpu: id or name of a card in the catalogue.
        gpu_count: like cards in one machine, 1 to 8.
        context: tokens in each sequence.
        batch: sequences at once.
        kv_dtype: dtype of the cache: auto (the model's), bfloat16, float16 or float32; or quantized by
            transformers: fp8, int4 or int2.
        revision: branch, tag or commit.
        ram_gb: system memory that layers may be left in where the cards are too small, in GB; 0 for none.
        images: in the prompt of each sequence; their tokens are part of `context`.
        token: of the Hub, for models that not everybody may see.
        measured: how fast models were on this very machine, to narrow the speeds to expect.

    Raises:
        BadInput, ModelUnavailable, ModelUnsupported: each says what is wrong and what to do.

    Example:
        >>> estimate("google/gemma-3-4b-it", gpu="t4").row("nf4-dq").weights.held
        3228502842
    """
    reference = parse_reference(model, revision)
    hardware, workload = hardware_and_workload(gpu, gpu_count, context, batch, kv_dtype, ram_gb, images)
    inventory = inventory_for(reference, token)
    _check_images(inventory, workload)
    rows = fit_table(inventory, hardware, workload, measured)
    return Estimate(inventory, hardware, workload, tuple(rows), recommend(rows), _notes(inventory, workload))


def hardware_and_workload(
    gpu: str, gpu_count: Any, context: Any, batch: Any, kv_dtype: Any, ram_gb: Any, images: Any = 0
) -> tuple[Hardware, Workload]:
    """What people typed, as numbers.

    Raises:
        UnknownGpu, BadWorkload: with what is wrong and what is possible.
    """
    card = find_gpu(gpu)
    workload = Workload(
        _whole("context", context, settings().max_context, "tokens"),
        _whole("batch", batch, settings().max_batch, "sequences"),
        _cache_dtype(kv_dtype),
        _whole("images", images, settings().max_images, "images", least=0),
    )
    count = _whole("gpu_count", gpu_count, settings().max_gpu_count, "cards")
    if count > 1 and not card.combines:
        raise BadWorkload(f"{card.name} is a machine of its own: {count} of them share no memory.", "Ask for one.")
    return Hardware(card, count, _host_bytes(ram_gb)), workload


def _notes(inventory: Inventory, workload: Workload) -> tuple[str, ...]:
    notes = list(inventory.notes)
    made_for = inventory.max_context
    if made_for is not None and workload.context > made_for:
        notes.append(
            f"This model was made for at most {made_for:,} tokens; the {workload.context:,} asked for are counted "
            "all the same."
        )
    if workload.batch > 1:
        notes.append("Sequences are taken as equally long: padding would add masks of batch × context² bytes.")
    if workload.images:
        notes.append(_image_note(inventory, workload))
    if workload.kv_dtype in FORMATS and not can_quantize(inventory, workload.kv_dtype):
        notes.append(
            f"transformers can't keep the cache of this architecture in {workload.kv_dtype}: it quantizes only where "
            "every layer attends to all tokens. It is counted in full precision."
        )
    return tuple(notes)


def _check_images(inventory: Inventory, workload: Workload) -> None:
    image = inventory.image
    if image and workload.images * image.tokens > workload.context:
        raise BadWorkload(
            f"{workload.images:,} images are {workload.images * image.tokens:,} tokens, more than the context of "
            f"{workload.context:,}.",
            "Give a longer context, or fewer images.",
        )


def _image_note(inventory: Inventory, workload: Workload) -> str:
    image = inventory.image
    if image is None:
        return "What images take can't be told for this model: it takes none, or its vision tower could not be watched."
    tokens = workload.images * image.tokens
    return f"{workload.images:,} × {image.tokens:,} = {tokens:,} of the tokens are images. {image.note}"


def _whole(name: str, value: Any, limit: int, unit: str, least: int = 1) -> int:
    label = {"context": "Context", "batch": "Batch", "gpu_count": "Number of GPUs", "images": "Number of images"}[name]
    spelled = "; 32k and 1M are understood" if name == "context" else ""
    hint = f"Give a whole number from {least} to {limit:,} ({unit}{spelled})."
    if isinstance(value, bool) or value is None or value == "":
        raise BadWorkload(f"{label} is missing or not a number.", hint)
    try:
        number = _spelled(value) if isinstance(value, str) else float(value)
        whole = int(number)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadWorkload(f"{label} is “{str(value)[:40]}”, which is not a number.", hint) from error
    if whole != number:
        raise BadWorkload(f"{label} is {number:g}, which is not a whole number.", hint)
    if not least <= whole <= limit:
        raise BadWorkload(f"{label} is {shorten(f'{whole:,}', 40)}, which is outside {least} to {limit:,}.", hint)
    return whole


def _host_bytes(ram_gb: Any) -> int:
    hint = f"Give system memory in GB, from 0 to {_MAX_RAM_GB:,}."
    if ram_gb is None or ram_gb == "":
        raise BadWorkload("System memory is missing or not a number.", hint)
    try:
        amount = math.nan if isinstance(ram_gb, bool) else float(ram_gb)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadWorkload(f"System memory is “{shorten(str(ram_gb), 40)}”, which is not a number.", hint) from error
    if not 0 <= amount <= _MAX_RAM_GB:  # also what is not a number
        raise BadWorkload(f"System memory is {amount:g} GB, which is out of range.", hint)
    return int(amount * 10**9)


def _spelled(text: str) -> float:
    """`32k` → 32768 and `1M` → 1048576, as context lengths are spelled; `32,768` and `32768` too."""
    plain = text.strip().lower().replace(",", "").replace("_", "")
    times = _POWERS.get(plain[-1:], 1)
    return float(plain if times == 1 else plain[:-1]) * times


def _cache_dtype(text: str) -> str:
    name = str(text or "").strip().lower()
    name = _KV_ALIASES.get(name, name)
    if name not in KV_DTYPES:
        raise BadWorkload(f"“{name[:40]}” is not a cache dtype.", f"Use one of {', '.join(KV_DTYPES)}.")
    return name


def _opinion_data(opinion: Opinion) -> dict[str, Any]:
    return {
        "engine": opinion.engine,
        "cache_bytes": opinion.cache_bytes,
        "formula": " + ".join(term.shown for term in opinion.terms),
        "rule": opinion.rule,
        "notes": list(opinion.notes),
    }


def _speed_data(speed: SpeedRange | None) -> dict[str, Any] | None:
    if speed is None:
        return None
    data = {"low": round(speed.low, 2), "high": round(speed.high, 2)}
    return data | {"assumption": speed.assumption, "corrected": speed.corrected}


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
        "tokens_per_s": _speed_data(row.speed),
        "loadable": row.loadable,
        "exact": row.exact,
        "notes": list(row.notes),
        "cards": [_share_data(share) for share in (row.split.cards if row.split else row.shares)],
        "host": _share_data(row.split.host) if row.split else None,
        "tensor_parallel": _parallel_data(row.tensor_parallel),
        "file": _file_data(row),
    }


def _file_data(row: FitRow) -> dict[str, Any] | None:
    if row.file is None:
        return None
    return {"path": row.file.path, "bytes": row.file.size, "layers": row.layers, "gpu_layers": row.gpu_layers}


def _share_data(share: Share) -> dict[str, Any]:
    return {
        "layers": len(share.cache_layers),
        "weights_bytes": share.weights,
        "first": share.names[0] if share.names else None,
        "last": share.names[-1] if share.names else None,
    }


def _parallel_data(found: TensorParallel | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "engine": "vLLM",
        "fits": found.fits,
        "bytes_per_card": found.total_bytes,
        "budget_bytes": found.budget_bytes,
        "reason": found.reason,
    }
