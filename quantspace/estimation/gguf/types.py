"""Storage types of ggml: how many bytes a block of weights takes, and what stands in where a row does not fit.

Only types that the mixes of `mix.py` can end in. Sizes are those of the block structs in
`ggml/src/ggml-common.h`; the `gguf` package repeats them as `GGML_QUANT_SIZES`.
"""

from __future__ import annotations

from ...formula import Formula

BLOCKS: dict[str, tuple[int, int]] = {  # weights in a block, bytes of a block
    "F32": (1, 4),
    "F16": (1, 2),
    "Q8_0": (32, 34),
    "Q5_1": (32, 24),
    "Q5_0": (32, 22),
    "Q4_0": (32, 18),
    "MXFP4": (32, 17),
    "Q6_K": (256, 210),
    "Q5_K": (256, 176),
    "Q4_K": (256, 144),
    "Q3_K": (256, 110),
    "Q2_K": (256, 84),
}
_STAND_INS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}

PACKED = Formula("count * ceil(elements, block) * size", elements="weights", size="B")
PLAIN = Formula("count * elements * size", elements="weights", size="B")


def fits(type_name: str, row: int) -> bool:
    """Whether rows of `row` weights are a whole number of blocks."""
    return row % BLOCKS[type_name][0] == 0


def fitting_type(type_name: str, row: int) -> str:
    """The type that llama.cpp stores rows of `row` weights in when `type_name` is asked for.

    Source: `tensor_type_fallback` in llama.cpp's `src/llama-quant.cpp`. Of Q8_0 it has none and refuses
    the file; its converter writes F16 there, and so does this.
    """
    if fits(type_name, row):
        return type_name
    stand_in = _STAND_INS.get(type_name, "F16")
    return stand_in if fits(stand_in, row) else "F16"
