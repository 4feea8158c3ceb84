"""Addresses in our sentences as links: those of the Hub, and no others."""

from __future__ import annotations

import re

from huggingface_hub import constants
from markupsafe import Markup, escape

_URL = re.compile(r"https?://[^\s<>\"'“”]+")
_AFTER = ".,;:!?)"  # ends a sentence or a bracket, not an address
_LINK = Markup('<a href="{0}" target="_blank" rel="noopener noreferrer">{0}</a>')


def linked(text: str) -> Markup:
    """A sentence as HTML, in which a page of the Hub can be followed; everything else of it is text."""
    html, end = Markup(), 0
    for match in _URL.finditer(text):
        url = match[0].rstrip(_AFTER)
        if on_the_hub(url):
            html += escape(text[end : match.start()]) + _LINK.format(url)
            end = match.start() + len(url)
    return html + escape(text[end:])


def on_the_hub(url: str) -> bool:
    """Whether an address is one of the Hub that this app asks."""
    return url == constants.ENDPOINT or url.startswith(f"{constants.ENDPOINT}/")
