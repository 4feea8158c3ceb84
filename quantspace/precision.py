"""The one table of precisions, read by the estimate and by the loader alike.

A row says how a precision is named, what transformers is told to load it, and what a weight becomes
in memory. Nothing here imports torch until a load asks for its arguments, so that the estimate runs
without it.

Layouts of bitsandbytes 0.50 (`bitsandbytes/functional.py`, `quantize_4bit` and
`int8_vectorwise_quant`), for a weight of N elements and `rows` output features:

    int8      N int8                + 4 · rows                      (SCB, one float32 a row)
    nf4, fp4  ⌈N/2⌉ uint8           + 4 · ⌈N/64⌉ + 64               (absmax float32, code float32[16])
    nf4-dq    ⌈N/2⌉ uint8           + ⌈N/64⌉ + 4 · ⌈⌈N/64⌉/256⌉ + 1024 + 4 + 64
                                      (absmax uint8, nested absmax, nested code float32[256], offset, code)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .errors import BadInput, shorten

BLOCK = 64  # elements that share one absmax in 4-bit
NESTED_BLOCK = 256  # absmax values that share one nested absmax
CODE_BYTES = 16 * 4
NESTED_CODE_BYTES = 256 * 4
OFFSET_BYTES = 4

Method = Literal["cast", "int8", "4bit"]

DTYPE_BYTES = {
    "float64": 8, "int64": 8, "complex64": 8,
    "float32": 4, "int32": 4,
    "bfloat16": 2, "float16": 2, "int16": 2,
    "int8": 1, "uint8": 1, "bool": 1, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e8m0fnu": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Precision:
    """A way of holding a model's weights.

    Attributes:
        id: stable name, used in URLs and by the API.
        label: the name people know.
        bits: bits per quantizable weight, constants of the format included, for large weights.
        method: `cast` (all weights in one dtype) or what bitsandbytes makes of the linear layers.
        dtype: dtype of all that is not quantized, and of the computation.
        quant_type: `nf4` or `fp4` for 4-bit.
        double_quant: whether the absmax values are quantized again.
        about: one sentence for people.
    """

    id: str
    label: str
    bits: float
    method: Method
    dtype: str
    about: str
    quant_type: str | None = None
    double_quant: bool = False

    @property
    def quantizes(self) -> bool:
        return self.method != "cast"

    @property
    def storage_name(self) -> str:
        """The storage dtype of a weight in this precision, as the tables print it: `uint8 (nf4)`."""
        return {"cast": self.dtype, "int8": "int8", "4bit": f"uint8 ({self.quant_type})"}[self.method]

    def data_bytes(self, elements: int) -> int:
        """Bytes of the data of a quantized weight of `elements`: what `get_memory_footprint()` counts."""
        if self.method == "cast":
            return elements * DTYPE_BYTES[self.dtype]
        return elements if self.method == "int8" else -(-elements // 2)

    def constant_bytes(self, elements: int, rows: int) -> int:
        """Bytes of the quantization constants of that weight: what `get_memory_footprint()` misses."""
        if self.method == "cast":
            return 0
        if self.method == "int8":
            return 4 * rows
        blocks = -(-elements // BLOCK)
        if not self.double_quant:
            return 4 * blocks + CODE_BYTES
        nested = 4 * -(-blocks // NESTED_BLOCK) + NESTED_CODE_BYTES + OFFSET_BYTES
        return blocks + nested + CODE_BYTES

    def transformers_kwargs(self) -> dict[str, Any]:
        """The keyword arguments of `from_pretrained` that load this precision."""
        import torch
        from transformers import BitsAndBytesConfig

        dtype = getattr(torch, self.dtype)
        if self.method == "cast":
            return {"dtype": dtype}
        if self.method == "int8":
            return {"dtype": dtype, "quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.quant_type,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=dtype,
        )
        return {"dtype": dtype, "quantization_config": config}


_ROWS = (
    Precision("fp32", "FP32", 32, "cast", "float32", "Full precision: the reference, at twice the size of 16 bits."),
    Precision("bf16", "BF16", 16, "cast", "bfloat16", "How most models are published: FP32's range in half the bytes."),
    Precision("fp16", "FP16", 16, "cast", "float16", "16 bits for cards without native BF16, such as the T4."),
    Precision("int8", "INT8", 8, "int8", "bfloat16", "LLM.int8: 8-bit linear layers, outliers in 16 bits; slower."),
    Precision("nf4", "NF4", 4.5, "4bit", "bfloat16", "4-bit levels spaced as normally distributed weights are.", "nf4"),
    Precision(
        "nf4-dq", "NF4 + double quant", 4.127, "4bit", "bfloat16",
        "NF4 whose block scales are quantized again: the smallest here.", "nf4", True,
    ),
    Precision("fp4", "FP4", 4.5, "4bit", "bfloat16", "4-bit floating point levels; NF4 is often more faithful.", "fp4"),
)  # fmt: skip

PRECISIONS: dict[str, Precision] = {row.id: row for row in _ROWS}


def find_precision(value: object) -> Precision:
    """The row of an id.

    Raises:
        BadInput: there is no such row.
    """
    found = PRECISIONS.get(value) if isinstance(value, str) else None
    if found is None:
        raise BadInput(f"“{shorten(str(value), 40)}” is not a precision.", f"Use one of {', '.join(PRECISIONS)}.")
    return found
