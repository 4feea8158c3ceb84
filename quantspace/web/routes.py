"""The plain routes, as one small ASGI application that stands in front of Gradio's.

`launch()` leaves no room for a parent application, and ZeroGPU needs `launch()`. A lifespan is the place at
which the running application can be had: from there on, addresses of ours are answered by `build_app`'s, and
all others by Gradio's. So its middleware, which lets cookies in from other sites, never sees ours.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import BadInput, QuantSpaceError, shorten
from ..share.links import public_base
from .archives import archive_routes
from .definitions import whole_schema
from .embed import embed_routes
from .endpoints import ENDPOINTS, SCHEMA, Endpoint
from .images import image_routes
from .openapi import docs_page, openapi
from .parameters import read
from .preview import Previews
from .responses import JSON, NoSuchRoute, as_json, failed, kept, open_to_all, private, unexpected
from .tools import ADDRESSES, ToolServer
from .workers import Workers

log = logging.getLogger(__name__)

MOST_BODY = 64 * 1024  # bytes of a request; a question has a few hundred
TOKEN_HEADER = "X-HF-Token"
GZIP_FROM = 1000  # bytes: a smaller answer fits into one packet anyway

_MOVED = {
    "/v1": "/v1/docs",
    "/v1/": "/v1/docs",
    "/v1/docs/": "/v1/docs",
    "/embed/": "/embed",
    "/embed/builder/": "/embed/builder",
}

Handler = Callable[[Request], Awaitable[Response]]


def app_kwargs() -> dict[str, Any]:
    """What Gradio's `launch(app_kwargs=...)` is given, so that its server answers programs too."""
    return {"lifespan": _in_front}


def build_app() -> tuple[Starlette, ToolServer]:
    """The application, and the agents' server in it, which runs as long as its `running()` is entered."""
    workers = Workers()
    tools = ToolServer(workers)
    routes = [
        *(_route(endpoint, workers) for endpoint in ENDPOINTS.values()),
        Route("/v1/schema.json", _document(whole_schema)),
        Route("/v1/openapi.json", _document(openapi)),
        Route("/v1/docs", _docs),
        *image_routes(workers),
        *embed_routes(workers),
        *archive_routes(),
        Route("/healthz", _health),
        *(Route(address + rest, tools) for address in ADDRESSES for rest in ("", "/{rest:path}")),
        *(Route(address, _moved(to)) for address, to in _MOVED.items()),
        Route("/v1/{rest:path}", _nothing_here, methods=["GET", "POST"]),
    ]
    middleware = [_cors(), Middleware(GZipMiddleware, minimum_size=GZIP_FROM)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers={405: _not_that_way}), tools


@asynccontextmanager
async def _in_front(gradio_app: Starlette) -> AsyncIterator[None]:
    ours, tools = build_app()
    behind = gradio_app.middleware_stack
    assert behind is not None, "a lifespan runs inside the stack"
    gradio_app.middleware_stack = _Front(ours, Previews(behind))
    async with tools.running():
        yield


class _Front:
    """Hands a request to our application where one of its routes has the address, to the one behind elsewhere."""

    def __init__(self, ours: Starlette, behind: ASGIApp) -> None:
        self._ours = ours
        self._behind = behind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_ours = scope["type"] == "http" and any(
            route.matches(scope)[0] is not Match.NONE for route in self._ours.routes
        )
        await (self._ours if is_ours else self._behind)(scope, receive, send)


def _cors() -> Middleware:
    """Who may read answers from another site, without cookies in any case."""
    if open_to_all():
        allowed: dict[str, Any] = {"allow_origins": ["*"]}
    else:
        allowed = {"allow_origin_regex": r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"}
    return Middleware(
        CORSMiddleware,
        **allowed,
        allow_methods=["GET", "HEAD", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=["ETag", "Mcp-Session-Id", "Retry-After"],
        max_age=86400,
    )


def _route(endpoint: Endpoint, workers: Workers) -> Route:
    async def handle(request: Request) -> Response:
        token = request.headers.get(TOKEN_HEADER) or None
        try:
            values, warnings = read(endpoint.parameters, await _given(request))
            body = await workers.run(_body, endpoint, values, warnings, token)
        except QuantSpaceError as error:
            return failed(error, is_private=token is not None)
        except ClientDisconnect:
            raise
        except Exception:  # a seam: a mistake of ours must not reach a caller as anything but JSON
            log.exception("an answer of %s failed", endpoint.path)
            return failed(unexpected(), is_private=token is not None)
        if token is not None or request.method == "POST":
            return private(body)
        return kept(request, body, JSON, endpoint.max_age)

    return Route(endpoint.path, handle, methods=["GET", "POST"], name=endpoint.name)


def _body(endpoint: Endpoint, values: dict[str, Any], warnings: list[str], token: str | None) -> bytes:
    return as_json(endpoint.ask(values, token) | {"warnings": warnings})


async def _given(request: Request) -> list[tuple[str, Any]]:
    """Names and values of the query, or of a JSON body.

    Raises:
        BadInput: the body is too large, or no JSON object.
    """
    if request.method != "POST":
        return request.query_params.multi_items()
    hint = 'Send a JSON object such as {"model": "google/gemma-3-4b-it", "gpu": "t4"}.'
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BODY:
            raise BadInput(f"The body has more than {MOST_BODY:,} bytes.", hint)
    try:
        told = json.loads(bytes(body) or b"{}")
    except (ValueError, RecursionError) as error:
        raise BadInput("The body is not JSON.", hint) from error
    if not isinstance(told, dict):
        raise BadInput("The body is JSON, but not an object.", hint)
    return [*request.query_params.multi_items(), *told.items()]


def _document(make: Callable[[], Any]) -> Handler:
    async def handle(request: Request) -> Response:
        return kept(request, as_json(make()), JSON, 3600)

    return handle


def _moved(to: str) -> Handler:
    async def handle(request: Request) -> Response:
        return RedirectResponse(f"{to}?{request.url.query}" if request.url.query else to, 308)

    return handle


async def _docs(request: Request) -> Response:
    page = docs_page(public_base(str(request.base_url))).encode()
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return kept(request, page, "text/html; charset=utf-8", 3600, **{"Content-Security-Policy": policy})


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok", "schema": SCHEMA}, headers={"Cache-Control": "no-store"})


async def _nothing_here(request: Request) -> Response:
    path = shorten(request.url.path, 60)
    return failed(NoSuchRoute(f"There is no {path}.", f"There is {', '.join(e.path for e in ENDPOINTS.values())}."))


async def _not_that_way(request: Request, error: Exception) -> Response:
    problem = NoSuchRoute(f"{request.method} is not for this address.", "Ask by GET, or by POST with a JSON object.")
    answer = failed(problem, status=405)
    answer.headers["Allow"] = "GET, HEAD, POST"
    return answer
