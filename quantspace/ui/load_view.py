"""From a row's *Load* to a readout and an open chat: progress on the way, and a way to stop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..precision import PRECISIONS
from ..runtime import session
from ..runtime.job import Failed, Job, Loaded, Phase
from .access import token_of
from .chat_view import Chat, opened
from .complaint import failed_html
from .progress import ProgressView
from .readout_view import readout_html
from .render import render

_SCROLL_TO_RUN = """() => document.getElementById('run').scrollIntoView({
  behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth', block: 'start'})"""


_ANNOUNCE_LOADED = "watch('value', () => document.dispatchEvent(new Event('quantspace-loaded')))"  # fit_table.js hears


@dataclass
class LoadPlace:
    """The components between the table and the chat."""

    progress: gr.HTML
    cancel: gr.Button


def build_load() -> LoadPlace:
    """Lay out where loading is told about, in the current Blocks."""
    progress = gr.HTML(apply_default_css=False, elem_id="load-progress")
    cancel = gr.Button("Cancel loading", visible=False, size="sm", elem_id="cancel")
    return LoadPlace(progress, cancel)


def build_readout() -> gr.HTML:
    """The place of the readout."""
    return gr.HTML(render("no_readout"), apply_default_css=False, js_on_load=_ANNOUNCE_LOADED, elem_id="readout")


def wire_load(table: gr.HTML, token: gr.Textbox, place: LoadPlace, readout: gr.HTML, job: gr.State, chat: Chat) -> None:
    """Load the row whose button is pressed in `table`; `job` then holds what the chat talks to."""
    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    table.click(None, js=_SCROLL_TO_RUN)
    loading = table.click(
        load_row,
        token,
        [place.progress, place.cancel, readout, job, chat.bot, chat.box, chat.send],
        concurrency_limit=4,
        trigger_mode="multiple",  # "once" would swallow a press right after a cancel
        **quick,
    )
    stopped = ("", gr.update(visible=False))
    place.cancel.click(lambda: stopped, None, [place.progress, place.cancel], cancels=[loading], **quick)


def load_row(event: gr.EventData, oauth: gr.OAuthToken | None, typed_token: str) -> Iterator[list[Any]]:
    """Load the row whose button was pressed: progress, then the readout and an open chat."""
    model, precision = str(event.model), str(event.precision)
    label = PRECISIONS[precision].label if precision in PRECISIONS else precision
    view = ProgressView(f"{model[:80]} · {label}")
    job: Job | None = None
    for step in session.load_model(model, precision, str(event.revision), token_of(typed_token, oauth)):
        if isinstance(step, Job):
            job = step
        elif isinstance(step, Phase):
            yield _loading(view.html(step), gr.update(visible=True))
        elif isinstance(step, Failed):
            yield _loading(failed_html(step), gr.update(visible=False))
        elif isinstance(step, Loaded):
            html = readout_html(job, step.readout, str(event.revision))
            yield ["", gr.update(visible=False), html, job, *opened(job, step.readout.chat_template)]


def _loading(progress: str, cancel: Any) -> list[Any]:
    return [progress, cancel, *(gr.skip() for _ in range(5))]
