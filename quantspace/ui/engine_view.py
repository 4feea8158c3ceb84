"""Chat through an engine elsewhere, for models that no single machine holds. Shown where settings name one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..errors import QuantSpaceError
from ..runtime.remote import engines, find_target, served_models
from .chat_view import Chat, opened
from .complaint import error_html
from .render import render

_QUICK: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}


@dataclass
class EnginePlace:
    """The components of the choice."""

    engine: gr.Dropdown
    model: gr.Dropdown
    open: gr.Button
    note: gr.HTML


def build_engines() -> EnginePlace | None:
    """Lay the choice out in the current Blocks; `None` where settings name no engine."""
    names = [engine.name for engine in engines()]
    if not names:
        return None
    with gr.Accordion("Chat through another engine", open=False, elem_id="engines"):
        with gr.Row(equal_height=False):
            engine = gr.Dropdown(names, value=names[0], label="Engine", min_width=200, elem_id="engine")
            model = gr.Dropdown(
                [], label="Model", info="as the engine names it", allow_custom_value=True, min_width=240,
                elem_id="engine-model",
            )  # fmt: skip
        button = gr.Button("Chat there", size="sm", elem_id="engine-open")
        note = gr.HTML(apply_default_css=False, elem_id="engine-note")
    return EnginePlace(engine, model, button, note)


def wire_engines(page: gr.Blocks, place: EnginePlace, readout: gr.HTML, job: gr.State, chat: Chat) -> None:
    """Let the chat talk to the chosen engine; `job` then holds what it talks to."""
    listed = {"fn": _models, "inputs": place.engine, "outputs": [place.model, place.note]}
    page.load(**listed, **_QUICK)
    place.engine.change(**listed, **_QUICK)
    answer = [place.note, readout, job, chat.bot, chat.box, chat.send]
    place.open.click(_opened, [place.engine, place.model], answer, **_QUICK)


def _models(name: str) -> tuple[Any, str]:
    try:
        found = next(served_models(engine) for engine in engines() if engine.name == name)
    except QuantSpaceError as error:
        return gr.update(choices=[], value=None), error_html(error)
    return gr.update(choices=list(found), value=found[0] if found else None), ""


def _opened(name: str, model: str | None) -> list[Any]:
    try:
        target = find_target(name, (model or "").strip())
        if not target.engine.model:
            served_models(target.engine)  # whether it is there at all
    except QuantSpaceError as error:
        return [error_html(error), *(gr.skip() for _ in range(5))]
    return ["", render("remote_readout", target=target), target, *opened(target, has_template=True)]
