"""The one table of precisions, read by the estimate and by the loader alike.

A row says how a precision is named, what transformers is told to load it, and what a weight becomes
in memory. Nothing here imports torch until a load asks for its arguments, so that the estimate runs
without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from .errors import BadInput, shorten
from .formula import Formula

Method = Literal["cast", "int8", "4bit", "torchao", "packed", "gguf", "stored"]
Engine = Literal["transformers", "llama.cpp"]

DTYPE_BYTES = {
    "float64": 8, "int64": 8, "complex64": 8,
    "float32": 4, "int32": 4,
    "bfloat16": 2, "float16": 2, "int16": 2,
    "int8": 1, "uint8": 1, "bool": 1,
    "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """What memory makes of one quantized weight of `elements`, with `rows` outputs and `columns` inputs.

    Attributes:
        storage: dtype that memory holds, with the format in brackets.
        data: bytes of the packed weight, what `get_memory_footprint()` counts.
        constants: bytes of scales and the like beside it.
        source: where this layout is written down.
    """

    storage: str
    data: Formula
    constants: Formula
    source: str

    def bytes(self, elements: int, rows: int, columns: int) -> tuple[int, int]:
        """Bytes of data and of constants of one weight."""
        data = self.data(elements=elements, rows=rows, columns=columns)
        return data, self.constants(elements=elements, rows=rows, columns=columns)


_BF16 = "bfloat16"
_MODULE = re.compile(r"[\w.-](?:[\w.-]|(?<=\.)\*){0,119}")
_COMPUTED = ("float32", _BF16, "float16")
_UNITS = {"elements": "weights", "rows": "rows", "columns": "columns"}
_BNB = "bitsandbytes/functional.py"
_HALF = Formula("ceil(elements, 2)", **_UNITS)
_WHOLE = Formula("elements", **_UNITS)
_ABSMAX = Formula("4 * ceil(elements, 64) + 64", **_UNITS)  # float32 a block of 64; the 16 levels, float32
_NESTED = Formula("ceil(elements, 64) + 4 * ceil(ceil(elements, 64), 256) + 1024 + 4 + 64", **_UNITS)
_GROUPS = Formula("2 * ceil(elements, 128) + ceil(ceil(elements, 128), 2)", **_UNITS)  # fp16 scale, 4-bit zero

LAYOUTS = {
    "int8": Layout("int8", _WHOLE, Formula("4 * rows", **_UNITS), f"{_BNB}, int8_vectorwise_quant: SCB"),
    "nf4": Layout("uint8 (nf4)", _HALF, _ABSMAX, f"{_BNB}, quantize_4bit"),
    "fp4": Layout("uint8 (fp4)", _HALF, _ABSMAX, f"{_BNB}, quantize_4bit"),
    "nf4-dq": Layout("uint8 (nf4)", _HALF, _NESTED, f"{_BNB}, quantize_4bit with compress_statistics"),
    "fp4-dq": Layout("uint8 (fp4)", _HALF, _NESTED, f"{_BNB}, quantize_4bit with compress_statistics"),
    "int8-ao": Layout(
        "int8 (torchao)", _WHOLE, Formula("4 * rows + rows", **_UNITS), "torchao Int8Tensor: scale and zero point a row"
    ),
    "fp8-ao": Layout(
        "float8 (torchao)", _WHOLE, Formula("4 * rows", **_UNITS), "torchao Float8Tensor: a float32 scale a row"
    ),
    "int4-ao": Layout(
        "uint8 (torchao)", _HALF, Formula("2 * 2 * ceil(elements, 128)", **_UNITS),
        "torchao Int4OpaqueTensor, of processors: bf16 scale and zero point a group of 128",
    ),
    "int4-ao-tiles": Layout(
        "int32 (torchao)", Formula("ceil(8 * ceil(rows, 8) * 1024 * ceil(columns, 1024), 2)", **_UNITS),
        Formula("2 * 2 * 8 * ceil(rows, 8) * 8 * ceil(columns, 1024)", **_UNITS),
        "torchao Int4TilePackedTo4dTensor, of GPUs: rows padded to 8 and columns to 1,024; groups of 128",
    ),
    "awq-4bit": Layout("int32 (awq)", _HALF, _GROUPS, "AutoAWQ, GEMM layout, groups of 128"),
    "gptq-4bit": Layout(
        "int32 (gptq)", _HALF,
        Formula("2 * ceil(elements, 128) + ceil(ceil(elements, 128), 2) + 4 * columns", **_UNITS),
        "GPTQ v1 layout, groups of 128, with g_idx",
    ),
    "mxfp4": Layout(
        "uint8 (mxfp4)", _HALF, Formula("ceil(elements, 32)", **_UNITS),
        "OCP Microscaling 1.0: an E8M0 scale a block of 32",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Precision:
    """A way of holding a model's weights.

    Attributes:
        id: stable name, used in URLs and by the API.
        label: the name people know.
        method: `cast` (all weights in one dtype), or who makes what of the linear layers.
        dtype: dtype of all that is not quantized, and of the computation.
        about: one sentence for people.
        layout: what a quantized weight becomes; `None` where it is cast, mixed tensor by tensor, or stored so.
        double_quant: whether the absmax values are quantized again.
        experts: whether fused experts are quantized too.
        engine: whose cache and compute buffers go with it.
        missing: what keeps it from being loaded by this app anywhere; empty when it can.
        packages: of PyPI, that a load needs beside transformers.
        skip: names of modules that are left unquantized besides transformers' own, as its
            `should_convert_module` reads them: the start of a name, its end, or a regular expression.
    """

    id: str
    label: str
    method: Method
    dtype: str
    about: str
    layout: Layout | None = None
    double_quant: bool = False
    experts: bool = False
    engine: Engine = "transformers"
    missing: str = ""
    packages: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __hash__(self) -> int:  # rows are keys of caches: variants of one id are told apart by equality
        return hash(self.id)

    @property
    def usual(self) -> bool:
        """Whether its row stands among the first; what torchao makes comes after, with what is made elsewhere."""
        return not self.missing and self.method not in ("torchao", "gguf")

    @property
    def quantizes(self) -> bool:
        return self.method != "cast"

    @property
    def quant_type(self) -> str:
        """`nf4` or `fp4`, as bitsandbytes is told."""
        return self.id.partition("-")[0]

    def with_options(self, dtype: str = "", double_quant: bool | None = None, skip: tuple[str, ...] = ()) -> Precision:
        """The variant that a person's options make of this row; its estimate is as exact.

        Args:
            dtype: of the computation and of what is not quantized; a row that casts keeps the one it is named
                for, and a checkpoint that is stored quantized, its own.
            double_quant: of 4-bit weights of bitsandbytes; `None` as the row says.
            skip: names of modules to leave unquantized, besides the output head and what else transformers skips.

        Raises:
            BadInput: there is no such dtype, or this format computes in another one alone.
        """
        if self.method in ("cast", "stored") or not self.quantizes:
            return self
        if dtype not in ("", *_COMPUTED):
            raise BadInput(f"“{shorten(dtype, 40)}” is not a dtype to compute in.", f"Use {', '.join(_COMPUTED)}.")
        if self.id == "int4-ao" and dtype not in ("", _BF16):
            raise BadInput(f"{self.label} computes in bfloat16, not in {dtype}.", "Leave the dtype to the row.")
        variant = replace(self, dtype=dtype or self.dtype, skip=_checked_names(tuple(filter(None, skip))))
        if self.method != "4bit" or double_quant in (None, self.double_quant):
            return variant
        name = f"{self.quant_type}-dq" if double_quant else self.quant_type
        return replace(variant, layout=LAYOUTS[name], double_quant=bool(double_quant))

    def on_card(self) -> Precision:
        """This row as a GPU holds it: torchao packs four bits otherwise there than on a processor."""
        if self.layout is LAYOUTS["int4-ao"]:
            return replace(self, layout=LAYOUTS["int4-ao-tiles"])
        return self

    def transformers_kwargs(self, skipped: list[str] | None = None) -> dict[str, Any]:
        """The keyword arguments of `from_pretrained` that load this precision.

        Args:
            skipped: all names to leave unquantized; `None` leaves them to transformers, which then adds the
                output head and tied embeddings, and otherwise skips these alone.

        Raises:
            BadInput: it can be estimated, but not loaded.
        """
        if self.missing:
            raise not_loadable(self)
        import torch

        dtype = getattr(torch, self.dtype)
        if self.method in ("cast", "stored"):
            return {"dtype": dtype}
        makers: dict[str, Callable[[list[str] | None], Any]] = {
            "int8": lambda names: _int8_config(names),
            "4bit": lambda names: _four_bit_config(self, dtype, names),
            "torchao": lambda names: _torchao_config(self, names),
        }
        return {"dtype": dtype, "quantization_config": makers[self.method](skipped)}


def _checked_names(skip: tuple[str, ...]) -> tuple[str, ...]:
    """Names of modules that are safe to compile as regular expressions, which transformers does with them.

    Raises:
        BadInput: one is not a name, or more than a few `*` make it.
    """
    for name in skip:
        if not _MODULE.fullmatch(name) or name.count("*") > 3 or "**" in name:
            raise BadInput(
                f"“{shorten(name, 40)}” is not the name of a module to leave unquantized.",
                "Give names such as o_proj, model.layers.0 or .*mlp.down_proj, one by one.",
            )
    return skip


def _int8_config(skipped: list[str] | None) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)


def _four_bit_config(precision: Precision, dtype: Any, skipped: list[str] | None) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=precision.quant_type,
        bnb_4bit_use_double_quant=precision.double_quant,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skipped,
    )


def _torchao_config(precision: Precision, skipped: list[str] | None) -> Any:
    from torchao.quantization import Float8WeightOnlyConfig, Int4WeightOnlyConfig, Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    def int4_of_processors() -> Any:
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        return PrototypeInt4WeightOnlyConfig(group_size=128, set_inductor_config=False)

    makers: dict[Layout, Callable[[], Any]] = {
        LAYOUTS["int8-ao"]: lambda: Int8WeightOnlyConfig(set_inductor_config=False),
        LAYOUTS["fp8-ao"]: lambda: Float8WeightOnlyConfig(set_inductor_config=False),
        LAYOUTS["int4-ao"]: int4_of_processors,
        LAYOUTS["int4-ao-tiles"]: lambda: Int4WeightOnlyConfig(
            group_size=128, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
        ),
    }
    assert precision.layout is not None
    return TorchAoConfig(makers[precision.layout](), modules_to_not_convert=skipped)


_BNB_PACKAGES = ("bitsandbytes",)
_CALIBRATED = "Estimated only: it is made ahead of time, by calibration; look for a repository that has it."
_FILE = "Estimated only: a GGUF file runs in llama.cpp and what builds on it."


def gguf_file_precision(file_id: str, label: str, about: str) -> Precision:
    """A GGUF file of a repository as a precision: made on demand, and no row of the table.

    Args:
        file_id: `gguf:` and the file's path.
        label: of its quantization, such as `Q4_K_M`.
    """
    return Precision(file_id, label, "gguf", _BF16, about, engine="llama.cpp")


def _gguf(mix: str, about: str) -> Precision:
    return Precision(mix, mix.upper(), "gguf", _BF16, about, engine="llama.cpp", missing=_FILE)


_ROWS = (
    Precision("fp32", "FP32", "cast", "float32", "Full precision: the reference, at twice the size of 16 bits."),
    Precision("bf16", "BF16", "cast", _BF16, "How most models are published: FP32's range in half the bytes."),
    Precision("fp16", "FP16", "cast", "float16", "16 bits for cards without native BF16, such as the T4."),
    Precision(
        "int8", "INT8", "int8", _BF16, "LLM.int8: 8-bit linear layers, outliers in 16 bits; slower.", LAYOUTS["int8"],
        packages=_BNB_PACKAGES,
    ),
    Precision(
        "nf4", "NF4", "4bit", _BF16, "4-bit levels spaced as normally distributed weights are.", LAYOUTS["nf4"],
        packages=_BNB_PACKAGES,
    ),
    Precision(
        "nf4-dq", "NF4 + double quant", "4bit", _BF16,
        "NF4 whose block scales are quantized again: the smallest here.", LAYOUTS["nf4-dq"], double_quant=True,
        packages=_BNB_PACKAGES,
    ),
    Precision(
        "fp4", "FP4", "4bit", _BF16, "4-bit floating point levels; NF4 is often more faithful.", LAYOUTS["fp4"],
        packages=_BNB_PACKAGES,
    ),
    Precision(
        "nf4-moe", "NF4, experts too", "4bit", _BF16,
        "NF4 + double quant with the fused experts quantized too (bitsandbytes.nn.parametrize).",
        LAYOUTS["nf4-dq"], double_quant=True, experts=True, packages=_BNB_PACKAGES,
    ),
    Precision(
        "native", "As published", "stored", _BF16, "The checkpoint as it is stored, quantized."
    ),
    Precision(
        "int8-ao", "INT8 torchao", "torchao", _BF16, "8-bit weights, a scale for each row.", LAYOUTS["int8-ao"],
        packages=("torchao",),
    ),
    Precision(
        "fp8-ao", "FP8 torchao", "torchao", _BF16, "8-bit floating point weights, a scale for each row.",
        LAYOUTS["fp8-ao"], packages=("torchao",),
    ),
    Precision(
        "int4-ao", "INT4 torchao", "torchao", _BF16, "4-bit weights in groups of 128.", LAYOUTS["int4-ao"],
        packages=("torchao",),
    ),
    Precision(
        "awq-4bit", "AWQ 4-bit", "packed", "float16", "Activation-aware 4-bit weights in groups of 128.",
        LAYOUTS["awq-4bit"], experts=True, missing=_CALIBRATED,
    ),
    Precision(
        "gptq-4bit", "GPTQ 4-bit", "packed", "float16", "4-bit weights in groups of 128, rounded layer by layer.",
        LAYOUTS["gptq-4bit"], experts=True, missing=_CALIBRATED,
    ),
    Precision(
        "mxfp4", "MXFP4", "packed", _BF16, "4-bit floating point in blocks of 32 with a shared exponent.",
        LAYOUTS["mxfp4"], experts=True, missing=_CALIBRATED,
    ),
    _gguf("q8_0", "GGUF in 8 bits: as good as the original for most uses."),
    _gguf("q6_k", "GGUF in about 6.6 bits."),
    _gguf("q5_k_m", "GGUF in about 5.7 bits, more for the tensors that matter."),
    _gguf("q4_k_m", "GGUF in about 4.9 bits, more for the tensors that matter: the usual choice."),
    _gguf("q3_k_m", "GGUF in about 4 bits, more for the tensors that matter."),
    _gguf("q2_k", "GGUF in about 3.2 bits: visibly worse answers."),
)  # fmt: skip

PRECISIONS: dict[str, Precision] = {row.id: row for row in _ROWS}
LOADABLE: dict[str, Precision] = {row.id: row for row in _ROWS if not row.missing}


def find_precision(value: object) -> Precision:
    """The row of an id.

    Raises:
        BadInput: there is no such row.
    """
    found = PRECISIONS.get(value) if isinstance(value, str) else None
    if found is None:
        raise BadInput(f"“{shorten(str(value), 40)}” is not a precision.", f"Use one of {', '.join(PRECISIONS)}.")
    return found


def label_of(precision_id: str) -> str:
    """The name that people know a precision by; of a GGUF file, the file's own."""
    row = PRECISIONS.get(precision_id)
    return row.label if row is not None else precision_id.rpartition("/")[2].removeprefix("gguf:")


def find_loadable(value: object) -> Precision:
    """The row of an id that this app can load.

    Raises:
        BadInput: there is no such row, or it can only be estimated.
    """
    found = find_precision(value)
    if found.missing:
        raise not_loadable(found)
    return found


def not_loadable(precision: Precision) -> BadInput:
    """The error of a precision that can be estimated but not loaded."""
    return BadInput(f"{precision.label}: {precision.missing}", f"To load, use one of {', '.join(LOADABLE)}.")
