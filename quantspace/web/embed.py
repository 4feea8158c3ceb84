"""The calculator alone, for the pages of others: `/embed` in a frame, and `/embed/builder` that makes its snippet.

Pages of our own, written by the server: no Gradio, nothing from elsewhere, no cookie, no storage, no sign-in.
They work as plain forms; where scripts may run, a page asks itself for its own answer and puts that in place.
"""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Awaitable, Callable
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import QuantSpaceError, shorten
from ..estimation.calculator import hardware_and_workload
from ..estimation.hardware import gpus
from ..precision import PRECISIONS
from ..share.links import DEFAULT
from ..share.rows import gpu_words
from .embed_asked import PART, Asked, read_asked
from .embed_builder import PLACES, snippets
from .embed_options import COLUMNS, LOCKABLE, THEMES, Options, Shade, accent_on
from .embed_table import Table, table_of
from .rendering import render
from .responses import kept, status_of, unexpected
from .workers import Workers

log = logging.getLogger(__name__)

MAX_AGE = 600  # seconds
_HTML = "text/html; charset=utf-8"


def embed_routes(workers: Workers) -> list[Route]:
    """The routes of the embed and of its builder."""
    return [
        Route("/embed", _handler(workers, "embed")),
        Route("/embed/builder", _handler(workers, "embed_builder")),
    ]


def _handler(workers: Workers, template: str) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        asked = read_asked(request.query_params, str(request.base_url))
        name = f"{template}_answer" if request.query_params.get(PART) == "answer" else template
        table, error = None, None
        try:
            table = await workers.run(table_of, asked.state, asked.options)
        except QuantSpaceError as problem:
            error = problem
        except Exception:  # a seam: a mistake of ours must not leave a frame blank
            log.exception("an embed of %s could not be made", shorten(asked.state.model))
            error = unexpected()
        style = _style(asked.options if template == "embed" else Options())
        page = _page(name, asked, table, error, style)
        headers = {"Content-Security-Policy": _policy(style), "Cross-Origin-Resource-Policy": "cross-origin"}
        if error is None:
            return kept(request, page, _HTML, MAX_AGE, **headers)
        headers |= {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Error-Code": error.code}
        return Response(page, status_of(error), headers, _HTML)

    return handle


def _page(name: str, asked: Asked, table: Table | None, error: QuantSpaceError | None, style: str) -> bytes:
    html = render(
        name,
        asked=asked,
        state=asked.state,
        options=asked.options,
        table=table,
        error=error,
        style=Markup(style),
        script=Markup(_asset("embed.js")),
        gpus=gpus(),
        passed_on=_passed_on(asked),
        snippets=snippets(asked, _card_name(asked)),
        places=PLACES,
        choices={"themes": THEMES, "lock": LOCKABLE, "columns": COLUMNS, "rows": PRECISIONS},
    )
    return html.encode()


def _passed_on(asked: Asked) -> dict[str, str]:
    """What the form of an embed carries along unseen, beside its fields."""
    state = {name: getattr(asked.state, name) for name in ("count", "kv", "ram", "images", "revision", "precision")}
    changed = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in state.items()}
    return {name: changed[name] for name in state if state[name] != getattr(DEFAULT, name)}


def _card_name(asked: Asked) -> str:
    state = asked.state
    plain = {"context": 1, "batch": 1, "kv_dtype": "auto", "ram_gb": 0}
    try:
        return gpu_words(hardware_and_workload(gpu=state.gpu, gpu_count=state.count, **plain)[0])
    except QuantSpaceError:  # two of what comes alone
        return gpus()[state.gpu].name


def _policy(style: str) -> str:
    """What the pages may do: run our script, wear our style, ask this server; and anybody may frame them."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(_asset('embed.js'))}",
            f"style-src {_hash(style)}",
            "connect-src 'self'",
            "img-src 'self' data:",
            "frame-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors *",
        )
    )


@lru_cache(maxsize=64)
def _style(options: Options) -> str:
    """The styles with the colours of a theme. An accent is six hexadecimal digits by now."""
    light, dark = _colours(options.accent, "light"), _colours(options.accent, "dark")
    themes = {
        "light": f":root{{color-scheme:light;{light}}}",
        "dark": f":root{{color-scheme:dark;{dark}}}",
        "auto": f":root{{color-scheme:light dark;{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}",
    }
    return themes[options.theme] + _asset("embed.css")


def _colours(accent: str, shade: Shade) -> str:
    return f"{_asset(f'{shade}.css')}--accent:{accent_on(accent, shade)}"


@lru_cache
def _asset(name: str) -> str:
    return (files("quantspace.web") / "static" / name).read_text(encoding="utf-8").rstrip("\n")


@lru_cache(maxsize=64)
def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
