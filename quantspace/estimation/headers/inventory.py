"""The inventory of a model of which no class can be built, from the headers of its safetensors files.

Tensors are as the files have them, so weights in 16 bits are exact but for what a class adds (tables of rotary
positions) and leaves out. What runs the model is not known: how it attends, and what it holds for a moment, is
taken from shapes and the config, on the safe side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...errors import ModelUnsupported, shorten
from ...hub.client import RepoFacts
from ...hub.safetensors_headers import BITS, HeaderTensor, StoredHeader
from ..inventory import Inventory, PeakTerm, TensorSpec
from ..native.methods import METHODS, NativeMethod, native_method, quantization_of
from .assumed import assumed_peak
from .classify import DTYPES, all_experts, classified, distinct, layer_of, role_of
from .geometry import Geometry, geometry
from .packing import LogicalTensor, unpacked
from .plain_config import Numbers, first_bits, read_numbers
from .purpose import left_out

MAX_HELD = 12_000  # tensors, experts of a layer as one; 3,100 published. A table of the fit takes 2 s for as many
_BESIDE = 4  # tensors that stand for one weight: itself and, in NVFP4, three scales
NOTHING = (PeakTerm(0, 0),)
_LEVELS = 32  # of modules in a name; published ones have 12
_MOST_VISITED = 8  # experts a token


def inventory_from_headers(
    facts: RepoFacts, headers: Sequence[StoredHeader], config: Mapping[str, Any] | None, why: str
) -> Inventory:
    """What a model holds by its files' own account.

    Args:
        headers: of the files that hold it once (`hub/safetensors_headers.py`).
        config: its parsed config.json; `None` where it has none.
        why: no better source could be used, in a sentence for people.

    Raises:
        ModelUnsupported: the files hold no weights, or more tensors than any model has.
    """
    stored = _all_tensors(headers)
    refuse_too_many(facts, distinct(tensor.name for tensor in stored), _BESIDE * MAX_HELD)
    numbers = read_numbers(config)
    logical = unpacked(stored, first_bits(config))
    specs = classified(logical, numbers)
    refuse_too_many(facts, len(specs), MAX_HELD)
    specs = _with_tied_head(_in_order(specs), numbers)
    if all(spec.role == "buffer" for spec in specs):
        raise ModelUnsupported(
            f"The safetensors files of {facts.ref.id} hold no weights.", "Pick another repository of this model."
        )
    missing = left_out(facts, numbers.architecture)
    grown = geometry(specs, numbers)
    if missing:
        grown = replace(grown, layers=(), notes=())
    elif not grown.layers:
        missing = (
            "Weights only: neither its config nor the shapes of its tensors tell how its cache grows, so cache and "
            "activations are not counted."
        )
    notes = [why, *grown.notes, *_notes(logical, specs, numbers)]
    native, native_notes = _native(logical, numbers, config)
    return Inventory(
        model_id=facts.ref.id,
        revision=facts.ref.revision,
        sha=facts.sha,
        architecture=numbers.architecture or facts.model_type or "",
        tensors=tuple(specs),
        cache=grown.layers,
        peak=NOTHING if missing else (_peak(specs, numbers, grown),),
        source=_source(headers),
        source_kind="headers",
        exact=False,
        weights_only=missing,
        cache_exact=False,
        peak_measured=False,
        max_context=numbers.max_context,
        blocks=grown.blocks,
        attention_heads=numbers.heads,
        key_value_heads=numbers.key_value_heads,
        hidden_size=_hidden(specs, numbers),
        vocab_size=_vocabulary(specs, numbers),
        experts=_experts(specs, numbers),
        experts_per_token=_visited(specs, numbers),
        notes=tuple(note for note in (*notes, *native_notes) if note),
        **native,
    )


def refuse_too_many(facts: RepoFacts, found: int, most: int = MAX_HELD) -> None:
    """Raise ModelUnsupported where files hold more tensors than are looked at one by one."""
    if found > most:
        raise ModelUnsupported(
            f"The safetensors files of {facts.ref.id} hold {found:,} tensors beside experts; {most:,} are read.",
            "Check the repository: no published model has that many.",
        )


def _source(headers: Sequence[StoredHeader]) -> str:
    if len(headers) == 1:
        return "the header of its safetensors file"
    return f"the headers of its {len(headers):,} safetensors files"


def _all_tensors(headers: Sequence[StoredHeader]) -> list[HeaderTensor]:
    """The tensors of all files, each name once and none that is empty; of several folders with the folder's name.

    A single value has one dimension, so that all have one.
    """
    folders = {header.path.rpartition("/")[0] for header in headers}
    several = len(folders) > 1
    found: dict[str, HeaderTensor] = {}
    for header in headers:
        folder = header.path.rpartition("/")[0].replace("/", ".")
        for tensor in header.tensors:
            name = _sound(f"{folder}.{tensor.name}" if several and folder else tensor.name)
            if tensor.bytes and name not in found:
                as_it_is = name is tensor.name and tensor.shape
                found[name] = tensor if as_it_is else tensor._replace(name=name, shape=tensor.shape or (1,))
    return list(found.values())


def _sound(name: str) -> str:
    """A name whose modules all have one, and of no more levels than a split over devices follows."""
    if name and ".." not in name and name.count(".") < _LEVELS and name[0] != "." != name[-1]:
        return name
    parts = [part or "_" for part in name.split(".")]
    return ".".join([*parts[: _LEVELS - 1], "_".join(parts[_LEVELS - 1 :])] if len(parts) > _LEVELS else parts)


def _in_order(specs: Iterable[TensorSpec]) -> list[TensorSpec]:
    """Embeddings, layers by number, what follows them: files have them by the alphabet."""

    def place(spec: TensorSpec) -> tuple[int, str, int]:
        where = layer_of(spec.name)
        if where is not None:
            return (1, where[0], where[1])
        return (0 if spec.role == "embedding" else 3 if spec.role == "head" else 2, "", 0)

    return sorted(specs, key=place)


def _with_tied_head(specs: list[TensorSpec], numbers: Numbers) -> list[TensorSpec]:
    """The head as the embeddings' own weight, where the config says so, or no file has it and nothing denies it."""
    outside = (spec for spec in specs if spec.role == "embedding" and layer_of(spec.name) is None)
    embedding = max(outside, key=lambda spec: spec.elements, default=None)
    heads = [spec for spec in specs if spec.role == "head"]
    if embedding is None or numbers.tied is False:
        return specs
    if not heads:
        return [*specs, TensorSpec("lm_head.weight", embedding.shape, "head", tied_to=embedding.name)]
    if not numbers.tied:
        return specs
    return [
        replace(spec, tied_to=embedding.name) if spec.role == "head" and spec.shape == embedding.shape else spec
        for spec in specs
    ]


