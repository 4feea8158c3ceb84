"""What a model holds before a precision is chosen: its tensors, and how its cache grows.

Plain data without torch or I/O. `meta/` makes an inventory from the model class; `weights.py` and
`cache.py` turn one into bytes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Literal

from .gguf.file import GgufFile
from .stored import layer_of

# The model's class on `meta`; that and an adapter's header; headers of safetensors or GGUF files; the Hub's counts;
# sizes of pickled files.
SourceKind = Literal["class", "adapter", "headers", "gguf", "counts", "sizes"]
Role = Literal["linear", "experts", "head", "embedding", "norm", "bias", "buffer", "other"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One parameter or buffer.

    Attributes:
        name: full name, as in `named_parameters()` or `named_buffers()`.
        shape: as the unquantized module holds it.
        role: what it is for.
        fixed_dtype: dtype that does not follow the model's, such as `float32` of rotary frequencies.
        float32_in: model dtypes under which transformers keeps this tensor in float32
            (`_keep_in_fp32_modules`).
        rows: output features, where a quantizer replaces the layer; 0 where none does.
        transposed: whether the shape is [in, out] instead of [out, in], as of a `Conv1D` (GPT-2).
        tied_to: name of the tensor whose storage it shares; it then takes no memory of its own.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    fixed_dtype: str | None = None
    float32_in: tuple[str, ...] = ()
    rows: int = 0
    transposed: bool = False
    tied_to: str | None = None

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def columns(self) -> int:
        """Input features of a layer that a quantizer replaces; 0 where none does."""
        return self.elements // self.rows if self.rows else 0

    @property
    def quantizable(self) -> bool:
        return self.rows > 0

    def dtype_under(self, model_dtype: str) -> str:
        """The dtype of this tensor in a model that is loaded in `model_dtype`, when it isn't quantized."""
        if model_dtype in self.float32_in:
            return "float32"
        return self.fixed_dtype or model_dtype


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """How the cache of like layers grows with one sequence; each of them holds as much.

    Elements follow the cache's dtype; bytes are of tensors whose dtype is fixed (a float32 state).

    Attributes:
        kind: name of transformers' cache layer class.
        layers: their places in the cache's own list of layers (of each list, where an encoder-decoder
            has one for its own tokens and one for the encoder's).
        window: most tokens held; `None` when all are.
        token_elements: elements a token (keys and values, or a latent).
        token_bytes: bytes a token that don't follow the cache's dtype.
        state_elements: elements that don't grow (a convolution's state).
        state_bytes: bytes that neither grow nor follow the cache's dtype (a recurrent state).
    """

    kind: str
    layers: tuple[int, ...]
    window: int | None
    token_elements: int
    token_bytes: int = 0
    state_elements: int = 0
    state_bytes: int = 0

    @property
    def count(self) -> int:
        return len(self.layers)


@dataclass(frozen=True, slots=True, order=True)
class PeakTerm:
    """Bytes alive at one operation of a forward pass in bfloat16, weights aside, cache included.

    For n tokens in each of b sequences: b × (fixed + token × n + square × n²).
    """

    fixed: int
    token: int
    square: float = 0.0

    def at(self, context: int, batch: int) -> int:
        return batch * (self.fixed + self.token * context + round(self.square * context * context))


@dataclass(frozen=True, slots=True)
class ImageCost:
    """What one image costs in a prompt.

    Attributes:
        tokens: of the prompt that one image becomes.
        peak: bytes alive at the widest operation of the vision tower for one image, in bfloat16, weights
            aside, its output included.
        width: of the image in pixels; `height` likewise.
        note: which size of image that is, and how it was found.
    """

    tokens: int
    peak: int
    width: int
    height: int
    note: str = ""


