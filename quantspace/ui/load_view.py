"""From a row's *Load* to a readout and an open chat: progress on the way, and a way to stop."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..errors import QuantSpaceError, shorten
from ..precision import label_of
from ..runtime import session
from ..runtime.job import Event, Failed, Job, Loaded, Phase
from . import tickets
from .access import token_of
from .chat_view import Chat, opened
from .complaint import error_html, failed_html
from .options_view import OptionsPlace, build_options, options_of
from .progress import ProgressView
from .readout_view import readout_html
from .render import render

log = logging.getLogger(__name__)

_SCROLL_TO_RUN = """() => document.getElementById('run').scrollIntoView({
  behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth', block: 'start'})"""


_ANNOUNCE_LOADED = "watch('value', () => document.dispatchEvent(new Event('quantspace-loaded')))"  # fit_table.js hears


@dataclass
class LoadPlace:
    """The components between the table and the chat."""

    options: OptionsPlace
    progress: gr.HTML
    cancel: gr.Button


def build_load() -> LoadPlace:
    """Lay out where loading is told about, in the current Blocks."""
    options = build_options()
    progress = gr.HTML(apply_default_css=False, elem_id="load-progress")
    cancel = gr.Button("Cancel loading", visible=False, size="sm", elem_id="cancel")
    return LoadPlace(options, progress, cancel)


def build_readout() -> gr.HTML:
    """The place of the readout."""
    return gr.HTML(render("no_readout"), apply_default_css=False, js_on_load=_ANNOUNCE_LOADED, elem_id="readout")


def wire_load(table: gr.HTML, token: gr.Textbox, place: LoadPlace, readout: gr.HTML, job: gr.State, chat: Chat) -> None:
    """Load the row whose button is pressed in `table`; `job` then holds what the chat talks to."""
    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    table.click(None, js=_SCROLL_TO_RUN)
    ticket = gr.State("")
    table.click(
        load_row,
        [ticket, token, *place.options.form.inputs()],
        [ticket, place.progress, place.cancel, readout, job, chat.bot, chat.box, chat.send],
        concurrency_limit=4,
        trigger_mode="multiple",  # another row may be pressed meanwhile: the one before gives way
        **quick,
    )
    place.cancel.click(_cancelled, ticket, [place.progress, place.cancel], **quick)


def load_row(
    event: gr.EventData, before: str, oauth: gr.OAuthToken | None, typed_token: str, *chosen: Any
) -> Iterator[list[Any]]:
    """Load the row whose button was pressed as the options say: progress, then the readout and an open chat.

    The load `before` it, where there is one, gives way.
    """
    ticket = tickets.next_ticket(before)
    try:
        options = options_of(*chosen)
    except QuantSpaceError as error:
        yield _loading(error_html(error), gr.update(visible=False), ticket)
        return
    model, precision = str(event.model), str(event.precision)
    view = ProgressView(f"{model[:80]} · {label_of(precision)}")
    yield _loading(view.html(Phase("resolve")), gr.update(visible=True), ticket)
    job: Job | None = None
    found = (model, precision, str(event.revision), token_of(typed_token, oauth), options, _context(event))
    with closing(_steps(*found)) as steps:
        for step in steps:
            if (fate := tickets.fate(ticket)) != "":
                yield _loading("", gr.update(visible=False)) if fate == "cancelled" else [gr.skip()] * 8
                return
            if isinstance(step, Job):
                job = step
            elif isinstance(step, Phase):
                yield _loading(view.html(step), gr.update(visible=True))
            elif isinstance(step, Failed):
                yield _loading(failed_html(step), gr.update(visible=False))
            elif isinstance(step, Loaded):
                yield _loaded(job, step, str(event.revision))


def _cancelled(ticket: str) -> list[Any]:
    tickets.cancel(ticket)
    return ["", gr.update(visible=False)]


def _loaded(job: Job, step: Loaded, revision: str) -> list[Any]:
    chat = opened(job, step.readout.chat_template, step.readout.images)
    return [gr.skip(), "", gr.update(visible=False), readout_html(job, step.readout, revision), job, *chat]


def _steps(*found: Any) -> Iterator[Event | Job]:
    """What a load tells; an error of our own too is said in words, where Gradio would say “Error”."""
    try:
        yield from session.load_model(*found)
    except Exception as error:  # the page's seam: whatever it is, the next press works
        log.exception("a load broke")
        name = type(error).__name__
        yield Failed("internal", f"Something broke here: {name}: {shorten(str(error), 200)}", "Try again.")


def _context(event: gr.EventData) -> int:
    """Tokens that the row's estimate counted, for the chat to keep to."""
    told = str(getattr(event, "context", ""))
    return int(told) if told.isascii() and told.isdigit() else 0


def _loading(progress: str, cancel: Any, ticket: Any = None) -> list[Any]:
    return [ticket or gr.skip(), progress, cancel, *(gr.skip() for _ in range(5))]
