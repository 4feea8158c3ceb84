"""The inventory of a model of which no more than the Hub's count of its parameters is known.

That is what a gated model tells whoever has no token. Its weights in 16 bits are the count's own bytes; everything
else is assumed (`assumed.py`), unless a bundled model of the same type has as many parameters: then it has its shape.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from ...errors import ModelUnsupported
from ...hub.catalogue import bundled_models, find_bundled
from ...hub.client import RepoFacts
from ...hub.safetensors_files import weight_bytes
from ...hub.safetensors_headers import BITS
from ..bundled import bundled_inventory
from ..inventory import Inventory, PeakTerm, TensorSpec
from .assumed import assumed_shape, assumed_tensors
from .classify import DTYPES
from .plain_config import Numbers
from .purpose import left_out

_MOST = 10**14  # parameters that a count is believed to have
_SAME = 1e-6  # of the parameters: Llama-2's files hold 2,048 rotary frequencies too
# Weights in an element where files pack them, by dtype: 4 bits in 32 (GPTQ, AWQ) or two in a byte.
_PACKED = {"I32": 8, "U32": 8, "U8": 2, "F4": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1}
_FLOATING = ("F64", "F32", "F16", "BF16")
_LIKELY = {"F8_E4M3": "fp8", "F8_E5M2": "fp8"}


def inventory_from_counts(facts: RepoFacts, why: str) -> Inventory:
    """What a model holds by the Hub's count of its parameters.

    Args:
        why: no better source could be used, in a sentence for people.

    Raises:
        ModelUnsupported: the Hub counted nothing, or nonsense.
    """
    counts = {dtype: count for dtype, count in facts.counts.items() if dtype in DTYPES and _sane(count)}
    floats = sum(counts.get(dtype, 0) for dtype in _FLOATING)
    packed = {dtype: count for dtype, count in counts.items() if dtype in _PACKED and count > 0.01 * floats}
    stored = _elements(counts, packed, weight_bytes(facts.files))
    parameters = floats + sum(_PACKED[dtype] * stored[dtype] for dtype in packed)
    source, notes = "the Hub's count of its parameters", [why]
    if not parameters and facts.gguf_parameters and _sane(facts.gguf_parameters):
        parameters, source = facts.gguf_parameters, "the Hub's count of the parameters of its GGUF files"
    if not parameters:
        raise ModelUnsupported(
            f"The Hub has no count of the parameters of {facts.ref.id}.",
            "Accept its terms and give a token, or pick another repository of this model.",
        )
    like = None if packed else _twin(facts.model_type, parameters)
    if like is not None:
        return _shaped_as(like, facts, source, why)
    notes.extend(
        f"Its files hold {dtype}, each element of which is taken as {_PACKED[dtype]} weights of 4 bits."
        for dtype in packed
        if _PACKED[dtype] > 1
    )
    return assumed_inventory(facts, parameters, source, notes, native=_native(stored, packed))


def assumed_inventory(
    facts: RepoFacts,
    parameters: int,
    source: str,
    notes: list[str],
    *,
    kind: str = "counts",
    numbers: Numbers | None = None,
    native: dict[str, object] | None = None,
) -> Inventory:
    """A model of so many parameters, its shape assumed.

    Args:
        numbers: of its config, where there is one.
        native: fields of how it is stored quantized.
    """
    numbers = numbers or Numbers()
    shape = assumed_shape(parameters, facts.model_type, numbers)
    missing = left_out(facts, numbers.architecture)
    most = "experts, which bitsandbytes leaves in 16 bits" if shape.mixture else "linear layers"
    told = "its config tells" if numbers.layers else "published models of that size have"
    notes = [
        *notes,
        f"No more than its size is known, {parameters:,} parameters: {shape.layers} layers {shape.hidden:,} wide are "
        f"assumed as {told}, {shape.embedded / parameters:.0%} of it in embeddings, most of the rest in {most}.",
        "" if missing else "Cache and activations are on the safe side: the true ones are mostly far smaller.",
    ]
    return Inventory(
        model_id=facts.ref.id,
        revision=facts.ref.revision,
        sha=facts.sha,
        architecture=numbers.architecture or facts.model_type or "",
        tensors=tuple(assumed_tensors(parameters, shape)),
        cache=() if missing else shape.cache,
        peak=(PeakTerm(0, 0),) if missing else (shape.peak,),
        source=source,
        source_kind=kind,
        exact=False,
        weights_only=missing,
        cache_exact=False,
        peak_measured=False,
        max_context=numbers.max_context,
        blocks=tuple(f"model.layers.{layer}" for layer in range(shape.layers)),
        attention_heads=numbers.heads,
        key_value_heads=numbers.key_value_heads,
        hidden_size=shape.hidden,
        vocab_size=shape.vocabulary,
        experts=max(numbers.experts, int(shape.mixture)),
        experts_per_token=max(numbers.experts_per_token, int(shape.mixture)),
        notes=tuple(note for note in notes if note),
        **(native or {}),
    )


def _sane(count: object) -> bool:
    return type(count) is int and 0 < count <= _MOST


def _elements(counts: dict[str, int], packed: dict[str, int], file_bytes: int) -> dict[str, int]:
    """Elements of each dtype that the files hold.

    The Hub counts weights where it knows the packing, and elements where it doesn't, or didn't when it counted
    (`getQuantizationMultiplier` of huggingface.js): the size of the files tells which, and without it elements,
    which are more weights, are taken.
    """
    unpacked = {dtype: count // _PACKED[dtype] if dtype in packed else count for dtype, count in counts.items()}
    readings = (counts, unpacked) if file_bytes else (counts,)
    return min(readings, key=lambda reading: abs(_bytes(reading) - file_bytes))


def _bytes(elements: dict[str, int]) -> int:
    return sum(count * BITS[dtype] // 8 for dtype, count in elements.items())


def _native(counts: dict[str, int], packed: dict[str, int]) -> dict[str, object]:
    """The fields of a checkpoint stored quantized: so many elements of each dtype."""
    if not packed:
        return {}
    name = _LIKELY.get(max(packed, key=lambda dtype: packed[dtype]), "quantized")
    tensors = (
        TensorSpec(f"all.{dtype}", (count // 2 if dtype == "F4" else count,), "other", DTYPES[dtype])
        for dtype, count in counts.items()
    )
    return {
        "prequantized": name,
        "native": tuple(tensors),
        "native_note": "Counts tell neither the format nor what runs it; these are the bytes of its files.",
        "native_runs": False,
    }


def _shaped_as(like: Inventory, facts: RepoFacts, source: str, why: str) -> Inventory:
    """The inventory of another model of the same type and size, under this one's name."""
    note = (
        f"It has as many parameters as {like.model_id} and is of the same type ({facts.model_type}), so it is taken to "
        "have the same shape."
    )
    return replace(
        like,
        model_id=facts.ref.id,
        revision=facts.ref.revision,
        sha=facts.sha,
        source=source,
        source_kind="counts",
        exact=False,
        cache_exact=False,
        prequantized=None,
        native=(),
        native_note="",
        notes=tuple(note for note in (why, note, *(() if like.prequantized else like.notes)) if note),
    )


def _twin(model_type: str | None, parameters: int) -> Inventory | None:
    """A bundled model of this type with as many parameters; `None` without one."""
    for model_id in _of_type().get(model_type or "", ()):
        found = bundled_inventory(model_id)
        if found is not None and abs(found.parameters - parameters) <= _SAME * parameters:
            return found
    return None


@lru_cache(maxsize=1)
def _of_type() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for model_id in bundled_models():
        entry = find_bundled(model_id)
        if entry is not None:
            found.setdefault(str(entry.config.get("model_type")), []).append(model_id)
    return found
