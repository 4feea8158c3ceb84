"""SVG by template: Jinja2 with autoescape, so that no model id or message is ever markup."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("quantspace.share"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def draw(template: str, **values: Any) -> str:
    """The SVG of `templates/<template>.svg` with `values` filled in."""
    return _environment().get_template(f"{template}.svg").render(**values)
