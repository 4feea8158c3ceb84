"""The routes of images: `/badge.svg`, `/card.svg` and `/card.png`, drawn by `quantspace.share`.

A problem is an image too, and with status 200: GitHub's image proxy (camo), like most others, passes on what
came with success alone, and whoever reads a model card would see a broken picture instead of a reason. The
header `X-Error-Code` tells programs, and it is kept for a minute only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from anyio import to_thread
from cachetools import TTLCache
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import QuantSpaceError
from ..estimation.calculator import Estimate, estimate
from ..share.badge import badge_svg, error_badge
from ..share.card import card_svg, error_card
from ..share.png import png
from ..share.spelling import read_precision
from .endpoints import ENDPOINTS
from .parameters import read
from .responses import kept, unexpected
from .workers import Workers

log = logging.getLogger(__name__)

MAX_AGE = 600  # seconds
MAX_AGE_OF_ERRORS = 60
KEPT_BYTES = 16 * 2**20
PARAMETERS = (*ENDPOINTS["estimate"].parameters, "precision", "theme")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; font-src data:; sandbox"

_drawn: TTLCache[Any, bytes] = TTLCache(KEPT_BYTES, MAX_AGE, getsizeof=len)
_lock = Lock()


@dataclass(frozen=True)
class Image:
    """One kind of image: how an estimate is drawn (with the id of a row and a theme), and how an error is."""

    name: str
    media_type: str
    about: str
    draw: Callable[[Estimate, str, str], str]
    draw_error: Callable[[QuantSpaceError, str], str]
    as_png: bool = False

    def encoded(self, svg: str) -> bytes:
        return png(svg) if self.as_png else svg.encode()


_SVG = "image/svg+xml"
_CARD = (card_svg, error_card)
_TABLE = (
    Image(
        "badge.svg", _SVG, "The verdict of one row in one line, for a model card.",
        lambda told, precision, _theme: badge_svg(told, precision), lambda error, _theme: error_badge(error),
    ),
    Image("card.svg", _SVG, "The rows as bars with their verdicts, 1200 × 630.", *_CARD),
    Image("card.png", "image/png", "The same as pixels, for link previews, posts and slides.", *_CARD, as_png=True),
)  # fmt: skip

IMAGES: dict[str, Image] = {image.name: image for image in _TABLE}


def image_routes(workers: Workers) -> list[Route]:
    """A route for each kind."""
    return [_route(image, workers) for image in IMAGES.values()]


def _route(image: Image, workers: Workers) -> Route:
    async def handle(request: Request) -> Response:
        headers = {"Cross-Origin-Resource-Policy": "cross-origin", "Content-Security-Policy": _POLICY}
        theme = "dark" if request.query_params.get("theme") == "dark" else "light"
        try:
            values, _ = read(PARAMETERS, request.query_params.multi_items())
            body = await workers.run(_draw, image, values, theme)
            return kept(request, body, image.media_type, MAX_AGE, **headers)
        except QuantSpaceError as error:
            problem = error
        except Exception:  # a seam: a mistake of ours must not leave a hole in somebody's page
            log.exception("%s could not be drawn", image.name)
            problem = unexpected()
        body = await to_thread.run_sync(lambda: image.encoded(image.draw_error(problem, theme)))
        headers["X-Error-Code"] = problem.code
        return kept(request, body, image.media_type, MAX_AGE_OF_ERRORS, **headers)

    return Route(f"/{image.name}", handle)


def _draw(image: Image, values: Mapping[str, str], theme: str) -> bytes:
    key = (image.name, theme, *sorted(values.items()))
    with _lock:
        held = _drawn.get(key)
    if held is not None:
        return held
    asked = {name: value for name, value in values.items() if name not in ("precision", "theme")}
    precision = read_precision(values["precision"]) if values.get("precision") else ""
    body = image.encoded(image.draw(estimate(**asked), precision, theme))
    with _lock:
        _drawn[key] = body
    return body
