"""A GGUF file of a repository as a row of the fit table needs it: what it holds by type, and layer by layer.

Plain data. `hub/gguf_files.py` reads the headers, `from_header.py` makes these of them, `layers.py` places them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "gguf:"  # of the id of a precision that stands for a file

Part = Literal["layers", "input", "output"]


@dataclass(frozen=True, slots=True)
class TypeSum:
    """All tensors of a part of the model in one type of ggml.

    Attributes:
        part: `input` for what is looked up before the first layer, `output` for what follows the last one.
        type: ggml's name of it, such as `Q4_K`.
        tensors: how many they are.
        elements: weights of all of them.
        bytes: of all of them.
    """

    part: Part
    type: str
    tensors: int
    elements: int
    bytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A model in a GGUF file, or in the parts of a split one. Bytes throughout.

    llama.cpp keeps the input in system memory, whatever a card has room for. Token embeddings that are the output
    head too are on the card for that, and count as output here.

    Attributes:
        paths: in the repository, the parts in their order.
        label: of its quantization, such as `Q4_K_M`.
        size: on disk, all parts: tokenizer and padding included.
        weights: of its tensors, each once.
        tensors: how many they are.
        input: of its tensors that stay in system memory.
        layers: of the tensors of each layer, in order; empty where its tensors are not in layers.
        output: of its other tensors.
        types: what they hold by part and type, the most first; empty where this file's own header was not read.
        exact: whether that header was read; otherwise the bytes follow from its size, shared out as in the file
            whose header was.
    """

    paths: tuple[str, ...]
    label: str
    size: int
    weights: int
    tensors: int
    input: int = 0
    layers: tuple[int, ...] = ()
    output: int = 0
    types: tuple[TypeSum, ...] = ()
    exact: bool = True

    @property
    def path(self) -> str:
        """The first part, which an engine is told to load."""
        return self.paths[0]

    @property
    def id(self) -> str:
        """Of the precision that stands for this file: `gguf:model-Q4_K_M.gguf`."""
        return PREFIX + self.path

    @property
    def on_gpu(self) -> int:
        """Bytes of its tensors that a GPU with memory of its own holds when all layers are on it."""
        return sum(self.layers) + self.output
