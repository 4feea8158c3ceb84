"""What programs that make link previews read of the page: text and picture of the very state that a link asks for.

Gradio writes its tags once for all addresses; a front puts those of the request in their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..estimation.hardware import find_gpu
from ..share.links import State, card_url, from_query, page_url, public_base

TITLE = "QuantSpace: will this model fit my GPU?"
ABOUT = "Will this model fit my GPU, at which precision? Exact bytes, then proof."
_GRADIOS = re.compile(rb'[ \t]*<meta\s+(?:property="og:|name="twitter:)[^>]*>\s*')
_SHOWN_MODEL = "google/gemma-3-4b-it"


def preview_tags(state: State, base: str) -> str:
    """Open Graph and Twitter tags of the page with this state; `base` is the app's public address."""
    cards = f"{state.count} × {find_gpu(state.gpu).name}" if state.count > 1 else find_gpu(state.gpu).name
    title = f"{state.model} on {cards}" if state.model else TITLE
    about = f"{state.context:,} tokens × {state.batch}. {ABOUT}" if state.model else ABOUT
    picture = card_url(base, state if state.model else State(model=_SHOWN_MODEL), "png")
    graph = {"title": title, "description": about, "type": "website", "url": page_url(base, state), "image": picture}
    graph |= {"image:width": "1200", "image:height": "630", "image:alt": title, "site_name": "QuantSpace"}
    twitter = {"card": "summary_large_image", "title": title, "description": about, "image": picture}
    return "".join([*_tags("property", "og:", graph.items()), *_tags("name", "twitter:", twitter.items())])


def _tags(kind: str, prefix: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [f'<meta {kind}="{prefix}{name}" content="{escape(value)}">\n' for name, value in pairs]


class Previews:
    """Passes on what an application answers, with the tags of the request in the head of its page at `/`.

    The page is compressed on its way, which Gradio does with its assets alone.
    """

    def __init__(self, behind: ASGIApp) -> None:
        self._behind = behind
        self._page = GZipMiddleware(self._tagged)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
        await (self._page if is_page else self._behind)(scope, receive, send)

    async def _tagged(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {}
        body = bytearray()

        async def rewritten(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            headers = MutableHeaders(raw=start["headers"])
            page = bytes(body)
            if headers.get("content-type", "").startswith("text/html") and "content-encoding" not in headers:
                page = with_tags(page, _tags_of(Request(scope)))
                headers["content-length"] = str(len(page))
            await send(start)
            await send({"type": "http.response.body", "body": page})

        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        await self._behind(scope | {"headers": plain}, receive, rewritten)


def with_tags(page: bytes, tags: str) -> bytes:
    """A page with these tags in its head in place of those it has."""
    head, end, rest = page.partition(b"</head>")
    marker = head.find(b"<script>window.gradio_config")  # its JSON is no place to look for tags
    before, after = (head[:marker], head[marker:]) if marker >= 0 else (head, b"")
    return _GRADIOS.sub(b"", before) + tags.encode() + after + end + rest


def _tags_of(request: Request) -> str:
    state, _ = from_query(request.query_params)
    return preview_tags(state, public_base(str(request.base_url)))