def _hidden(specs: Iterable[TensorSpec], numbers: Numbers) -> int | None:
    if numbers.hidden:
        return numbers.hidden
    return next((spec.shape[-1] for spec in specs if spec.role in ("embedding", "head")), None)


def _vocabulary(specs: Iterable[TensorSpec], numbers: Numbers) -> int | None:
    heads = [spec.shape[0] for spec in specs if spec.role in ("head", "embedding") and layer_of(spec.name) is None]
    return numbers.vocabulary or max(heads, default=None)


def _experts(specs: Iterable[TensorSpec], numbers: Numbers) -> int:
    held = (spec.shape[0] if len(spec.shape) == 3 else 1 for spec in specs if spec.role == "experts")
    return numbers.experts or max(held, default=0)


def _visited(specs: Iterable[TensorSpec], numbers: Numbers) -> int:
    """Experts that each token visits; as many as most published models have, where the config doesn't tell."""
    return numbers.experts_per_token or min(_experts(specs, numbers), _MOST_VISITED)


def _peak(specs: Sequence[TensorSpec], numbers: Numbers, grown: Geometry) -> PeakTerm:
    """By the config's widths, or else by the widest layer and the widest expert."""
    hidden = _hidden(specs, numbers) or 1
    rows = (spec.rows for spec in specs if spec.rows > 1 and layer_of(spec.name))  # 1 where nothing tells them
    dense = numbers.dense or max(rows, default=0)
    expert = numbers.expert or max((max(s.shape[1:]) for s in specs if s.role == "experts" and s.shape[1:]), default=0)
    visited = _visited(specs, numbers) if any(spec.role == "experts" for spec in specs) else 0
    return assumed_peak(hidden, _vocabulary(specs, numbers) or 0, dense, expert, visited, grown.layers)


