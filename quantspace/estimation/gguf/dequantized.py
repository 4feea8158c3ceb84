"""A GGUF file as transformers holds it: unpacked to 16 bits, in the class that its metadata name.

Not here: what llama.cpp holds of it, which is the file's own tensors (`file.py`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import ModelUnsupported, shorten
from ..inventory import Inventory
from ..worker_pool import WorkStopped, run_apart

READ_SECONDS = 10  # of a processor: a vocabulary of 262,144 is read on the way


def dequantized_inventory(path: Path, model_id: str, revision: str, sha: str | None) -> Inventory:
    """The tensors that transformers makes of a GGUF file on this disk; the first part of a split one.

    Raises:
        ModelUnsupported: transformers has no class for it, or its metadata break what reads them.
    """
    names = {"model_id": model_id, "revision": revision, "sha": sha, "source": f"from {path.name}"}
    try:
        inventory = run_apart(READ_SECONDS, _read, str(path), names)
    except WorkStopped as error:
        raise ModelUnsupported(
            f"Reading the metadata of {path.name} was stopped: {error}.", "The file may be broken; try another."
        ) from error
    return replace(inventory, safetensors=True)  # its weights come from the file


def _read(path: str, names: dict[str, Any]) -> Inventory:
    """What is done apart: it is somebody else's file."""
    from transformers import AutoConfig

    from ..meta.reader import inventory_from_config

    file = Path(path)
    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
        return inventory_from_config(_with_architecture(config), **names)
    except MemoryError:
        raise
    except Exception as error:  # a seam: any value of the file may break what reads it, or be unknown to it
        raise ModelUnsupported(
            f"transformers can't unpack {file.name}: {shorten(str(error), 160)}",
            "Install llama-cpp-python, which runs GGUF files as they are, or load the original weights.",
        ) from error


def _with_architecture(config: Any) -> dict[str, Any]:
    """The config with the class that generates text with it, which a GGUF file doesn't name."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return config.to_dict() | {"architectures": [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]}
