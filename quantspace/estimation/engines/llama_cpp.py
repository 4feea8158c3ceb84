"""What llama.cpp keeps of a context, and the buffer that it reserves to compute in.

Read in https://github.com/ggml-org/llama.cpp: `src/llama-kv-cache-iswa.cpp` at 02c28f5 and
`src/llama-memory-recurrent.cpp` at 0054ee8. It allocates everything at its start:

    cells    n_ctx a sequence, rounded up to 256
    windows  the smaller of that and W + n_ubatch, rounded up to 256
    states   float32, of a convolution the K − 1 columns that the next step needs

Each sequence has cells of its own, as with `--parallel N` (`kv_unified = false`). Not for the weights of a
GGUF file.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from ...formula import Formula, Term
from ..inventory import CacheLayer, Inventory
from .opinion import Opinion, conv_kernel, is_known, latent_width, opinion_of

CELLS = 256  # that a cache's size is rounded up to (llama-context.cpp, llama-kv-cache-iswa.cpp)
UBATCH = 512  # tokens computed at once, `--ubatch-size`

# dtype → llama.cpp's type: bytes and values of a block (ggml-common.h: block_q8_0, block_q4_0)
_TYPES = {
    "float32": ("F32", 4, 1),
    "bfloat16": ("F16", 2, 1),
    "float16": ("F16", 2, 1),
    "q8_0": ("Q8_0", 34, 32),
    "q4_0": ("Q4_0", 18, 32),
}
_EIGHT_BITS = ("int8", "uint8", "float8_e4m3fn", "float8_e5m2", "fp8")
_FOUR_BITS = ("int4", "int2")  # what transformers calls a cache that it quantizes so

_UNITS = {
    "batch": "sequences", "layers": "layers", "context": "tokens", "window": "tokens", "ubatch": "tokens a step",
    "values": "values", "size": "B", "block": "values",
}  # fmt: skip
_ALL = "batch * layers * (ceil(context, 256) * 256)"
_WINDOW = "batch * layers * (ceil(min(ceil(context, 256) * 256, window + ubatch), 256) * 256)"
_PLAIN, _BLOCKS = "values * size", "(values // block * size)"  # a token: of a plain dtype, or of quantized blocks
FORMULAS = {
    (windowed, quantized): Formula(f"{cells} * {token}", **_UNITS)
    for windowed, cells in ((False, _ALL), (True, _WINDOW))
    for quantized, token in ((False, _PLAIN), (True, _BLOCKS))
}
STATE = Formula(
    "batch * layers * (channels * (kernel - 1) * 4 + recurrent)",
    batch="sequences", layers="layers", channels="channels", kernel="columns", recurrent="B of state",
)  # fmt: skip
COMPUTE = Formula(
    "(vocabulary + hidden) * ubatch * 4", vocabulary="logits", hidden="hidden values", ubatch="tokens a step"
)

_REPO = "https://github.com/ggml-org/llama.cpp/blob"
_KV_SOURCE = f"{_REPO}/02c28f533ebba3e4ea944fc4a0719a012b3e7097/src/llama-kv-cache-iswa.cpp"
_STATE_SOURCE = f"{_REPO}/0054ee8ca80bb64d4a56eec854f2753cab5b51be/src/llama-memory-recurrent.cpp"
_COMPUTE_NOTE = (
    "The logits and the residual stream of one step in float32, with flash attention and all layers on one GPU: "
    "an observed rule, not a documented one. It is exact in published logs of Llama-3-8B (258.50 MiB), "
    "Qwen2.5-3B (300.75) and Qwen3-14B at 32k (306.75); real buffers were 1.0% larger for Gemma-4-26B-A4B, 1.6% for "
    "Qwen3.5-9B, 15% for Qwen3.5-27B on Vulkan, and larger still with many server slots."
)


def llama_cpp_opinion(inventory: Inventory, context: int, batch: int, kv_dtype: str) -> Opinion | None:
    """Bytes of llama.cpp's cache and states for `batch` sequences of `context` tokens, or `None`.

    Args:
        kv_dtype: a dtype, or `q8_0` or `q4_0`; 16 bits are F16 and eight bits are Q8_0.
    """
    name = _type_name(kv_dtype)
    if name not in _TYPES or not is_known(inventory):
        return None
    asked = {"context": context, "batch": batch}
    terms = [
        Term(part.name, part.formula, {**part.operands, **asked, "layers": layers}, part.source)
        for layers, parts in _parts(inventory, name)
        for part in parts
    ]
    rule = f"All cells are allocated at the start, {CELLS} at a time; a window holds a step of {UBATCH} tokens more."
    notes = list(_notes(inventory, _windows_kept(inventory), _TYPES[name][0]))
    kind = "float16" if name in ("q8_0", "q4_0") else kv_dtype
    return opinion_of("llama.cpp", terms, rule, notes, (inventory, context, batch, kind))


def llama_cpp_layer_bytes(inventory: Inventory, context: int, batch: int, kv_dtype: str) -> list[int]:
    """Bytes in one layer of each kind, in the order of `Inventory.cache`, where there is an opinion."""
    return [
        sum(part.formula(**part.operands, layers=1, context=context, batch=batch) for part in parts)
        for _, parts in _parts(inventory, _type_name(kv_dtype))
    ]


def _type_name(kv_dtype: str) -> str:
    if kv_dtype in _EIGHT_BITS:
        return "q8_0"
    return "q4_0" if kv_dtype in _FOUR_BITS else kv_dtype


@lru_cache(maxsize=512)
def _windows_kept(inventory: Inventory) -> bool:
    """Whether a GGUF file of this model keeps its windows: only where some layer has none."""
    return any(row.token_elements and row.window is None for row in inventory.cache)


def llama_cpp_compute_bytes(inventory: Inventory, context: int, batch: int) -> Term | None:
    """The compute buffer that llama.cpp reserves on a GPU beside weights and cache, or `None` if unknown."""
    operands = _compute(inventory, context, batch)
    return Term("llama.cpp's compute buffer", COMPUTE, operands, _COMPUTE_NOTE) if operands else None


def llama_cpp_compute_total(inventory: Inventory, context: int, batch: int) -> int:
    """The same in bytes, for searches that ask thousands of times; 0 where it is unknown."""
    operands = _compute(inventory, context, batch)
    return COMPUTE(**operands) if operands else 0


def _compute(inventory: Inventory, context: int, batch: int) -> dict[str, int] | None:
    if not inventory.vocab_size or not inventory.hidden_size:
        return None
    cells = batch * -(-context // CELLS) * CELLS
    return {"vocabulary": inventory.vocab_size, "hidden": inventory.hidden_size, "ubatch": min(UBATCH, cells)}


class _Part(NamedTuple):
    """What a layer keeps: a formula, and those of its operands that do not depend on what is asked."""

    name: str
    formula: Formula
    operands: dict[str, int]
    source: str


@lru_cache(maxsize=2048)  # an inventory is compared by identity
def _parts(inventory: Inventory, type_name: str) -> tuple[tuple[int, tuple[_Part, ...]], ...]:
    """Of each kind of layer how many there are, and what one of them keeps."""
    windows_kept = _windows_kept(inventory)
    return tuple((row.count, tuple(_kept(inventory, row, type_name, windows_kept))) for row in inventory.cache)


def _kept(inventory: Inventory, row: CacheLayer, type_name: str, windows_kept: bool) -> Iterator[_Part]:
    label, size, block = _TYPES[type_name]
    if row.token_elements:
        operands = {"values": row.token_elements, "size": size}
        operands |= {"block": block} if block > 1 else {}
        windowed = bool(row.window) and windows_kept
        operands |= {"window": row.window or 0, "ubatch": UBATCH} if windowed else {}
        what = "latent" if latent_width(inventory) else "keys and values"
        name = f"{what} of windows, {label}" if windowed else f"{what}, {label}"
        yield _Part(name, FORMULAS[windowed, block > 1], operands, _KV_SOURCE)
    if row.state_elements or row.state_bytes:
        kernel = conv_kernel(inventory, row)
        # Without a convolution all of the state is kept: as if its kernel had one column more.
        channels, kernel = (row.state_elements // kernel, kernel) if kernel > 1 else (row.state_elements, 2)
        operands = {"channels": channels, "kernel": kernel, "recurrent": row.state_bytes}
        yield _Part("recurrent states, F32", STATE, operands, _STATE_SOURCE)


def _notes(inventory: Inventory, windows_kept: bool, label: str) -> Iterator[str]:
    if label.startswith("Q"):
        yield f"{label} stands in for eight bits or fewer; it needs flash attention."
    if not windows_kept and any(row.window for row in inventory.cache):
        yield "Where every layer has a window, GGUF files keep none, and all tokens are held."
    elif any(row.window for row in inventory.cache):
        yield "`--swa-full` holds all tokens in windows too; `--kv-unified` shares one step's room between sequences."
