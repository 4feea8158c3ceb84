"""Text in images: what may stand in XML, how wide it is, and what to leave out where there is no room.

Widths are those of DejaVu Sans, which `fonts/` holds for pictures made where no font is installed. A browser
takes the reader's own font, which is hardly ever wider.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import as_file, files
from typing import Any

FAMILY = "Verdana, 'DejaVu Sans', Geneva, system-ui, sans-serif"
FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")
_AT = 1000  # size at which widths are measured: they grow with it
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2


def clean(text: str) -> str:
    """`text` on one line, without the characters that XML can't hold."""
    return " ".join(_NOT_XML.sub("\ufffd", text).split())


def width(text: str, size: float, bold: bool = False) -> float:
    """How wide a line is, in the unit of `size`."""
    return _font(bold).getlength(text) * size / _AT


def fitted(text: str, size: float, room: float, bold: bool = False) -> str:
    """`text`, its middle left out where it is wider than `room`: both ends of a name tell models apart."""
    if width(text, size, bold) <= room:
        return text
    low, high = 1, len(text) - 1  # characters that may be kept
    while low < high:
        kept = (low + high + 1) // 2
        low, high = (kept, high) if width(_shortened(text, kept), size, bold) <= room else (low, kept - 1)
    return _shortened(text, low)


def wrapped(text: str, size: float, room: float, most: int, bold: bool = False) -> list[str]:
    """`text` in lines that have room, broken between words; what `most` lines can't hold is left out of the last."""
    lines, words = [], text.split()
    while words and len(lines) < most - 1:
        taken = 1
        while taken < len(words) and width(" ".join(words[: taken + 1]), size, bold) <= room:
            taken += 1
        lines.append(fitted(" ".join(words[:taken]), size, room, bold))
        words = words[taken:]
    return [*lines, fitted(" ".join(words), size, room, bold)] if words else lines


def largest_size(text: str, room: float, sizes: range, bold: bool = False) -> int:
    """The largest of `sizes`, which fall, at which a line has room; the last where none has."""
    return next((size for size in sizes if width(text, size, bold) <= room), sizes[-1])


def _shortened(text: str, kept: int) -> str:
    head = -(-kept // 2)
    return f"{text[:head]}…{text[len(text) - kept + head :]}"


@lru_cache(maxsize=2)
def _font(bold: bool) -> Any:
    from PIL import ImageFont  # late: the terminal needs no picture

    with as_file(files("quantspace.share").joinpath("fonts", FONTS[bold])) as path:
        return ImageFont.truetype(str(path), _AT, layout_engine=ImageFont.Layout.BASIC)
