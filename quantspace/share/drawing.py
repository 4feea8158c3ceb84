"""SVG by template, so that no model id or message is ever markup."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment

from ..templating import templates_of


@lru_cache(maxsize=1)
def _templates() -> Environment:
    return templates_of("quantspace.share")


def draw(template: str, **values: Any) -> str:
    """The SVG of `templates/<template>.svg` with `values` filled in."""
    return _templates().get_template(f"{template}.svg").render(**values)
