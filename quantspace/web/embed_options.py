"""How an embed looks and what may be changed in it: the parameters of `/embed` beside those of the calculator.

Reading is tolerant, since links outlive versions: what is not understood is left out and told in a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal, get_args

from starlette.datastructures import QueryParams

from ..errors import QuantSpaceError, shorten
from ..share.spelling import read_precision

Theme = Literal["auto", "light", "dark"]
Shade = Literal["light", "dark"]

THEMES: tuple[Theme, ...] = get_args(Theme)
LOCKABLE = ("model", "gpu", "context", "batch")
COLUMNS = {
    "verdict": "verdict", "total": "total", "free": "free", "speed": "speed", "weights": "weights", "cache": "cache",
    "activations": "activations", "overhead": "overhead", "footprint": "footprint", "context": "longest context",
    "batch": "largest batch", "bar": "bar", "reason": "reason",
}  # fmt: skip
USUAL_COLUMNS = ("verdict", "total", "free", "speed", "bar")
EVERY_ROW = "all"
ACCENT = "#4f46e5"
CONTRAST = 4.5  # of letters with what is behind them (WCAG 2.2, 1.4.3)

_HEX = re.compile(r"#?([0-9a-f]{3}|[0-9a-f]{6})", re.IGNORECASE)
_MOST = 64  # parts of a list
_YES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_GROUNDS: dict[Shade, str] = {"light": "#ffffff", "dark": "#0f172a"}


@dataclass(frozen=True)
class Options:
    """What an embed's author chose.

    Attributes:
        accent: `#rrggbb`, of links, the button and the recommended row.
        lock: fields that a reader sees and can't change.
        columns: of the table, in the order of `COLUMNS`.
        rows: ids of precisions; empty for the usual ones, `all` for every one.
        heading: whether the question stands above the table.
    """

    theme: Theme = "auto"
    accent: str = ACCENT
    lock: tuple[str, ...] = ()
    columns: tuple[str, ...] = USUAL_COLUMNS
    rows: tuple[str, ...] = ()
    heading: bool = True

    def parameters(self) -> dict[str, str]:
        """What differs from the defaults, as `share.links.embed_url` takes it."""
        changed = {name: getattr(self, name) for name in NAMES if getattr(self, name) != getattr(Options, name)}
        return {name: _written(value) for name, value in changed.items()}


NAMES = tuple(field.name for field in fields(Options))


def read_options(given: QueryParams) -> tuple[Options, list[str]]:
    """The options of a query, and a sentence for each value that was not understood.

    A list is written with commas, or as the same name several times, as the check boxes of a form send it.
    """
    ignored: list[str] = []
    theme = given.get("theme", "").strip().lower() or "auto"
    if theme not in THEMES:
        ignored.append(_unknown("theme", theme, THEMES))
        theme = "auto"
    heading = given.get("heading", "").strip().lower() or "1"
    if heading not in _YES:
        ignored.append(_unknown("heading", heading, ("0", "1")))
    accent = given.get("accent", "").strip()
    colour = _colour(accent)
    if accent and not colour:
        ignored.append(f"“{shorten(accent, 40)}” is not a colour; give accent as #rrggbb.")
    lock, strange = _known(_parts(given, "lock"), LOCKABLE)
    ignored += [_unknown("lock", part, LOCKABLE) for part in strange]
    columns, strange = _known(_parts(given, "columns"), COLUMNS)
    ignored += [_unknown("columns", part, COLUMNS) for part in strange]
    rows, strange = _rows(_parts(given, "rows"))
    ignored += strange
    options = Options(
        theme=next(one for one in THEMES if one == theme),
        accent=colour or ACCENT,
        lock=lock,
        columns=columns or USUAL_COLUMNS,
        rows=rows,
        heading=_YES.get(heading, True),
    )
    return options, ignored


def accent_on(accent: str, shade: Shade) -> str:
    """The accent, as much lighter or darker as letters need to be read on the page's ground, and the ground on it."""
    ground = _GROUNDS[shade]
    toward = "#000000" if shade == "light" else "#ffffff"
    steps = (mixed(accent, toward, step / 25) for step in range(26))
    return next(colour for colour in steps if contrast(colour, ground) >= CONTRAST)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(colour: str, other: str, share: float) -> str:
    """`colour` with a share of `other` in it."""
    pairs = zip(_channels(colour), _channels(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (n / 255 for n in _channels(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))


def _colour(text: str) -> str:
    """`#RGB`, `rrggbb` and the like as `#rrggbb`; empty for anything else."""
    found = _HEX.fullmatch(text)
    if not found:
        return ""
    digits = found[1].lower()
    return "#" + (digits if len(digits) == 6 else "".join(2 * digit for digit in digits))


def _parts(given: QueryParams, name: str) -> list[str]:
    listed = (part.strip() for text in given.getlist(name) for part in text.split(","))
    return list(dict.fromkeys(part for part in listed if part))[:_MOST]


def _known(parts: Iterable[str], known: Iterable[str]) -> tuple[tuple[str, ...], list[str]]:
    """Those that are known, in the order in which they are listed; and the others."""
    listed = tuple(known)
    lower = {part.lower(): part for part in parts}
    return tuple(one for one in listed if one in lower), [part for one, part in lower.items() if one not in listed]


def _rows(parts: list[str]) -> tuple[tuple[str, ...], list[str]]:
    if any(part.lower() == EVERY_ROW for part in parts):
        return (EVERY_ROW,), []
    rows: dict[str, None] = {}
    ignored = []
    for part in parts:
        try:
            rows[read_precision(part)] = None
        except QuantSpaceError as error:
            ignored.append(str(error))
    return tuple(rows), ignored


def _unknown(name: str, value: str, known: Iterable[str]) -> str:
    return f"“{shorten(value, 40)}” means nothing for {name}; it can be {', '.join(known)}."


def _written(value: str | bool | tuple[str, ...]) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return ",".join(value) if isinstance(value, tuple) else value
