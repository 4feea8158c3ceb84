"""Adapters of PEFT: what a repository adapts, and what its tensors add to the base model.

The bytes are those that `PeftModel.from_pretrained` holds (peft 0.21): weights of an adapter are kept in float32
whatever their file has (`cast_adapter_dtype` of `peft/tuners/tuners_utils.py`, the encoders of prompts are built
in float32), copies of whole modules in the dtype of the module they copy (`ModulesToSaveWrapper` of
`peft/utils/other.py`), and weights that stand in for one of the base take no memory of their own.

Not here: reading the header of the adapter's file, and finding the base's own inventory (`sources.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import ModelUnavailable, ModelUnsupported, shorten
from ..hub.client import RepoFacts
from ..hub.json_files import fetch_json
from ..hub.reference import ModelRef, is_revision
from .inventory import Inventory, PeakTerm, TensorSpec

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"

_PREFIX = "base_model.model."  # before the names of a base in an adapter's file
_LOW_RANK = frozenset({"LORA", "ADALORA"})
_BY_INPUT = _LOW_RANK | {"IA3"}  # kinds that change what a layer makes of its input, and leave its weight alone
_EXPERTS = ("gate_up_proj", "down_proj", "gate_proj", "up_proj")  # stacked into one tensor each
_PROMPTS = frozenset({"PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING"})
# What these hold was compared with peft, byte for byte; others may keep more than their file tells.
_EXACT = _LOW_RANK | _PROMPTS | {"IA3", "LOHA", "LOKR"}
_CLASSIFIERS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")  # tasks for which peft saves the head too
_HEADS = ("classifier", "score", "qa_outputs")
# What peft makes beside a tensor of the file: end of its name → name and shape, or the shape of the tensor itself.
_BESIDE: dict[str, tuple[str, tuple[int, ...]]] = {
    "trainable_tokens_delta": ("trainable_tokens_original", ()),  # the rows that it replaces
    "lora_E": ("ranknum", (1,)),
}
_QUANTIZED_COPY = (
    "It brings copies of layers that bitsandbytes quantizes; PEFT can't load those in int8 and 4-bit rows."
)
_BY_SIZE = "Its tensors are in a pickled file, which is never opened: they are counted at the file's size."

# (name, dtype, shape) of a tensor, as a safetensors header has it.
Stored = tuple[str, str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What an adapter_config.json tells.

    Attributes:
        id: of the adapter's repository, at the commit `sha` for which `revision` stood.
        base: the model that it adapts.
        kind: PEFT's name of the method, such as `LORA` or `PROMPT_TUNING`.
        rank: of low-rank matrices; `None` where the method has none, or it isn't told.
        targets: modules that are adapted, by the ends of their names or a pattern.
        copies: modules of which the adapter brings a trained copy, by the ends of their names.
        classifies: whether it is for a classifier, whose class has a head of its own.
        virtual_tokens: that it puts before every prompt.
        weights: path of the file with its tensors; "" where there is none.
        bytes: size of that file.
    """

    id: str
    revision: str
    sha: str
    base: ModelRef
    kind: str
    rank: int | None = None
    targets: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    classifies: bool = False
    virtual_tokens: int = 0
    weights: str = ""
    bytes: int = 0

    @property
    def pickled(self) -> bool:
        """Whether its tensors are in a pickled file, of which only the size is told."""
        return self.weights == PICKLED_FILE


def is_adapter(facts: RepoFacts) -> bool:
    """Whether a repository is one of PEFT."""
    return CONFIG_FILE in facts.files


def adapter_of(facts: RepoFacts, token: str | None = None) -> AdapterFacts | None:
    """What a repository adapts; `None` where it is no adapter.

    transformers takes a repository with an adapter_config.json as an adapter, also beside a config.json.

    Raises:
        ModelUnsupported: the file is broken, names no model on the Hub, or comes without weights.
        ModelUnavailable: it could not be fetched.
    """
    if not is_adapter(facts):
        return None
    config = fetch_json(facts, CONFIG_FILE, token)
    classifies = config.get("task_type") in _CLASSIFIERS
    weights = next((path for path in (WEIGHTS_FILE, PICKLED_FILE) if path in facts.files), "")
    if not weights:
        raise ModelUnsupported(
            f"{facts.ref.id} has an {CONFIG_FILE}, but no {WEIGHTS_FILE} beside it.",
            "The upload may be incomplete; pick the base model, or another adapter.",
        )
    return AdapterFacts(
        id=facts.ref.id,
        revision=facts.ref.revision,
        sha=facts.sha,
        base=_base(facts, config),
        kind=_text(config, "peft_type").upper() or "LORA",
        rank=_whole(config, "r"),
        targets=_names(config, "target_modules"),
        copies=(*_names(config, "modules_to_save"), *(_HEADS if classifies else ())),
        classifies=classifies,
        virtual_tokens=_whole(config, "num_virtual_tokens") or 0,
        weights=weights,
        bytes=facts.files[weights],
    )


