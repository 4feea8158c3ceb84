"""Lessons whose answers are computed: how many GB a model of N billion parameters takes.

The figures are the weights alone, parameters × bits / 8. What a real model holds at
4 bits is a little more, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from quantspace.demo.curriculum import Lesson

BILLIONS: tuple[float, ...] = (
    *(0.5, 0.6, 1.5, 1.7, 3.8),
    *range(1, 100),
    *(104, 109, 110, 120, 123, 180, 235, 405, 671),
)
FAMILIES = ("Llama", "Qwen", "Mistral", "Gemma", "Phi")


@dataclass(frozen=True)
class Precision:
    """A width in bits, the ways people write it, and what the answer adds."""

    bits: int
    spoken: tuple[str, ...]
    remark: str

    @property
    def bytes(self) -> float:
        """Bytes per parameter."""
        return self.bits / 8


PRECISIONS = (
    Precision(4, ("4 bits", "4-bit", "4 bit", "int4", "nf4"), "Scales, KV cache and activations come on top."),
    Precision(8, ("8 bits", "8-bit", "8 bit", "int8"), "KV cache and activations come on top."),
    Precision(16, ("16 bits", "bf16", "fp16", "16-bit"), "KV cache and activations come on top."),
    Precision(32, ("32 bits", "fp32", "32-bit", "float32"), "KV cache and activations come on top."),
)

AT_A_PRECISION = (
    "How much memory does a {size}B model need in {bits}?",
    "How many GB does a {size}B model need at {bits}?",
    "How much VRAM do I need for a {size}B model in {bits}?",
    "How big is a {size}B model in {bits}?",
    "How much memory for a {size} billion parameter model in {bits}?",
    "What does a {size}B model take in {bits}?",
    "{size}B {bits} memory",
    "How many gigabytes does {family} {size}B take at {bits}?",
    "Memory of a {size}B model with {bits}",
    "{bits} {size}B model size?",
    "I want to run a {size}B model in {bits}. How much memory do I need?",
    "How much memory does {family} {size}B use when loaded in {bits}?",
    "VRAM for {family} {size}B {bits}",
)
AT_A_PRECISION_HELD_OUT = (
    "How large is {family} {size}B in {bits}?",
    "In {bits}, how much memory does a {size}B model use?",
)
AT_ANY_PRECISION = (
    "How much memory does a {size}B model need?",
    "How many GB does a {size}B model need?",
    "How much VRAM do I need for a {size}B model?",
    "How big is a {size}B model?",
    "How much memory for a {size} billion parameter model?",
    "What does a {size}B model take?",
    "{size}B model memory",
    "How many gigabytes does {family} {size}B take?",
    "I want to run a {size}B model. How much memory do I need?",
    "VRAM for {family} {size}B",
)
AT_ANY_PRECISION_HELD_OUT = ("How large is {family} {size}B?", "How much GPU memory does a {size}B model use?")


def number(value: float) -> str:
    """A figure without needless zeros: 3.5, 14, 0.25."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def one_precision(billions: float, precision: Precision) -> str:
    """The answer for one width: `The weights of a 7B model take 3.5 GB at 4 bits: ...`."""
    size, total = number(billions), number(billions * precision.bytes)
    each = f"{number(precision.bytes)} byte{'s' if precision.bytes > 1 else ''}"
    return (
        f"The weights of a {size}B model take {total} GB at {precision.bits} bits: "
        f"{size} billion × {each}. {precision.remark}"
    )


def all_precisions(billions: float) -> str:
    """The answer for a question that names no width."""
    sixteen, eight, four = (number(billions * bits / 8) for bits in (16, 8, 4))
    return (
        f"The weights of a {number(billions)}B model take {sixteen} GB at 16 bits, {eight} GB at 8 bits "
        f"and {four} GB at 4 bits. KV cache and activations come on top."
    )


def fill(templates: Sequence[str], billions: float, spoken: Sequence[str] = ("",)) -> tuple[str, ...]:
    """Every template with this size, in every way to write the precision and with every family."""
    asks = (
        template.format(size=number(billions), bits=bits, family=family)
        for template, bits, family in product(templates, spoken, FAMILIES)
    )
    return tuple(dict.fromkeys(asks))


def size_lessons() -> list[Lesson]:
    """One lesson for each size without a precision, and one for each size at each precision."""
    lessons = []
    for billions in BILLIONS:
        taught, held_out = fill(AT_ANY_PRECISION, billions), fill(AT_ANY_PRECISION_HELD_OUT, billions)
        lessons.append(Lesson(f"{number(billions)}b", taught, held_out, all_precisions(billions)))
        for precision in PRECISIONS:
            taught = fill(AT_A_PRECISION, billions, precision.spoken)
            held_out = fill(AT_A_PRECISION_HELD_OUT, billions, precision.spoken)
            name = f"{number(billions)}b-{precision.bits}bit"
            lessons.append(Lesson(name, taught, held_out, one_precision(billions, precision)))
    return lessons
