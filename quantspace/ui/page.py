"""The page: one flow from a model's name to a conversation with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWorking
from typing import Any

import gradio as gr

from ..errors import QuantSpaceError
from ..estimation import builder
from ..estimation.calculator import estimate
from ..precision import PRECISIONS
from ..runtime import gpu, session
from ..runtime.job import Failed, Job, Loaded, Phase
from ..runtime.measured_speed import measurements
from .chat_view import Chat, asked, before, build_chat, opened, reply, said, stopped
from .finetune_view import FinetuneForm, build_finetune, show_finetune
from .fit_table import build_fit_table, table_html, waiting_html
from .form import Form, build_form, chips_html, opening_values, read_link
from .progress import ProgressView, error_html, failed_html
from .ranking_view import build_ranking, show_ranking
from .readout_view import readout_html
from .render import render
from .theme import CSS, HEAD, THEME

TITLE = "QuantSpace: will this model fit my GPU?"
PATIENCE = 0.15  # seconds before a page says that it is working
_SCROLL_TO_RUN = """() => document.getElementById('run').scrollIntoView({
  behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth', block: 'start'})"""

# Gradio's containers are there from the start, so that a screen reader tells what is put into them.
_ANNOUNCE = """() => document.querySelectorAll('#complaint, #load-progress, #chat-status')
  .forEach((place) => place.setAttribute('aria-live', 'polite'))"""

# The box is closed while an answer streams; whoever types with keys goes on where they were.
_FOCUS = """() => setTimeout(() => matchMedia('(pointer: fine)').matches
  && document.querySelector('#message textarea').focus({preventScroll: true}), 100)"""

_QUIETLY: dict[str, Any] = {
    "trigger_mode": "always_last",
    "show_progress": "hidden",
    "concurrency_limit": 16,
    "api_visibility": "private",
}
_estimates = ThreadPoolExecutor(max_workers=8, thread_name_prefix="estimate")


def build_page() -> gr.Blocks:
    """All that people see, wired."""
    with gr.Blocks(title=TITLE, delete_cache=(3600, 3600)) as page:
        gr.HTML(render("header"), apply_default_css=False)
        form, chips, button = build_form()
        link_note = gr.HTML(apply_default_css=False, elem_id="link-note")
        complaint = gr.HTML(apply_default_css=False, elem_id="complaint")
        with gr.Tabs(elem_id="questions"):
            with gr.Tab("Run", id="run"):
                table = build_fit_table()
                with gr.Column(elem_id="run"):
                    progress = gr.HTML(apply_default_css=False, elem_id="load-progress")
                    cancel = gr.Button("Cancel loading", visible=False, size="sm", elem_id="cancel")
                    with gr.Row(equal_height=False):
                        with gr.Column(min_width=320, scale=1):
                            readout = gr.HTML(render("no_readout"), apply_default_css=False, elem_id="readout")
                        chat = build_chat()
            with gr.Tab("Fine-tune", id="finetune") as finetune_tab:
                training, trained = build_finetune()
            with gr.Tab("What fits?", id="ranking") as ranking_tab:
                ranking = build_ranking()
        gr.HTML(render("footer"), apply_default_css=False)
        job = gr.State(None)

        _wire_form(page, form, chips, button, table, complaint, link_note)
        _wire_finetune(form, training, trained, finetune_tab, button)
        _wire_ranking(form, ranking, ranking_tab, button)
        _wire_load(table, progress, cancel, readout, job, chat)
        _wire_chat(chat, job)
    return page


def launch_options() -> dict[str, Any]:
    """What `launch()` is told."""
    return {
        "theme": THEME,
        "css": CSS,
        "head": HEAD,
        "ssr_mode": False,
        "run_history": False,
        "mcp_server": True,
        "footer_links": ["api"],
        "state_session_capacity": 500,
    }


def warm_up() -> None:
    """Start what the first visitor would otherwise wait for, beside serving."""
    builder.isolate()
    if gpu.on_zero_gpu():
        gpu.warm_up()  # before the first fork: a half-done import would hang the forked worker
    else:
        threading.Thread(target=gpu.warm_up, daemon=True, name="warm-up").start()


def _wire_form(
    page: gr.Blocks,
    form: Form,
    chips: gr.HTML,
    button: gr.Button,
    table: gr.HTML,
    complaint: gr.HTML,
    link_note: gr.HTML,
) -> None:
    show = {"fn": show_estimate, "inputs": form.inputs(), "outputs": [table, complaint], **_QUIETLY}
    typed = [form.context.submit, form.context.blur]
    gr.on([button.click, *typed, *(component.input for component in form.inputs())], **show)
    chips.click(_chosen, None, form.model, show_progress="hidden", api_visibility="private").then(**show)
    page.load(None, js=_ANNOUNCE)
    page.load(_open, None, [*form.inputs(), chips, link_note], show_progress="hidden", api_visibility="private").then(
        **show
    )


def _wire_finetune(form: Form, training: FinetuneForm, answer: gr.HTML, tab: gr.Tab, button: gr.Button) -> None:
    controls = [form.model, form.gpu, *training.inputs()]
    triggers = [tab.select, button.click, *(component.change for component in training.inputs())]
    gr.on([*triggers, form.model.input, form.gpu.input], show_finetune, controls, answer, **_QUIETLY)


def _wire_ranking(form: Form, ranking: gr.HTML, tab: gr.Tab, button: gr.Button) -> None:
    triggers = [tab.select, button.click, form.gpu.input, form.count.input]
    gr.on(triggers, show_ranking, [form.gpu, form.context, form.batch, form.count, form.kv], ranking, **_QUIETLY)
    ranking.click(_chosen, None, form.model, show_progress="hidden", api_visibility="private").then(
        None, js="() => document.querySelector('#questions [role=tab]').click()"
    ).then(None, js="() => document.getElementById('estimate').click()")


def _wire_load(
    table: gr.HTML, progress: gr.HTML, cancel: gr.Button, readout: gr.HTML, job: gr.State, chat: Chat
) -> None:
    outputs = [progress, cancel, readout, job, chat.bot, chat.box, chat.send]
    table.click(None, js=_SCROLL_TO_RUN)
    loading = table.click(
        load_row,
        None,
        outputs,
        show_progress="hidden",
        concurrency_limit=4,
        trigger_mode="multiple",  # "once" would swallow a press right after a cancel
        api_visibility="private",
    )
    cancel.click(
        lambda: ("", gr.update(visible=False)),
        None,
        [progress, cancel],
        cancels=[loading],
        show_progress="hidden",
        api_visibility="private",
    )


def _wire_chat(chat: Chat, job: gr.State) -> None:
    streaming = {
        "fn": reply,
        "inputs": [chat.bot, job, *chat.settings],
        "outputs": [chat.bot, chat.status],
        "show_progress": "hidden",
        "concurrency_limit": 8,
        "api_visibility": "private",
    }
    quick = {"show_progress": "hidden", "api_visibility": "private"}
    running = ({"fn": lambda: _stoppable(True)} | quick) | {"inputs": None, "outputs": [chat.send, chat.stop, chat.box]}
    idle = running | {"fn": lambda: _stoppable(False)}

    answers = []
    for start in (
        gr.on([chat.box.submit, chat.send.click], asked, [chat.box, chat.bot], [chat.box, chat.bot], **quick),
        chat.bot.example_select(_example, chat.bot, chat.bot, **quick),
        chat.bot.retry(_retried, chat.bot, chat.bot, **quick),
    ):
        answer = start.then(**running).then(**streaming)
        answer.then(**idle).then(None, js=_FOCUS)
        answers.append(answer)
    chat.stop.click(
        lambda history: (stopped(history), ""), chat.bot, [chat.bot, chat.status], cancels=answers, **quick
    ).then(stopped, chat.bot, chat.bot, **quick).then(**idle)  # again: a piece under way may have come after it
    chat.bot.undo(_undone, chat.bot, [chat.bot, chat.box], **quick)
    chat.clear.click(lambda: ([], ""), None, [chat.bot, chat.status], cancels=answers, **quick).then(**idle)


def show_estimate(
    model: str, card: str, context: float, batch: float, count: float, kv: str, ram: float, images: float
) -> Iterator[tuple[Any, str]]:
    """The table for the form's values; an error leaves the last table in place and says what is wrong."""
    asked = (model, card, count, context, batch, kv)
    future = _estimates.submit(estimate, *asked, ram_gb=ram, images=images, measured=measurements.on)
    try:
        try:
            found = future.result(timeout=PATIENCE)
        except StillWorking:
            yield waiting_html(str(model)[:80]), ""
            found = future.result()
        yield table_html(found), ""
    except QuantSpaceError as error:
        yield gr.skip(), error_html(error)


def load_row(event: gr.EventData) -> Iterator[list[Any]]:
    """Load the row whose button was pressed: progress, then the readout and an open chat."""
    model, precision = str(event.model), str(event.precision)
    label = PRECISIONS[precision].label if precision in PRECISIONS else precision
    view = ProgressView(f"{model[:80]} · {label}")
    job: Job | None = None
    for step in session.load_model(model, precision, str(event.revision)):
        if isinstance(step, Job):
            job = step
        elif isinstance(step, Phase):
            yield _loading(view.html(step), gr.update(visible=True))
        elif isinstance(step, Failed):
            yield _loading(failed_html(step), gr.update(visible=False))
        elif isinstance(step, Loaded):
            html = readout_html(job, step.readout)
            yield ["", gr.update(visible=False), html, job, *opened(job, step.readout.chat_template)]


def _loading(progress: str, cancel: Any) -> list[Any]:
    return [progress, cancel, *(gr.skip() for _ in range(5))]


def _open(request: gr.Request) -> list[Any]:
    link = read_link(dict(request.query_params))
    ignored = render("ignored", names=link.ignored) if link.ignored else ""
    return [*opening_values(link), chips_html(), ignored]


def _chosen(event: gr.EventData) -> str:
    return str(event.model)


def _example(event: gr.SelectData, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*(history or []), {"role": "user", "content": event.value["text"]}]


def _retried(event: gr.RetryData, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return before(history, event.index)


def _undone(event: gr.UndoData, history: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Any]:
    kept = before(history, event.index)
    return kept[:-1], said(kept[-1]["content"]) if kept else gr.skip()


def _stoppable(running: bool) -> tuple[Any, Any, Any]:
    """Send gives way to Stop while an answer streams; a question sent meanwhile would be lost."""
    return gr.update(visible=not running), gr.update(visible=running), gr.update(interactive=not running)
