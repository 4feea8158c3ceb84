"""One source for a number and for the formula that explains it.

A `Formula` is an expression that is computed as it is written and shown as it is written, with its operands
filled in. What the page prints can't drift from what was counted: both come from the same tree.

>>> LAYER = Formula("layers * (tokens * values * size)", layers="layers", tokens="tokens", values="values", size="B")
>>> LAYER(layers=5, tokens=8192, values=2048, size=2)
167772160
>>> LAYER.shown(layers=5, tokens=8192, values=2048, size=2)
'5 layers × 8,192 tokens × 2,048 values × 2 B'
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any


def ceil(numerator: int, denominator: int) -> int:
    """⌈numerator / denominator⌉ in whole numbers."""
    return -(-numerator // denominator)


_FUNCTIONS: dict[str, Callable[..., Any]] = {"ceil": ceil, "min": min, "max": max, "round": round}
_SYMBOLS = {ast.Mult: " × ", ast.Add: " + ", ast.Sub: " − ", ast.Div: " / "}
_STRENGTH = {ast.Add: 1, ast.Sub: 1, ast.Mult: 2, ast.Div: 2}


class Formula:
    """An expression over named operands: `+ - * / // **`, `ceil(a, b)`, `min`, `max` and `round`.

    Args:
        expression: in Python's syntax.
        units: what follows an operand's number when it is shown, such as `tokens` or `B`; written with an
            underscore where the unit needs a space (`fp32_copies`).
    """

    def __init__(self, expression: str, **units: str) -> None:
        self.expression = expression
        self.units = units
        self._tree = ast.parse(expression, mode="eval").body
        names = {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)} - _FUNCTIONS.keys()
        self.operands = tuple(sorted(names))
        source = f"lambda {', '.join((*self.operands, '**_'))}: {expression}"
        self._compute: Callable[..., Any] = eval(source, dict(_FUNCTIONS))

    def __call__(self, **operands: Any) -> Any:
        """The value, computed from `operands`."""
        return self._compute(**operands)

    def shown(self, **operands: Any) -> str:
        """The expression with its operands filled in; addends that are zero are left out."""
        return _text(self._tree, operands, self.units)

    def __repr__(self) -> str:
        return f"Formula({self.expression!r})"


@dataclass(frozen=True)
class Term:
    """A named part of a sum: bytes, and the formula that gives them.

    Attributes:
        name: what it is, for people.
        formula: computes `bytes` from `operands`.
        note: where the formula is from or what it assumes; may be empty.
    """

    name: str
    formula: Formula
    operands: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def bytes(self) -> int:
        return int(self.formula(**self.operands))

    @property
    def shown(self) -> str:
        """The formula with its operands filled in."""
        return self.formula.shown(**self.operands)

    def times(self, name: str, count: int) -> Term:
        """The same `count` times, as on each of several cards; `name` is the new operand."""
        formula = _multiplied(self.formula, name)
        return Term(self.name, formula, {**self.operands, name: count}, self.note)


@lru_cache(maxsize=256)
def _multiplied(formula: Formula, name: str) -> Formula:
    return Formula(f"{name} * ({formula.expression})", **{**formula.units, name: name})


COUNTED = Formula("bytes", bytes="B")


def counted(name: str, count: int, note: str = "") -> Term:
    """A term that is known as such: read, measured, or summed elsewhere."""
    return Term(name, COUNTED, {"bytes": count}, note)


def _text(node: ast.expr, operands: Mapping[str, Any], units: Mapping[str, str], inside: int = 0) -> str:
    match node:
        case ast.Constant():
            return _number(node.value)
        case ast.Name():
            return _with_unit(operands[node.id], units.get(node.id, "").replace("_", " "))
        case ast.Call(func=ast.Name(id="ceil"), args=[numerator, denominator]):
            return f"⌈{_text(numerator, operands, units, 2)} / {_text(denominator, operands, units, 3)}⌉"
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return f"{name}({', '.join(_text(argument, operands, units) for argument in arguments)})"
        case ast.BinOp(left=left, op=ast.FloorDiv(), right=right):
            return f"⌊{_text(left, operands, units, 2)} / {_text(right, operands, units, 3)}⌋"
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=2)):
            return f"{_text(left, operands, units, 3)}²"
        case ast.BinOp(left=left, op=op, right=right):
            return _operation(left, op, right, operands, units, inside)
    raise ValueError(f"a formula cannot hold {ast.unparse(node)}")


def _operation(
    left: ast.expr,
    op: ast.operator,
    right: ast.expr,
    operands: Mapping[str, Any],
    units: Mapping[str, str],
    inside: int,
) -> str:
    strength = _STRENGTH[type(op)]
    if isinstance(op, ast.Add | ast.Sub):
        if _value(right, operands) == 0:
            return _text(left, operands, units, inside)
        if isinstance(op, ast.Add) and _value(left, operands) == 0:
            return _text(right, operands, units, inside)
    stronger = strength + isinstance(op, ast.Sub | ast.Div)  # what is subtracted or divided by is kept together
    text = f"{_text(left, operands, units, strength)}{_SYMBOLS[type(op)]}{_text(right, operands, units, stronger)}"
    return f"({text})" if inside > strength else text


def _value(node: ast.expr, operands: Mapping[str, Any]) -> Any:
    code = compile(ast.Expression(node), "formula", "eval")
    return eval(code, dict(_FUNCTIONS), dict(operands))


def _with_unit(value: Any, unit: str) -> str:
    """`8,192 tokens`, `1 token`: units are plurals whose first word ends in an s, or signs."""
    first, _, rest = unit.partition(" ")
    if value == 1 and first.endswith("s") and len(first) > 1:
        unit = f"{first.removesuffix('s')} {rest}".strip()
    return f"{_number(value)} {unit}".strip()


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"
