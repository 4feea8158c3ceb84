"""The address bar follows the form, and the form follows the address bar: a link is the state.

What a link means is `quantspace.share.links`; here it becomes values of the form and back. The browser's side,
its history and the button that copies a link, is `address.js`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr

from ..errors import QuantSpaceError
from ..hub.demo import DEMO_ID, demo_config
from ..hub.presence import hub_reachable
from ..hub.reference import ModelRef, parse_reference
from ..share import finetuning
from ..share.finetuning import Finetuning
from ..share.links import DEFAULT, State, from_query, public_base, to_query, understood
from .form import SMALL_MODELS
from .render import render

TABS = {
    "run": "run",
    "finetune": "finetune",
    "ranking": "ranking",
    "what-fits": "ranking",
    "fine-tune": "finetune",
    "compare": "compare",
    "lab": "lab",
}
_HUB = "https://huggingface.co"  # in links that outlive this app's own endpoint; understood everywhere
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{30,}")
_SCRIPTS = ("copy.js", "keep.js", "address.js")  # of the whole page, which has one address


@dataclass(frozen=True)
class Opened:
    """What a link makes of the page.

    Attributes:
        state: with the model that the page opens with, where the link names none.
        ignored: names of parameters that were not understood.
    """

    state: State
    ignored: tuple[str, ...]

    def values(self) -> list[Any]:
        """Of the form, in the order of its fields."""
        state = self.state
        return [
            state.model, state.gpu, str(state.context), state.batch, state.count, state.kv, state.ram, state.images
        ]  # fmt: skip

    def controls(self) -> list[Any]:
        """Of fine-tuning, in the order of its fields."""
        chosen = self.state.finetuning
        return [chosen.precision if name == "base" else getattr(chosen, name) for name in finetuning.FIELDS]

    @property
    def tab(self) -> str:
        return TABS.get(self.state.tab, "run")

    @property
    def asked_row(self) -> tuple[str, str]:
        """The model and the row of it that is to be marked; see `State.precision`."""
        return self.state.model, self.state.precision


def build_address() -> gr.HTML:
    """The place that tells the browser what was answered; its `.click` fires with `event.query` on back and forward."""
    script = "\n".join((files("quantspace.ui") / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    return gr.HTML(address_html(""), apply_default_css=False, js_on_load=script, elem_id="address")


def address_html(query: str) -> str:
    """What the browser is told of an answer: its query."""
    defaults = {name: str(getattr(DEFAULT, name)) for name in ("model", "context", "batch", "count", "images")}
    return render("address", query=query, base=public_base(), defaults=defaults | {"ram": f"{DEFAULT.ram:g}"})


def opened(parameters: Mapping[str, str] | str) -> Opened:
    """What a page's query asks for, given as it stands or read already."""
    if isinstance(parameters, str):
        listed: dict[str, list[str]] = {}
        for name, value in parse_qsl(parameters.lstrip("?"), keep_blank_values=True):
            listed.setdefault(name, []).append(value)
        parameters = listed
    state, ignored = from_query(parameters)
    if state.tab and state.tab not in TABS:
        ignored = (*ignored, "tab")
    return Opened(_with_model(state, "context" in understood(parameters)), ignored)


def query_of(
    model: str, card: str, context: Any, batch: Any, count: Any, kv: str, ram: Any, images: Any, precision: str = "",
    tuned: Finetuning = DEFAULT.finetuning,
) -> str | None:  # fmt: skip
    """The query that asks what a form asks; `None` where some of it is no value, or a secret."""
    given = {"gpu": card, "context": context, "batch": batch, "count": count, "kv": kv, "ram": ram, "images": images}
    state, ignored = from_query({name: "" if value is None else value for name, value in given.items()})
    if ignored:
        return None
    try:
        named = spelled(parse_reference(model))
    except QuantSpaceError:
        return None
    query = to_query(replace(state, model=named, precision=precision, finetuning=tuned))
    return None if _TOKEN.search(query) else query


def tuned_by(controls: Sequence[Any]) -> Finetuning | None:
    """What the controls of fine-tuning say, in the order of its fields; `None` where some of it is no value."""
    try:
        return finetuning.from_controls(dict(zip(finetuning.FIELDS, controls, strict=True)))
    except (ValueError, KeyError, QuantSpaceError):
        return None  # half typed: the tab itself says what is wrong


def spelled(model: ModelRef) -> str:
    """A model in the fewest letters that mean the same: `org/name`, `org/name@revision:Q4_K_M`, or a file's link."""
    if model.file:
        return f"{_HUB}/{model.id}/blob/{model.revision}/{model.file}"
    revision = "" if model.revision == DEFAULT.revision else f"@{model.revision}"
    return f"{model.id}{revision}{f':{model.quant}' if model.quant else ''}"


def _with_model(state: State, context_given: bool) -> State:
    if not state.model:
        first = SMALL_MODELS[0] if hub_reachable() else DEMO_ID
        short = first == DEMO_ID and not context_given
        context = demo_config()["max_position_embeddings"] if short else state.context
        return replace(state, model=first, context=context, revision=DEFAULT.revision)
    if state.revision == DEFAULT.revision:
        return state
    try:  # the form has one field for both
        return replace(state, model=spelled(parse_reference(state.model, state.revision)), revision=DEFAULT.revision)
    except QuantSpaceError:
        return state
