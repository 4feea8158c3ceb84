"""Reads a formula back from what the page shows."""

from __future__ import annotations

import re
from fractions import Fraction
from math import ceil, floor

_SIGNS = {"×": "*", "−": "-", "²": "**2", "⌈": " up(", "⌉": ")", "⌊": " down(", "⌋": ")", "%": ""}
_FUNCTIONS = {"up": ceil, "down": floor, "min": min, "max": max, "round": round}


def evaluated(shown: str) -> Fraction | int:
    """The exact value of a shown formula: units are taken out, signs are those of arithmetic."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", shown)
    for sign, meaning in _SIGNS.items():
        text = text.replace(sign, meaning)
    text = re.sub(r"(?<![\d.])[A-Za-z][A-Za-z0-9/-]*", lambda word: word[0] if word[0] in _FUNCTIONS else "", text)
    text = re.sub(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", lambda number: f"F('{number[0]}')", text)
    text = text.replace("**F('2')", "**2")
    return eval(text, {"F": Fraction, **_FUNCTIONS})
