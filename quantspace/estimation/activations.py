"""What a prefill holds for a moment, besides weights and the cache that stays.

The pass itself was watched on `meta` (`meta/peak.py`, `meta/quantized.py`): the bytes alive at its widest
operation, as a polynomial in tokens, the kernels of a quantizer, logits and the float32 copy that sampling makes
included. What depends on more than tokens is stated here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..formula import Formula, Term
from ..precision import DTYPE_BYTES, Precision
from .cache import layer_bytes, pinned_prompt_bytes, prefilled_bytes
from .inventory import Inventory, PeakTerm
from .quantized_cache import FORMATS
from .weights import KEPT, largest_quantized

WIDEST = Formula(
    "scale * batch * (fixed + token * tokens + round(square * tokens ** 2)) - cached",
    batch="sequences", fixed="B", token="B", tokens="tokens", square="B", cached="B_of_cache_in_it",
)  # fmt: skip
# A token's id, its place in the attention mask and its position, each int64.
PROMPT = Formula("3 * 8 * batch * tokens", batch="sequences", tokens="tokens")
MASK = Formula("masks * tokens ** 2", masks="masks", tokens="tokens")
# transformers/masking_utils.py puts a mask together from three of its size, before any layer has run.
DRAFTS = Formula("3 * masks * tokens ** 2", masks="masks", tokens="tokens")
# A weight in 16 bits, and its block scales in float32, without and with their offset, where they were quantized too.
COPY = Formula("elements * size + scales * ceil(elements, 64)", elements="weights", size="B", scales="B")
IMAGES = Formula("scale * images * tower", images="images", tower="B")
# float32 logits, their scaled copy, sorted values and places, cumulated chances, masks (generation/logits_process.py,
# TopPLogitsWarper), watched on CPU.
SAMPLING = Formula("batch * logits * 40", batch="sequences", logits="logits")
HELD = Formula("held", held="B")

# What the kernels of a method add was watched with those of bitsandbytes. Others that unpack a weight to
# multiply with it hold as much: the weight in 16 bits.
_KERNELS = {"int8": "int8", "4bit": "4bit", "torchao": "4bit", "packed": "4bit"}
# Of checkpoints that are stored quantized; FP8 and MXFP4 are multiplied as they are.
_STORED_KERNELS = {"bitsandbytes": "4bit-dq", "gptq": "4bit", "awq": "4bit", "bitnet": "4bit", "torchao": "4bit"}


@dataclass(frozen=True, slots=True)
class Prefill:
    """What a prompt is read with.

    Attributes:
        kv_dtype: of the cache, or a quantized format.
        images: in each sequence.
        on_cpu: whether a processor runs it, with kernels of its own.
    """

    kv_dtype: str
    images: int = 0
    on_cpu: bool = False


def activation_terms(
    inventory: Inventory, precision: Precision, context: int, batch: int, how: Prefill
) -> tuple[Term, ...]:
    """The peak of a prefill of `context` tokens in each of `batch` sequences; the sum of its terms is the peak."""
    prompt = Term("the prompt: ids, mask, positions", PROMPT, {"batch": batch, "tokens": context})
    masks = {"masks": mask_count(inventory, context, batch, how), "tokens": context}
    pinned = _held("prompt pinned by sliding layers until the first step", _pinned(inventory, context, batch, how))
    at_once = [
        _widest_term(inventory, precision, context, batch, how),
        prompt,
        Term("dequantized experts of one layer", COPY, _experts(inventory, precision)),
        Term("sliding mask, a byte for each pair of tokens", MASK, masks),
        pinned,
        _held(
            "one layer's keys and values, not yet quantized", _unquantized(inventory, precision, context, batch, how)
        ),
    ]
    sampling = Term("choosing the first token by top-p", SAMPLING, _logits(inventory, batch))
    afterwards = [prompt, sampling, pinned]
    early = [prompt, Term("drafts of the sliding mask, before any layer runs", DRAFTS, masks)]
    seen = [prompt, Term("vision tower, all images together", IMAGES, _images(inventory, precision, batch, how))]
    terms = max(at_once, early, afterwards, seen, key=_sum)
    return tuple(term for term in terms if term.bytes)


def activation_total(inventory: Inventory, precision: Precision, context: int, batch: int, how: Prefill) -> int:
    """The sum of `activation_terms`, without making them: for searches that ask thousands of times."""
    prompt = PROMPT(batch=batch, tokens=context)
    masks = mask_count(inventory, context, batch, how)
    alive = _alive(inventory, precision, context, batch, how)
    at_once = (
        alive
        - min(prefilled_bytes(inventory, context, batch, precision.dtype), alive)
        + prompt
        + COPY(**_experts(inventory, precision))
        + MASK(masks=masks, tokens=context)
        + _pinned(inventory, context, batch, how)
        + _unquantized(inventory, precision, context, batch, how)
    )
    seen = prompt + IMAGES(**_images(inventory, precision, batch, how))
    afterwards = prompt + SAMPLING(**_logits(inventory, batch)) + _pinned(inventory, context, batch, how)
    return max(at_once, prompt + DRAFTS(masks=masks, tokens=context), afterwards, seen)


def kernels(inventory: Inventory, precision: Precision, on_cpu: bool = False) -> str:
    """Whose kernels were watched for a precision (`Inventory.peak_with`); empty for plain linear layers."""
    if precision.method == "stored":
        return _STORED_KERNELS.get(inventory.prequantized or "", "")
    found = _KERNELS.get(precision.method, "")
    if found == "int8" and on_cpu:
        return "int8-cpu"
    return f"{found}-dq" if precision.double_quant else found


def mask_count(inventory: Inventory, context: int, batch: int, how: Prefill) -> int:
    """How many masks of context × context bytes a prompt needs: one for each window that it exceeds.

    None beside attention that makes its scores in full, which has its masks among the watched bytes. Where
    images are in prompts of a model with windows, their tokens see each other: every sequence then has a mask
    of its own, for each window and for the layers without one (`create_masks_for_vision_model`).
    """
    exceeded = sum(window < context for window in _windows(inventory))
    if how.images and inventory.image and _windows(inventory):
        return batch * (exceeded + 1)
    return exceeded


@lru_cache(maxsize=512)
def _windows(inventory: Inventory) -> tuple[int, ...]:
    if any(term.square for term in inventory.peak):
        return ()
    return tuple({layer.window for layer in inventory.cache if layer.window})


def _widest(inventory: Inventory, precision: Precision, context: int, batch: int, how: Prefill) -> PeakTerm:
    terms = _peaks(inventory, kernels(inventory, precision, how.on_cpu))
    return terms[0] if len(terms) == 1 else max(terms, key=lambda term: term.at(context, batch))


@lru_cache(maxsize=KEPT)
def _peaks(inventory: Inventory, with_kernels: str) -> tuple[PeakTerm, ...]:
    return inventory.peak_with(with_kernels)


def _alive(inventory: Inventory, precision: Precision, context: int, batch: int, how: Prefill) -> int:
    return _scale(precision) * _widest(inventory, precision, context, batch, how).at(context, batch)


def _scale(precision: Precision) -> int:
    """The passes were watched in bfloat16; in float32 everything is taken as twice as large."""
    return DTYPE_BYTES[precision.dtype] // DTYPE_BYTES["bfloat16"]


def _widest_term(inventory: Inventory, precision: Precision, context: int, batch: int, how: Prefill) -> Term:
    peak = _widest(inventory, precision, context, batch, how)
    alive = _alive(inventory, precision, context, batch, how)
    cached = min(prefilled_bytes(inventory, context, batch, precision.dtype), alive)
    operands = {
        "scale": _scale(precision), "batch": batch, "fixed": peak.fixed, "token": peak.token, "tokens": context,
        "square": peak.square, "cached": cached,
    }  # fmt: skip
    read = "read from the class" if inventory.peak_measured else "assumed from the config"
    with_kernels = kernels(inventory, precision, how.on_cpu) and inventory.quantized_peak
    note = "with what bitsandbytes' kernels hold beside a layer's input and output" if with_kernels else ""
    return Term(f"widest operation of a pass over the whole prompt, {read}", WIDEST, operands, note)


def _experts(inventory: Inventory, precision: Precision) -> dict[str, int]:
    """A layer's experts where bitsandbytes quantizes them: they are unpacked whole at each use."""
    unpacked = precision.experts and precision.method == "4bit"
    return {
        "elements": largest_quantized(inventory, precision)[1] if unpacked else 0,
        "size": DTYPE_BYTES[precision.dtype],
        "scales": 8 if precision.double_quant else 0,
    }


def _images(inventory: Inventory, precision: Precision, batch: int, how: Prefill) -> dict[str, int]:
    tower = inventory.image.peak if inventory.image else 0
    return {"scale": _scale(precision), "images": batch * how.images, "tower": tower}


def _logits(inventory: Inventory, batch: int) -> dict[str, int]:
    return {"batch": batch, "logits": inventory.vocab_size or 0}


def _pinned(inventory: Inventory, context: int, batch: int, how: Prefill) -> int:
    return pinned_prompt_bytes(inventory, context, batch, how.kv_dtype)


def _unquantized(inventory: Inventory, precision: Precision, context: int, batch: int, how: Prefill) -> int:
    """A layer whose cache is quantized gives its keys and values in full to attention first."""
    if how.kv_dtype not in FORMATS:
        return 0
    return max(layer_bytes(layer, context, batch, precision.dtype) for layer in inventory.cache)


def _held(name: str, count: int) -> Term:
    return Term(name, HELD, {"held": count})


def _sum(terms: list[Term]) -> int:
    return sum(term.bytes for term in terms)
