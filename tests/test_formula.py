"""A formula is computed as it is shown."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantspace.formula import Formula, Term, counted
from tests.shown import evaluated

EXPRESSIONS = [
    "a * (b + c) * d",
    "a - (b - c)",
    "a * (b * c + d)",
    "ceil(a, 64) + 4 * ceil(ceil(a, 64), 256) + 1024",
    "a * b * 2 // 100 + d",
    "a * (b + c * d ** 2)",
    "max(a * b, c) + min(c, d)",
    "a - b - c + d",
    "(a + b) * (c - d) * 3",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
@given(st.tuples(*[st.integers(0, 10**12)] * 4))
def test_what_is_shown_is_what_is_computed(expression, values):
    operands = dict(zip("abcd", values, strict=True))
    formula = Formula(expression, a="tokens", b="B", d="state_values")
    assert evaluated(formula.shown(**operands)) == formula(**operands)


def test_operands_carry_their_units_and_thousands():
    formula = Formula("layers * (tokens * values * size + fixed)", layers="layers", tokens="tokens", size="B")
    assert formula.shown(layers=5, tokens=8192, values=2048, size=2, fixed=0) == (
        "5 layers × 8,192 tokens × 2,048 × 2 B"
    )


def test_an_addend_of_zero_is_left_out():
    assert Formula("a + b * c").shown(a=1, b=0, c=7) == "1"
    assert Formula("a * b + c").shown(a=0, b=5, c=7) == "7"


def test_a_term_on_each_card_is_counted_as_often():
    term = counted("copy", 7).times("cards", 4)
    assert term.bytes == 28
    assert term.shown == "4 cards × 7 B"


def test_a_formula_of_unknown_syntax_is_refused_when_it_is_shown():
    with pytest.raises(ValueError, match="cannot hold"):
        Formula("[a]").shown(a=1)


def test_an_operand_that_is_missing_is_an_error():
    with pytest.raises(TypeError):
        Formula("a + b")(a=1)


def test_a_name_and_a_note_go_with_a_term():
    term = Term("copy", Formula("a"), {"a": 3}, "from a source")
    assert (term.name, term.note, term.shown, term.bytes) == ("copy", "from a source", "3", 3)
    assert re.fullmatch(r"Formula\('a'\)", repr(term.formula))
