"""Templates of the page, so that no model id or message is ever markup."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment

from ..templating import templates_of
from ..units import exact, gb, gib
from .links import linked


@lru_cache(maxsize=1)
def _templates() -> Environment:
    filters = {
        "gb": gb,
        "gib": gib,
        "exact": exact,
        "count": lambda n: f"{n:,}",
        "counted": _counted,
        "speed": _speed,
        "billions": _billions,
        "sentence": _sentence,
        "linked": linked,
    }
    return templates_of("quantspace.ui", filters)


def _speed(expected: Any) -> str:
    """`18–35`: a range of tokens a second, in as many digits as it deserves."""
    low, high = (f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}" for rate in (expected.low, expected.high))
    return low if low == high else f"{low}–{high}"


def _billions(parameters: int) -> str:
    """`4.3 B`, `361 M`: parameters as people name sizes of models."""
    size, name = (10**9, "B") if parameters >= 10**9 else (10**6, "M")
    value = parameters / size
    return f"{value:,.1f} {name}" if value < 100 else f"{value:,.0f} {name}"


def _counted(number: int, thing: str) -> str:
    """`1 layer`, `4,096 layers`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def render(template: str, **values: Any) -> str:
    """The HTML of `templates/<template>.html` with `values` filled in."""
    return _templates().get_template(f"{template}.html").render(**values)
