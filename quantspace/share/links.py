"""A link is the state: the controls of the calculator as a query string and back, and the addresses that carry it.

Reading is tolerant, since links outlive versions: other spellings of a name are understood, and what is not
is left out and named. Nothing here knows gradio or a request; whoever serves passes what was asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any
from urllib.parse import quote, unquote

from ..errors import BadInput, BadWorkload, QuantSpaceError, shorten
from ..estimation.calculator import DEFAULT_RAM_GB, hardware_and_workload
from ..estimation.hardware import find_gpu
from ..hub.reference import MAX_LENGTH, parse_reference
from ..settings import settings
from . import finetuning
from .finetuning import Finetuning
from .spelling import read_precision

# What Gradio, Spaces and sign-in put into a page's address; none of it is ours to complain about.
FOREIGN = frozenset({"__theme", "__sign", "__lang", "logs", "view", "oauth", "code", "state", "ref", "source"})

# Other names of a parameter: of older versions, of the API, and what people type from memory.
_NAMES = {
    "model": "model_id repo repo_id",
    "gpu": "card device",
    "count": "gpu_count gpus num_gpus",
    "context": "ctx context_length max_model_len",
    "batch": "batch_size",
    "kv": "kv_dtype cache_dtype kv_cache_dtype",
    "ram": "ram_gb",
    "images": "image_count",
    "revision": "rev",
    "precision": "quant quantization dtype row",
    "tab": "page",
} | finetuning.NAMES
_ALWAYS = ("gpu", "context")  # of a question: their defaults are settings of whoever runs the app
_TAB = re.compile(r"[a-z][a-z0-9-]{0,31}")
_ENCODED = re.compile(r"%(?:2F|3A|40)", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?(?::\d{1,5})?")
_SHOWN = 40  # characters of an ignored name
_MOST_IGNORED = 20


@dataclass(frozen=True, slots=True)
class State:
    """The controls of the calculator; what stays at its default is not written into a link.

    Attributes:
        model: as typed: an id with `@revision` or `:quant`, or a link. Empty: whatever the page opens with.
        gpu: id of the catalogue.
        count: like cards.
        context: tokens in each sequence.
        batch: sequences at once.
        kv: dtype of the cache.
        ram: of the system, in GB (10⁹ bytes).
        images: in the prompt of each sequence.
        precision: id of the row to highlight; empty for the recommended one.
        finetuning: of the page's second tab, each control a parameter of its own.
        tab: of the page.
    """

    model: str = ""
    gpu: str = settings().default_gpu
    count: int = 1
    context: int = settings().default_context
    batch: int = 1
    kv: str = "auto"
    ram: float = DEFAULT_RAM_GB
    images: int = 0
    revision: str = "main"
    precision: str = ""
    finetuning: Finetuning = field(default_factory=Finetuning)
    tab: str = ""

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `estimate()` that ask for this state."""
        return {
            "model": self.model, "gpu": self.gpu, "gpu_count": self.count, "context": self.context,
            "batch": self.batch, "kv_dtype": self.kv, "revision": self.revision, "ram_gb": self.ram,
            "images": self.images,
        }  # fmt: skip


DEFAULT = State()


def to_query(state: State) -> str:
    """`model=google/gemma-3-4b-it&gpu=l4&context=8192`: what differs from the defaults, in the order of the fields.

    Where a model is named, card and context are always written, so that the link asks the same of an app with other
    defaults.
    """
    always = _ALWAYS if state.model else ()
    settled = _flat(replace(state, finetuning=state.finetuning.settled()))
    return _encoded((name, value) for name, value in settled.items() if name in always or value != _DEFAULTS[name])


def from_query(parameters: Mapping[str, Any], also: Iterable[str] = ()) -> tuple[State, tuple[str, ...]]:
    """The state of a page's query parameters, and the names of those that were ignored.

    Args:
        parameters: name → value, or a list of values as `parse_qs` gives them, or with `multi_items()` as
            Starlette's `QueryParams` have it. Of a repeated name the last value that is understood counts.
        also: names that belong to somebody else, such as an embed's `theme`; passed over in silence.
    """
    found, ignored = _read(parameters, also)
    of_training = {name: found.pop(name) for name in finetuning.FIELDS if name in found}
    chosen = Finetuning(**of_training)
    if chosen.base and chosen.settled().precision != chosen.base:
        ignored = (*ignored, "base")
    return State(**found, finetuning=chosen.settled()), ignored[:_MOST_IGNORED]


def understood(parameters: Mapping[str, Any]) -> frozenset[str]:
    """The controls that a page's query parameters give a value."""
    return frozenset(_read(parameters)[0])


