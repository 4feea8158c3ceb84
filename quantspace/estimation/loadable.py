"""Whether what was estimated can be loaded by this app, and what to tell who tries."""

from __future__ import annotations

from ..errors import LoadFailed, stored_quantized
from .inventory import Inventory, SourceKind

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


def refusal_to_load(inventory: Inventory) -> LoadFailed | None:
    """Why no precision of this model is loaded here; `None` where any may be."""
    if inventory.source_kind in _REASONS:
        reason, hint = _REASONS[inventory.source_kind]
        return LoadFailed(f"{inventory.model_id} can be estimated, not loaded: {reason}.", hint)
    if inventory.prequantized:
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