@contextmanager
def base_errors(adapter: AdapterFacts) -> Iterator[None]:
    """Say of what goes wrong with the base that it was asked for because of an adapter."""
    try:
        yield
    except (ModelUnavailable, ModelUnsupported) as error:
        told = copy.copy(error)  # the base's own error may be kept, and told again of the base alone
        told.message = f"{adapter.id} is an adapter of {adapter.base.id}, which is needed: {error.message}"
        raise told from error


def refuse_stacked(adapter: AdapterFacts, base: RepoFacts) -> None:
    """Refuse an adapter of an adapter.

    Raises:
        ModelUnsupported: `base` is an adapter itself.
    """
    if is_adapter(base):
        raise ModelUnsupported(
            f"{adapter.id} is an adapter of {base.ref.id}, which is an adapter itself: stacks of them are not covered.",
            f"Estimate {base.ref.id}; a further adapter of a few MB changes little.",
        )


def with_adapter(base: Inventory, adapter: AdapterFacts, stored: Iterable[Stored]) -> Inventory:
    """The base with an adapter on it, as `PeftModel.from_pretrained` holds both.

    Args:
        stored: the tensors of the adapter's file, by its header.
    """
    known = {tensor.name: tensor for tensor in base.tensors}
    added = tuple(_added(stored, known, adapter))
    widest = _forward(added, known, adapter)
    exact = adapter.kind in _EXACT and not _other_head(base, adapter)
    copied = [tensor for tensor in base.tensors if tensor.quantizable and _copied(tensor.name, adapter)]
    return _joined(
        base,
        adapter,
        added,
        f"the header of the adapter's {adapter.weights}",
        peak=_raised(base.peak, widest),
        quantized_peak=tuple((kernels, _raised(terms, widest)) for kernels, terms in base.quantized_peak),
        exact=base.exact and exact,
        notes=(_QUANTIZED_COPY,) if copied else (),
    )