def _read(parameters: Mapping[str, Any], also: Iterable[str] = ()) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Values by control, and the names of those that were ignored; see `from_query`."""
    theirs = FOREIGN | {name.lower() for name in also}
    found: dict[str, tuple[bool, Any]] = {}  # by field: whether under its own name, and the value
    ignored: dict[str, None] = {}
    for name, value in _pairs(parameters):
        plain = str(name).strip().lower()
        if plain in theirs:
            continue
        try:
            wanted = _FIELD_OF[plain.replace("-", "_")]
            read = _READERS[wanted](str(value))
        except (KeyError, ValueError, QuantSpaceError):
            ignored[shorten(str(name), _SHOWN)] = None
            continue
        own = plain == wanted
        before = found.get(wanted)
        if before is not None and before[1] != read:
            ignored[shorten(str(name), _SHOWN)] = None  # one of two that differ
        if before is None or own >= before[0]:
            found[wanted] = own, read
    return {name: value for name, (_, value) in found.items()}, tuple(ignored)


def public_base(requested: str = "") -> str:
    """The public address of this app: a Space's own host, else what the request says; without a slash at the end."""
    host = os.environ.get("SPACE_HOST", "").strip()
    return f"https://{host}" if _HOST.fullmatch(host) else requested.rstrip("/")


def page_url(base: str, state: State) -> str:
    """The page with this state."""
    return _url(base, "/", to_query(state))


def embed_url(base: str, state: State, **options: str) -> str:
    """The calculator alone, for an iframe; `options` are the embed's own parameters, such as `theme`."""
    return _url(base, "/embed", _joined(state, options))


def badge_url(base: str, state: State) -> str:
    """The small image for a model card."""
    return _url(base, "/badge.svg", _joined(state, {}))


def card_url(base: str, state: State, kind: str = "svg", theme: str = "light") -> str:
    """The image of the bar chart, `kind` being svg or png."""
    return _url(base, f"/card.{kind}", _joined(state, {"theme": theme} if theme != "light" else {}))


def _url(base: str, path: str, query: str) -> str:
    return f"{base.rstrip('/')}{path}" + (f"?{query}" if query else "")


def _joined(state: State, options: Mapping[str, str]) -> str:
    shown = replace(state, tab="", finetuning=DEFAULT.finetuning)  # none but the page has these
    parts = (to_query(shown), _encoded(options.items()))
    return "&".join(part for part in parts if part)


def _encoded(pairs: Iterable[tuple[str, Any]]) -> str:
    """Slashes and colons stay readable: a query may hold them (RFC 3986, 3.4)."""
    return "&".join(f"{quote(name)}={quote(_text(value), safe='/:@,')}" for name, value in pairs)


def _text(value: Any) -> str:
    whole = isinstance(value, bool) or (isinstance(value, float) and value.is_integer())
    return str(int(value)) if whole else str(value)


def _flat(state: State) -> dict[str, Any]:
    """All controls by name, the page's tab last."""
    own = {part.name: getattr(state, part.name) for part in fields(State) if part.name != "finetuning"}
    tab = own.pop("tab")
    return own | {name: getattr(state.finetuning, name) for name in finetuning.FIELDS} | {"tab": tab}


def _pairs(parameters: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    listed = getattr(parameters, "multi_items", parameters.items)
    for name, value in listed():
        if isinstance(value, list | tuple):
            yield from ((name, each) for each in value)
        else:
            yield name, value


def _model(text: str) -> str:
    bare = text.strip()
    if len(bare) > MAX_LENGTH:
        raise BadInput("No model's name is that long.")
    return unquote(bare) if _ENCODED.search(bare) and "://" not in bare else bare  # encoded once too often


def _workload(**asked: Any) -> tuple[Any, Any]:
    plain = {"gpu": DEFAULT.gpu, "gpu_count": 1, "context": 1, "batch": 1, "kv_dtype": "auto", "ram_gb": 0, "images": 0}
    return hardware_and_workload(**(plain | asked))


def _ram(text: str) -> float:
    _workload(ram_gb=text)
    return float(text)


def _count(text: str) -> int:
    whole = int(text)
    if not 1 <= whole <= settings().max_gpu_count:
        raise BadWorkload("That many cards are not counted.")
    return whole


def _tab(text: str) -> str:
    bare = text.strip().lower()
    if not _TAB.fullmatch(bare):
        raise BadInput("There is no such tab.")
    return bare


_READERS: dict[str, Callable[[str], Any]] = {
    "model": _model,
    "gpu": lambda text: find_gpu(text).id,
    "count": _count,
    "context": lambda text: _workload(context=text)[1].context,
    "batch": lambda text: _workload(batch=text)[1].batch,
    "kv": lambda text: _workload(kv_dtype=text)[1].kv_dtype,
    "ram": _ram,
    "images": lambda text: _workload(images=text)[1].images,
    "revision": lambda text: parse_reference("any/model", text.strip() or "main").revision,
    "precision": read_precision,
    "tab": _tab,
} | {name: partial(finetuning.read, name) for name in finetuning.FIELDS}
_DEFAULTS = _flat(DEFAULT)
_FIELD_OF = {name: name for name in _DEFAULTS} | {
    other: name for name, others in _NAMES.items() for other in others.split()
}
