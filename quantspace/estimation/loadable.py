"""Whether what was estimated can be loaded by this app on this machine, and what to tell who tries.

Known before anything is fetched and without torch: from the inventory, the installed packages and the card.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ..errors import LoadFailed, stored_quantized
from ..precision import PRECISIONS, Method, Precision
from .gguf.engine import INSTALL, runner
from .gguf.rows import file_behind
from .here import Device, installed, this_device
from .inventory import Inventory, SourceKind
from .native.methods import NativeMethod, method_named, unpacks
from .weights import KEPT, is_quantized

_ORIGINAL = "Load the repository of the original weights: this app quantizes them while loading."
_REASONS: dict[SourceKind, tuple[str, str]] = {
    "headers": (
        "its architecture is not one that transformers builds by itself, and code from a repository is never run",
        "Load a model whose architecture is part of transformers.",
    ),
    "gguf": ("its files are GGUF, which llama.cpp and what builds on it run", _ORIGINAL),
    "counts": ("all that is known of it is how many parameters it has", "Give a token that may read it."),
    "sizes": ("its weights are pickled, and could run code", "Load a repository that has safetensors files."),
    "adapter": ("it is an adapter, and those are not loaded yet", "Load the base model that it names."),
}
_PACKED_ROWS = 16  # a processor's kernel of four bits takes outputs in sixteens
_INT4_CAPABILITY = (8, 0)  # torchao/quantization/quantize_/workflows/int4/int4_tile_packed_to_4d_tensor.py


@dataclass(frozen=True, slots=True)
class _Gap:
    """Where a quantized model loads and then can't compute.

    Attributes:
        classes: names of classes of transformers; empty for any.
        layer: end of a weight's name that shows it; empty for any.
    """

    methods: tuple[Method, ...]
    reason: str
    classes: tuple[str, ...] = ()
    layer: str = ""

    def hits(self, inventory: Inventory, precision: Precision) -> bool:
        return (
            precision.method in self.methods
            and (not self.classes or inventory.architecture in self.classes)
            and any(spec.name.endswith(self.layer) for spec in inventory.tensors)
        )


_GAPS = (
    _Gap(
        ("int8", "4bit", "torchao"),
        "this architecture multiplies with weights outside of their layers, which packed ones can't take part in",
        classes=("MambaForCausalLM", "FalconMambaForCausalLM"),
    ),
    _Gap(
        ("torchao",),
        "this architecture's layers turn their weights, which torchao's packed ones can't be",
        classes=("FalconForCausalLM",),
    ),
    _Gap(
        ("int8",),
        "its latent attention gives layers an input of four dimensions, and LLM.int8 takes three",
        layer="kv_b_proj.weight",
    ),
)


def refusal_to_load(
    inventory: Inventory, precision: Precision | None = None, device: Device | None = None
) -> LoadFailed | None:
    """Why this model is not loaded here at this precision; `None` where it may be.

    Args:
        precision: without one, why none of its precisions is.
        device: where it would be loaded; this machine's where none is given.
    """
    refusal = _of_the_model(inventory, precision)
    if refusal is not None or precision is None:
        return refusal
    found = _found(inventory, precision, device or this_device())
    if found is None:
        return None
    reason, hint = found
    return LoadFailed(f"{precision.label} of {inventory.model_id} is not loaded here: {reason}.", hint)


def why_not(inventory: Inventory, precision: Precision, device: Device | None = None) -> str:
    """The same as a sentence or two for a row that says what model and precision it is; empty where it is loaded."""
    if (refusal := _of_the_model(inventory, precision)) is not None:
        return str(refusal)
    found = _found(inventory, precision, device or this_device())
    if found is None:
        return ""
    reason, hint = found
    return f"Not loaded here: {reason}. {hint}".strip()


def can_compute(inventory: Inventory, precision: Precision, kind: Literal["cpu", "cuda"]) -> bool:
    """Whether a model of these layers answers at all at this precision, wherever it has what that needs."""
    device = Device(kind, (99, 0))
    return not any(check(inventory, precision, device) for check in (_gaps, _four_bits))


def held_here(inventory: Inventory, precision: Precision, device: Device | None = None) -> Precision:
    """What a load on this machine makes of a row, and holds: the row as it is, but for what it unpacks or repacks."""
    device = device or this_device()
    if precision.method == "stored":
        method = _native(inventory)
        return PRECISIONS["bf16"] if method is not None and unpacks(method, device) else precision
    return precision.on_card() if device.kind == "cuda" else precision


def _of_the_model(inventory: Inventory, precision: Precision | None = None) -> LoadFailed | None:
    if precision is not None and file_behind(inventory, precision.id) is not None:
        return None  # it brings all that a load needs, whatever else the repository holds
    if precision is None and inventory.source_kind == "gguf" and runner():
        return None
    if inventory.source_kind in _REASONS:
        reason, hint = _REASONS[inventory.source_kind]
        return LoadFailed(f"{inventory.model_id} can be estimated, not loaded: {reason}.", hint)
    if inventory.prequantized and not inventory.native:
        return stored_quantized(inventory.model_id, inventory.prequantized)
    if not inventory.safetensors:
        return LoadFailed(
            f"{inventory.model_id} holds no safetensors weights in the transformers layout.",
            "Pickled weights can run code and are never loaded here; pick a repository with model.safetensors.",
        )
    if not inventory.generates:
        return LoadFailed(
            f"{inventory.model_id} can be estimated, not loaded: it does not answer text with text.",
            "Load a text-generating model, with or without vision.",
        )
    return None


_Found = tuple[str, str] | None  # a reason that ends a sentence, and a hint


@lru_cache(maxsize=KEPT)  # for every card of the catalogue the answer is the same
def _found(inventory: Inventory, precision: Precision, device: Device) -> _Found:
    return next(filter(None, (check(inventory, precision, device) for check in _CHECKS)), None)


def _never(inventory: Inventory, precision: Precision, device: Device) -> _Found:
    if precision.missing:
        return precision.missing[0].lower() + precision.missing[1:].rstrip("."), ""
    return None


def _format(inventory: Inventory, precision: Precision, device: Device) -> _Found:
    """A checkpoint that is stored quantized is loaded as it is, and nothing else is made of it."""
    if precision.method == "gguf":
        return None
    if precision.method == "stored" and not inventory.native:
        return "the checkpoint is not stored quantized", "Choose one of the rows that quantize while loading."
    if precision.method != "stored" and inventory.prequantized:
        found = f"the checkpoint is stored quantized already ({inventory.prequantized})"
        return found, "Load it as published, or the repository of the original weights."
    return None


def _stored(inventory: Inventory, precision: Precision, device: Device) -> _Found:
    if precision.method != "stored":
        return None
    method = _native(inventory)
    if method is None or not method.loads or not inventory.native_runs:
        return "transformers does not load this format", inventory.native_note
    if method.on_a_card and not device.can(method.min_capability):
        return f"this format needs {_card(method.min_capability)}", inventory.native_note
    return _package(method.packages)


def _packages(inventory: Inventory, precision: Precision, device: Device) -> _Found:
    return _package(precision.packages)


def _experts(inventory: Inventory, precision: Precision, device: Device) -> _Found:
    if precision.experts and not inventory.expert_elements:
        return "the model has no fused experts, so this is NF4 + double quant", "Load nf4-dq."
    return None


def _file(inventory: Inventory, precision: Precision, device: Device) -> _Found:
    file = file_behind(inventory, precision.id)
    if file is None:
        return None
    if not runner():
        return "nothing that is installed here runs GGUF files", f"Install llama.cpp's bindings: {INSTALL}"
    if runner() == "transformers" and len(file.paths) > 1:
        return "it is split, and transformers unpacks single files alone", f"To run it as it is: {INSTALL}"
    return None


def _gaps(inventory: Inventory, precision: Precision, device: Device) -> _Found:
    gap = next((gap for gap in _GAPS if gap.hits(inventory, precision)), None)
    return gap and (gap.reason, "Choose BF16 or FP16.")


def _four_bits(inventory: Inventory, precision: Precision, device: Device) -> _Found:
    """What torchao's two ways to pack four bits ask for."""
    if precision.id != "int4-ao":
        return None
    if device.kind == "cuda":
        return None if device.can(_INT4_CAPABILITY) else (f"its kernels need {_card(_INT4_CAPABILITY)}", "Choose NF4.")
    quantized = (spec for spec in inventory.tensors if is_quantized(spec, precision))
    odd = next((spec for spec in quantized if spec.shape[0] % _PACKED_ROWS), None)
    if odd is None:
        return None
    name = odd.name.removesuffix(".weight")
    return f"a processor packs outputs in sixteens, and {name} has {odd.shape[0]:,} of them", "Choose NF4 or INT8."


_CHECKS: tuple[Callable[[Inventory, Precision, Device], _Found], ...] = (
    _file, _never, _format, _stored, _packages, _experts, _gaps, _four_bits,
)  # fmt: skip


def _native(inventory: Inventory) -> NativeMethod | None:
    return method_named(inventory.prequantized or "")


def _package(names: tuple[str, ...]) -> _Found:
    missing = [name for name in names if not installed(name)]
    if not missing:
        return None
    needed = " and ".join(missing)
    return f"it needs {needed}, not installed on this machine", f"Install it: pip install {' '.join(missing)}"


def _card(capability: tuple[int, int] | None) -> str:
    return "a GPU" if capability is None else "a GPU of compute capability {}.{} or newer".format(*capability)
