"""Pages of our own by template, so that nothing that is shown is ever markup."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment

from ..templating import templates_of
from ..units import gb


@lru_cache(maxsize=1)
def _templates() -> Environment:
    return templates_of("quantspace.web", {"gb": gb})


def render(template: str, **values: Any) -> str:
    """The HTML of `templates/<template>.html` with `values` filled in."""
    return _templates().get_template(f"{template}.html").render(**values)