def with_adapter_size(base: Inventory, adapter: AdapterFacts) -> Inventory:
    """The base with an adapter of which only the size of a pickled file is known: as if it were float32."""
    added = TensorSpec(f"{adapter.weights} of the adapter", (-(-adapter.bytes // 4),), "other", fixed_dtype="float32")
    return _joined(
        base, adapter, (added,), f"the size of the adapter's {adapter.weights}", exact=False, notes=(_BY_SIZE,)
    )


def _joined(
    base: Inventory,
    adapter: AdapterFacts,
    added: tuple[TensorSpec, ...],
    read: str,
    notes: tuple[str, ...],
    **changes: Any,
) -> Inventory:
    return replace(
        base,
        model_id=adapter.id,
        revision=adapter.revision,
        sha=adapter.sha,
        tensors=base.tensors + added,
        native=base.native + added if base.native else (),
        files=(),
        source=f"{base.source} of {adapter.base.id}, and {read}",
        notes=(*base.notes, _about(adapter, sum(t.elements for t in added)), *notes, *_left_out(base, adapter)),
        **changes,
    )


def _base(facts: RepoFacts, config: Mapping[str, Any]) -> ModelRef:
    """The model that an adapter names, or that its card names where the file has a path of somebody's machine."""
    named, revision = _text(config, "base_model_name_or_path"), _text(config, "revision") or "main"
    if not is_revision(revision):
        raise ModelUnsupported(
            f"{facts.ref.id} is an adapter of “{shorten(revision)}” of its base model, which is no revision.",
            "Ask for the base model by its own id; an adapter adds little to it.",
        )
    if _is_model_id(named):
        return ModelRef(named, revision)
    card = [name for name in facts.base_models if _is_model_id(name)]
    if len(card) == 1:
        return ModelRef(card[0])
    what = f"by a path on its author's machine ({shorten(named)})" if named else "not at all"
    raise ModelUnsupported(
        f"{facts.ref.id} is an adapter that names its base model {what}, and its card names none on the Hub.",
        "Ask for the base model by its own id; an adapter adds little to it.",
    )


def _is_model_id(name: str) -> bool:
    """Whether a name can be a model on the Hub: `name` or `org/name`, and not a path such as `./models/x`."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return (not name.startswith((".", "/", "~")) and "\\" not in name and name.count("/") == 1) or name in _LEGACY


# Models without an organization that are still asked for by that name; any other bare name is a folder's.
_LEGACY = frozenset({"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2", "t5-small", "t5-base", "t5-large"})


def _added(stored: Iterable[Stored], known: Mapping[str, TensorSpec], adapter: AdapterFacts) -> Iterator[TensorSpec]:
    for name, _, shape in stored:
        own = name.removeprefix(_PREFIX)
        module, _, leaf = own.rpartition(".")
        original = known.get(own) or known.get(f"{module.removesuffix('.base_layer')}.{leaf}")
        if original is None:
            yield TensorSpec(own, shape, "other", fixed_dtype="float32")
            for part, (beside, beside_shape) in _BESIDE.items():
                if leaf == part or module.endswith(f".{part}"):
                    yield TensorSpec(f"{module}.{beside}", beside_shape or shape, "buffer", fixed_dtype="float32")
        elif _copied(own, adapter):
            copy = f"{module}.modules_to_save.{leaf}"
            yield TensorSpec(copy, shape, "other", original.fixed_dtype, original.float32_in)


def _copied(name: str, adapter: AdapterFacts) -> bool:
    """Whether a tensor is in a module of which the adapter brings a copy; names are ends of paths of modules."""
    return any(f".{copy}." in f".{name}" for copy in adapter.copies)


def _other_head(base: Inventory, adapter: AdapterFacts) -> bool:
    """Whether the adapter was trained on a class with another head than the base that was read."""
    return adapter.classifies and any(tensor.role == "head" for tensor in base.tensors)


def _forward(added: tuple[TensorSpec, ...], known: Mapping[str, TensorSpec], adapter: AdapterFacts) -> PeakTerm:
    """Bytes beside a layer's own output while the widest adapted layer runs, at most: fixed, and a token.

    A token: the input in float32 (4 B), and twice the layer's output in float32, as what the adapter makes is scaled
    and added (`Linear.forward` of `peft/tuners/lora/layer.py`). Where the change of the whole weight is put together
    (DoRA's norm, products of LoHa and LoKr, experts), four matrices of its shape in float32 and an identity of its
    inputs (`DoraLinearLayer` of `peft/tuners/lora/dora.py`, `get_delta_weight` of the others). Where single tokens
    were trained, a copy of the embedding (`TrainableTokensLayer.get_merged_weights`).
    """
    if adapter.kind in _PROMPTS:
        return PeakTerm(0, 0)
    whole = adapter.kind not in _BY_INPUT or any("lora_magnitude_vector" in tensor.name for tensor in added)
    retrained = any("trainable_tokens_delta" in tensor.name for tensor in added)
    fixed = token = 0
    for weight in {id(found): found for tensor in added for found in _adapted(tensor.name, known)}.values():
        columns, rows = weight.shape[-1], weight.shape[-2] if len(weight.shape) > 1 else 1
        if weight.role == "embedding":
            token, fixed = max(token, 12 * columns), max(fixed, 2 * weight.elements if retrained else 0)
            continue
        token = max(token, 8 * (columns + rows) if weight.transposed else 4 * columns + 8 * rows)
        if whole or len(weight.shape) > 2:
            fixed = max(fixed, 16 * weight.elements + 4 * columns * columns)
    return PeakTerm(fixed, token)


def _adapted(name: str, known: Mapping[str, TensorSpec]) -> Iterator[TensorSpec]:
    """The weights of the base that a tensor of an adapter changes, by its name."""
    parts = name.removesuffix(".weight").split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(part for part in parts[:end] if part != "base_layer")
        if (weight := known.get(f"{module}.weight")) is not None:
            yield weight
            return
        if parts[end - 1] == "experts":
            stacked = (known.get(f"{module}.{leaf}") for leaf in _EXPERTS)
            yield from (weight for weight in stacked if weight is not None)
            return


def _raised(terms: tuple[PeakTerm, ...], by: PeakTerm) -> tuple[PeakTerm, ...]:
    return tuple(PeakTerm(term.fixed + by.fixed, term.token + by.token, term.square) for term in terms)


def _about(adapter: AdapterFacts, elements: int) -> str:
    rank = f" of rank {adapter.rank}" if adapter.rank and adapter.kind in _LOW_RANK else ""
    what = f"{elements:,} values beside those of the base, most of them in float32"
    return f"{adapter.id} is an adapter ({shorten(adapter.kind, 20)}{rank}) of {adapter.base.id}: {what}."


def _left_out(base: Inventory, adapter: AdapterFacts) -> Iterator[str]:
    if adapter.virtual_tokens:
        yield f"It puts {adapter.virtual_tokens:,} virtual tokens before every prompt: add them to the context."
    if adapter.kind not in _EXACT:
        yield f"What {shorten(adapter.kind, 20)} keeps beside the tensors of its file is not counted."
    if _other_head(base, adapter):
        yield f"It is for a classifier; the base is counted as {base.architecture}, with its own output head."


def _text(config: Mapping[str, Any], key: str) -> str:
    value = config.get(key)
    return value.strip() if isinstance(value, str) else ""


def _whole(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _names(config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = config.get(key)
    found = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(name for name in found if isinstance(name, str))
