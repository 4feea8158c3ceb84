"""Pages of our own by template: Jinja2 with autoescape, so that nothing that is shown is ever markup."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..units import gb


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("quantspace.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["gb"] = gb
    return environment


def render(template: str, **values: Any) -> str:
    """The HTML of `templates/<template>.html` with `values` filled in."""
    return _environment().get_template(f"{template}.html").render(**values)