@dataclass(frozen=True, eq=False)  # compared by identity: what is counted from one is kept beside it
class Inventory:
    """Every tensor that a model will hold, and how its cache grows.

    Attributes:
        model_id: as the Hub names it.
        revision: as asked for; `sha` is the commit it stood for, where it is known.
        architecture: name of the transformers class that is built and loaded.
        source: where the tensors were read from, for people; `source_kind` for programs.
        peak: operations of a forward pass that can hold most, each as a polynomial; the largest counts.
        exact: whether tensors are the very ones that the loader makes.
        private: whether its repository exists for those alone who were let in; `gated` whether its files do.
        safetensors: whether the repository has its weights in files that a load may read.
        generates: whether it answers text with text; only such a model has a cache and is loaded.
        weights_only: what the answer leaves out, for people, where only weights can be told; else empty.
        cache_exact: whether the cache was read from the real cache class.
        peak_measured: whether `peak` was read from passes on `meta`, or assumed from the config.
        max_context: tokens the model was made for; `None` when its config does not say.
        prequantized: method of a checkpoint that is stored quantized, such as `fp8` or `gptq`.
        blocks: names of the modules that a split over devices keeps whole, outermost ones in module order
            (`_no_split_modules` of transformers, `no_split_module_classes` of accelerate).
        attention_heads: query heads of a layer of the text model, `None` where it has none.
        key_value_heads: heads whose keys and values are cached, as the config has it.
        hidden_size: values of the residual stream, a token.
        vocab_size: rows of the output head.
        experts: routed experts of a layer; 0 in a dense model.
        experts_per_token: of them, those that each token visits.
        native: tensors as a checkpoint that is stored quantized holds them; empty where it isn't.
        native_note: what that format is and what runs it, for people.
        native_packed: whether transformers holds it packed while it generates.
        native_runs: whether transformers loads that format at all.
        native_capability: compute capability below which it won't; `None` for any.
        image: what one image costs, where the model takes images and its tower could be watched.
        quantized_peak: like `peak`, with what the kernels of bitsandbytes hold beside it, by their name
            (`meta/quantized.py`): `int8`, `int8-cpu`, `4bit`, `4bit-dq`.
        files: GGUF files of the repository, each of which holds the model; a row of the fit table each.
        notes: what people should know about these figures.
    """

    model_id: str
    architecture: str
    tensors: tuple[TensorSpec, ...]
    cache: tuple[CacheLayer, ...]
    peak: tuple[PeakTerm, ...]
    source: str
    source_kind: SourceKind = "class"
    revision: str = "main"
    sha: str | None = None
    exact: bool = True
    private: bool = False
    gated: bool = False
    safetensors: bool = True
    generates: bool = True
    weights_only: str = ""
    cache_exact: bool = True
    peak_measured: bool = True
    max_context: int | None = None
    prequantized: str | None = None
    blocks: tuple[str, ...] = ()
    attention_heads: int | None = None
    key_value_heads: int | None = None
    hidden_size: int | None = None
    vocab_size: int | None = None
    experts: int = 0
    experts_per_token: int = 0
    native: tuple[TensorSpec, ...] = ()
    native_note: str = ""
    native_packed: bool = True
    native_runs: bool = True
    native_capability: tuple[int, int] | None = None
    image: ImageCost | None = None
    quantized_peak: tuple[tuple[str, tuple[PeakTerm, ...]], ...] = ()
    files: tuple[GgufFile, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def peak_with(self, kernels: str) -> tuple[PeakTerm, ...]:
        """`peak` with the kernels of a quantizer; where they could not be watched, `peak` itself."""
        return dict(self.quantized_peak).get(kernels, self.peak)

    @cached_property
    def parameters(self) -> int:
        """Number of parameters, tied ones once."""
        return sum(t.elements for t in self.tensors if t.role != "buffer" and t.tied_to is None)

    @cached_property
    def shapes(self) -> Counter[TensorSpec]:
        """Untied tensors without their names, counted: a hundred layers become a few rows."""
        return Counter(
            TensorSpec("", t.shape, t.role, t.fixed_dtype, t.float32_in, t.rows, t.transposed)
            for t in self.tensors
            if t.tied_to is None
        )

    @cached_property
    def layers(self) -> tuple[tuple[TensorSpec, ...], ...]:
        """Untied tensors by layer; of like layers one."""
        grouped: dict[str, list[TensorSpec]] = {}
        for t in self.tensors:
            if t.tied_to is None:
                grouped.setdefault(layer_of(t.name), []).append(t)
        like = {tuple((t.shape, t.rows, t.fixed_dtype) for t in layer): tuple(layer) for layer in grouped.values()}
        return tuple(like.values())

    @cached_property
    def expert_elements(self) -> int:
        """Parameters in fused experts, which bitsandbytes leaves unquantized."""
        return sum(t.elements for t in self.tensors if t.role == "experts" and not t.quantizable)

    @cached_property
    def quantizable_elements(self) -> int:
        """Parameters in layers that a quantizer replaces."""
        return sum(t.elements for t in self.tensors if t.quantizable)

    @cached_property
    def widest_quantizable(self) -> int:
        """Most output features of a layer that a quantizer replaces; 0 when there is none."""
        return max((t.rows for t in self.tensors), default=0)
