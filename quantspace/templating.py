"""How templates are filled in, everywhere: by Jinja2, which refuses a name that was not given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates_of(
    package: str, filters: dict[str, Callable[..., Any]] | None = None, *, markup: bool = True
) -> Environment:
    """The files in `templates/` of a package.

    Args:
        filters: what values can be passed through, beside Jinja's own.
        markup: whether they are HTML or SVG: then no value is ever part of the markup.
    """
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=markup,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= filters or {}
    return environment
