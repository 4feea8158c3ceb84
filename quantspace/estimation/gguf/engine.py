"""What runs a GGUF file on this machine, and what it costs: said before anything is fetched."""

from __future__ import annotations

from typing import Literal

from ...units import gb
from ..here import installed
from ..inventory import Inventory
from .file import GgufFile

Runner = Literal["llama.cpp", "transformers", ""]

LLAMA_CPP = "llama_cpp"  # llama-cpp-python
INSTALL = "pip install llama-cpp-python"
_UNPACKED = 2  # bytes of bfloat16


def runner() -> Runner:
    """What this machine runs GGUF files with: as they are, unpacked, or not at all."""
    if installed(LLAMA_CPP):
        return "llama.cpp"
    return "transformers" if installed("gguf") else ""


def told_before(inventory: Inventory, file: GgufFile) -> str:
    """What a load of the file would do here; empty where it is held as it was counted."""
    match runner():
        case "llama.cpp":
            return ""
        case "transformers":
            unpacked = sum(spec.elements for spec in inventory.tensors if spec.tied_to is None) * _UNPACKED
            return (
                f"Loaded here it is unpacked to BF16 by transformers: about {gb(unpacked)} instead of "
                f"{gb(file.weights)}. To run it as it is: {INSTALL}."
            )
    return f"To load it here: {INSTALL}."