def _notes(logical: Sequence[LogicalTensor], specs: Sequence[TensorSpec], numbers: Numbers) -> list[str]:
    notes = []
    if any(spec.role == "experts" for spec in specs):
        notes.append(
            "Experts are counted as transformers 5 holds them, fused, where bitsandbytes leaves them in 16 bits; code "
            "that keeps each apart would have them quantized, as the row “NF4, experts too” counts."
        )
    ahead = _layers_ahead(specs, numbers)
    if ahead:
        notes.append(
            f"The files hold {ahead} more layer{'s' if ahead > 1 else ''} than its config tells, as for predicting "
            "ahead; they are counted."
        )
    if any(
        tensor.method == "integers" or (tensor.method and not tensor.shaped and tensor.method != "bitsandbytes")
        for tensor in logical
    ):
        notes.append("How its integers are packed is not known here: the other precisions are an assumption.")
    return notes


def _layers_ahead(specs: Iterable[TensorSpec], numbers: Numbers) -> int:
    if numbers.layers is None:
        return 0
    stacks: dict[str, set[int]] = {}
    for spec in specs:
        if (where := layer_of(spec.name)) is not None:
            stacks.setdefault(where[0], set()).add(where[1])
    largest = max(stacks.values(), key=len, default=set())
    return max(len(largest) - numbers.layers, 0) if 0 < len(largest) - numbers.layers < numbers.layers else 0


def _native(
    logical: Sequence[LogicalTensor], numbers: Numbers, config: Mapping[str, Any] | None
) -> tuple[dict[str, Any], list[str]]:
    """The fields that tell how a quantized checkpoint is stored, and a note; none where nothing is packed."""
    packed = Counter[str]()
    for tensor in logical:
        if tensor.method:
            packed[tensor.method] += tensor.stored.bytes
    if not packed:
        return {}, []
    (likely, _), *_ = packed.most_common(1)
    told = quantization_of(dict(config or {}), (config or {}).get("hf_quant_config")) or {}
    words = {key: value for key, value in told.items() if isinstance(value, str | int)}
    name = shorten(str(words.get("quant_method") or likely), 40)
    method = _method(words) or METHODS.get(likely)
    fields: dict[str, Any] = {"prequantized": name, "native": _all_as_stored(logical, numbers)}
    if method is None:
        fields |= {
            "native_runs": False,
            "native_note": "A format that is not known here; as the files hold it.",
        }
    else:
        fields |= {
            "native_note": f"{method.label}. {method.needs}",
            "native_packed": method.stays_packed,
            "native_runs": method.loads,
            "native_capability": method.min_capability,
        }
    return fields, [f"This checkpoint is stored as {name}; the other rows show the model as if it were not."]


def _method(words: dict[str, Any]) -> NativeMethod | None:
    """The format that a checkpoint's settings name; `None` where it isn't known."""
    try:
        return native_method({"quantization_config": words})
    except ModelUnsupported:
        return None


def _all_as_stored(logical: Iterable[LogicalTensor], numbers: Numbers) -> tuple[TensorSpec, ...]:
    """The tensors of the files, those of a layer's experts that are alike as one."""
    counted = Counter(_as_stored(tensor, numbers) for tensor in logical)
    return tuple(replace(spec, shape=(n, *spec.shape)) if n > 1 else spec for spec, n in counted.items())


def _as_stored(tensor: LogicalTensor, numbers: Numbers) -> TensorSpec:
    stored = tensor.stored
    role = "buffer" if tensor.constant else role_of(tensor, numbers)
    shape = stored.shape if BITS[stored.dtype] >= 8 else (1, stored.bytes)
    return TensorSpec(all_experts(stored.name), shape, role, DTYPES[stored.dtype])
