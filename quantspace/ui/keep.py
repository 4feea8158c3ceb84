"""What can be taken along from a table that is shown: a row as code, the table as a file, the chart as a picture.

The very estimate that a table shows is kept for a while under a ticket which that table alone knows. So a gated
model needs no token a second time, and what is taken along is what was seen.
"""

from __future__ import annotations

import re
import secrets
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from cachetools import LRUCache

from ..estimation.calculator import Estimate
from ..share.card import card_svg
from ..share.png import png
from ..share.snippets import snippets
from ..share.tables import as_csv, as_json, as_markdown
from .render import render

_KEPT = 400  # tables; each is about 60 kB beside the inventory, which is cached anyway


@dataclass(frozen=True)
class Shown:
    """What a table shows: an estimate, and the row that was asked for."""

    estimate: Estimate
    row: str = ""


@dataclass(frozen=True)
class Format:
    """A kind of file: its name to people, its ending, and how it is made of what is shown and a theme."""

    label: str
    ending: str
    media_type: str
    make: Callable[[Shown, str], str | bytes]


FORMATS: dict[str, Format] = {
    "csv": Format("Table as CSV", "csv", "text/csv", lambda shown, _: as_csv(shown.estimate)),
    "json": Format("Table as JSON", "json", "application/json", lambda shown, _: as_json(shown.estimate)),
    "markdown": Format("Table as Markdown", "md", "text/markdown", lambda shown, _: as_markdown(shown.estimate)),
    "svg": Format("Chart as SVG", "svg", "image/svg+xml", lambda shown, theme: _chart(shown, theme)),
    "png": Format("Chart as PNG", "png", "image/png", lambda shown, theme: png(_chart(shown, theme))),
}

_tables: LRUCache[str, Shown] = LRUCache(_KEPT)
_lock = Lock()


def remember(estimate: Estimate, row: str = "") -> str:
    """Keep what a table shows for a while; gives its ticket."""
    ticket = secrets.token_urlsafe(16)
    with _lock:
        _tables[ticket] = Shown(estimate, row)
    return ticket


def code_of_row(given: object) -> str | None:
    """The HTML of the code that loads or serves a row, for `[ticket, row]`; nothing where it is not at hand."""
    shown, row_id = _given(given, 2)
    if shown is None:
        return None
    row = next((row for row in shown.estimate.rows if row.precision.id == row_id), None)
    return None if row is None else render("snippets", row=row, snippets=snippets(shown.estimate, row))


def file_of_table(given: object) -> dict[str, str] | None:
    """A file for `[ticket, format, theme]`: its name, type, and text or base64; nothing where it is not at hand."""
    shown, name, theme = _given(given, 3)
    kind = FORMATS.get(name)
    if shown is None or kind is None:
        return None
    made = kind.make(shown, theme)
    content = {"text": made} if isinstance(made, str) else {"base64": b64encode(made).decode()}
    return {"name": f"{file_name(shown.estimate)}.{kind.ending}", "type": kind.media_type, **content}


def file_name(estimate: Estimate) -> str:
    """`gemma-3-4b-it-on-2xt4-8192-tokens`: a name that any disk takes."""
    hardware, workload = estimate.hardware, estimate.workload
    cards = f"{hardware.count}x{hardware.gpu.id}" if hardware.count > 1 else hardware.gpu.id
    model = estimate.inventory.model_id.rpartition("/")[2]
    batch = f"-x{workload.batch}" if workload.batch > 1 else ""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{model}-on-{cards}-{workload.context}-tokens{batch}").strip("-.")[:120]


def _chart(shown: Shown, theme: str) -> str:
    return card_svg(shown.estimate, shown.row, theme)


def _given(given: object, count: int) -> tuple[Shown | None, *tuple[str, ...]]:
    """What a page sent, where it is as many texts as are wanted and its ticket is known."""
    texts = [text for text in given if isinstance(text, str)] if isinstance(given, list) else []
    if len(texts) != count:
        return None, *[""] * (count - 1)
    with _lock:
        return _tables.get(texts[0]), *texts[1:]
