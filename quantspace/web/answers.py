"""The answers to programs, as dictionaries that JSON takes. Whoever calls decides how errors travel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from ..errors import BadInput, shorten
from ..estimation.advice import ADVISED, active_parameters, smallest_gpus, what_fits
from ..estimation.builder import inventory_for
from ..estimation.cache import cache_bytes, kept_dtype
from ..estimation.calculator import estimate as estimate_fit
from ..estimation.calculator import hardware_and_workload
from ..estimation.fit import applies
from ..estimation.gguf.rows import file_precisions, precision_for
from ..estimation.hardware import gpus as catalogue
from ..estimation.inventory import Inventory
from ..estimation.stored import StoredTensor, layer_table
from ..estimation.weights import stored_tensors, weight_bytes
from ..hub.reference import parse_reference
from ..precision import PRECISIONS, Precision
from ..runtime.measured_speed import measurements
from ..share.spelling import find_spelling

COMPARED = ("native", "bf16", "int8", "nf4-dq")  # those that mean something for the model


def estimate(model: str, *, token: str | None = None, **asked: Any) -> dict[str, Any]:
    """The fit table of a model on a card.

    Args:
        asked: the card and the workload, under the names that the calculator gives them.

    Raises:
        BadInput, ModelUnavailable, ModelUnsupported: each says what is wrong and what to do. So do all below.
    """
    return estimate_fit(model, **asked, token=token, measured=measurements.on).as_data()


def gpus() -> list[dict[str, Any]]:
    """The catalogue of cards."""
    return [gpu.as_data() for gpu in catalogue().values()]


def inventory(
    model: str, precision: str = "nf4-dq", revision: str = "main", *, token: str | None = None
) -> dict[str, Any]:
    """Every layer of a model with its bytes by storage dtype, before anything is loaded."""
    found = inventory_for(parse_reference(model, revision), token)
    wanted = precision_for(found, find_spelling(precision) or precision)
    if not applies(wanted, found):
        raise BadInput(f"{wanted.label} means nothing for {found.model_id}.", "Ask for another precision.")
    tensors = stored_tensors(found, wanted)
    return {"model": found.model_id, "precision": wanted.id, "exact": found.exact, "layers": layers(tensors)}


def layers(tensors: Iterable[StoredTensor]) -> list[dict[str, Any]]:
    """Tensors by layer, as JSON takes them."""
    return [
        {
            "layer": row.layer,
            "bytes_by_dtype": row.bytes_by_dtype,
            "tensors": [asdict(tensor) | {"shape": list(tensor.shape)} for tensor in row.tensors],
        }
        for row in layer_table(tensors)
    ]


def find_gpu(
    model: str,
    context: Any = 8192,
    batch: Any = 1,
    kv_dtype: str = "auto",
    revision: str = "main",
    precisions: str | Sequence[str] = "",
    *,
    token: str | None = None,
) -> dict[str, Any]:
    """The smallest card and the cheapest Space that a model fits on, precision by precision."""
    wanted = _names(precisions) or ADVISED
    _, workload = hardware_and_workload("t4", 1, context, batch, kv_dtype, 0)
    found = inventory_for(parse_reference(model, revision), token)
    advice = smallest_gpus(found, workload, wanted)
    if not advice:
        raise BadInput(
            f"The smallest hardware for {found.model_id} can't be told at {shorten(', '.join(wanted))}.",
            "Ask for other precisions, or for the estimate on a card that you have in mind.",
        )
    return {"model": found.model_id, "advice": [one.as_data() for one in advice]}


def models_for_gpu(
    gpu: str = "t4", gpu_count: Any = 1, context: Any = 8192, batch: Any = 1, kv_dtype: str = "auto"
) -> dict[str, Any]:
    """The bundled models that fit a card, the largest first."""
    hardware, workload = hardware_and_workload(gpu, gpu_count, context, batch, kv_dtype, 0)
    return what_fits(hardware.gpu, hardware.count, workload).as_data()


def compare(
    model: str, precisions: str | Sequence[str] = "", *, token: str | None = None, **asked: Any
) -> dict[str, Any]:
    """Some rows of the fit table beside each other; the first precision that applies is what others are laid against.

    Args:
        asked: the card and the workload, as for `estimate`.

    Raises:
        BadInput: no such precision, or none that means something for this model.
    """
    told = estimate(model, token=token, **asked)
    rows = {row["precision"]: row for row in told["rows"]}
    named = _names(precisions)
    wanted = named or [name for name in COMPARED if name in rows] or list(rows)
    chosen = [rows[name] for name in wanted if name in rows]
    unknown = [name for name in wanted if name not in rows and name not in PRECISIONS]
    if unknown or not chosen:
        missing = shorten(", ".join(unknown or wanted))
        raise BadInput(f"{told['model']['id']} has no row for {missing}.", f"It has {', '.join(rows)}.")
    baseline, parameters = chosen[0], told["model"]["parameters"]
    return {
        "model": told["model"],
        "gpu": told["gpu"],
        "baseline": baseline["precision"],
        "rows": [row | _against(row, baseline, parameters) for row in chosen],
        "left_out": [name for name in wanted if name not in rows],
    }


def inspect(model: str, revision: str = "main", *, token: str | None = None) -> dict[str, Any]:
    """What a model is made of: its size, what its layers weigh at each precision, how its cache grows."""
    found = inventory_for(parse_reference(model, revision), token)
    return {
        "model": found.model_id,
        "revision": found.revision,
        "sha": found.sha,
        "architecture": found.architecture,
        "parameters": found.parameters,
        "active_parameters": active_parameters(found),
        "parameters_by_role": _parameters_by_role(found),
        "layers": len(found.blocks),
        "experts": found.experts,
        "experts_per_token": found.experts_per_token,
        "hidden_size": found.hidden_size,
        "attention_heads": found.attention_heads,
        "key_value_heads": found.key_value_heads,
        "vocab_size": found.vocab_size,
        "max_context": found.max_context,
        "stored_quantized": found.prequantized,
        "takes_images": found.image is not None,
        "cache": _cache(found),
        "weights": [_weights(found, precision) for precision in _precisions(found)],
        "source": found.source,
        "source_kind": found.source_kind,
        "weights_only": found.weights_only or None,
        "exact": found.exact,
        "notes": list(found.notes),
    }


def _names(given: str | Sequence[str]) -> list[str]:
    """Ids from `bf16,nf4` or from a list, in whatever spelling, each once; empty where none is given."""
    named = given.split(",") if isinstance(given, str) else [str(name) for name in given]
    return list(dict.fromkeys(find_spelling(name) or name.strip() for name in named if name.strip()))


def _against(row: dict[str, Any], baseline: dict[str, Any], parameters: int) -> dict[str, Any]:
    return {
        "bits_per_parameter": round(8 * row["weights_bytes"] / parameters, 3),
        "weights_of_baseline": round(row["weights_bytes"] / baseline["weights_bytes"], 4),
        "saved_bytes": baseline["total_bytes"] - row["total_bytes"],
    }


def _parameters_by_role(found: Inventory) -> dict[str, int]:
    counted: dict[str, int] = {}
    for tensor in found.tensors:
        if tensor.tied_to is None and tensor.role != "buffer":
            counted[tensor.role] = counted.get(tensor.role, 0) + tensor.elements
    return counted


def _cache(found: Inventory) -> dict[str, Any]:
    """What the cache keeps of one sequence in its own dtype, at two lengths that tell how it grows."""
    dtype = kept_dtype(found, "auto", "bfloat16")
    lengths = (1024, 8192, 32768)
    return {
        "dtype": dtype,
        "bytes_at": {str(length): cache_bytes(found, length, 1, dtype) for length in lengths},
        "layers": [
            {
                "kind": layer.kind,
                "count": layer.count,
                "window": layer.window,
                "elements_per_token": layer.token_elements,
            }
            for layer in found.cache
        ],
    }


def _precisions(found: Inventory) -> list[Precision]:
    of_table = [precision for precision in PRECISIONS.values() if applies(precision, found)]
    return [*of_table, *file_precisions(found).values()]


def _weights(found: Inventory, precision: Precision) -> dict[str, Any]:
    held = weight_bytes(found, precision)
    return {
        "precision": precision.id,
        "label": precision.label,
        "weights_bytes": held.held,
        "footprint_bytes": held.footprint,
    }
