"""The page: one flow from a model's name to a conversation with it."""

from __future__ import annotations

import threading
from importlib.resources import files
from typing import Any

import gradio as gr

from ..estimation import worker_pool
from ..runtime import gpu
from ..share.links import State, card_url, public_base
from .access import OPEN_ON_CLICK, Access, build_access, wire_access
from .address import build_address
from .benchmark_view import build_benchmarks, wire_benchmarks
from .chat_view import COPY_WORDS, build_chat, wire_chat
from .compare_view import build_compare, wire_compare
from .engine_view import build_engines, wire_engines
from .estimate_view import QUIETLY, wire_estimate
from .finetune_view import FinetuneForm, build_finetune, show_finetune
from .fit_table import build_fit_table
from .form import WELL_KNOWN, Form, build_form, chosen
from .kept_view import build_kept, wire_kept
from .lab_view import build_lab, wire_lab
from .load_view import build_load, build_readout, wire_load
from .options_view import wire_options
from .ranking_view import build_ranking, show_ranking
from .render import render
from .theme import CSS, DESCRIPTION, HEAD, THEME

TITLE = "QuantSpace: will this model fit my GPU?"
_FIELDS = (files("quantspace.ui") / "fields.js").read_text(encoding="utf-8")

# Gradio's containers are there from the start, so that a screen reader tells what is put into them.
_ANNOUNCE = """() => document.querySelectorAll('#complaint, #load-progress, #chat-status, #compare-progress')
  .forEach((place) => place.setAttribute('aria-live', 'polite'))"""

# Gradio calls the chat's examples a list, and their buttons no items of it.
_GROUP_EXAMPLES = """() => new MutationObserver(() => document.querySelectorAll('#chatbot .examples[role=list]')
  .forEach((list) => list.setAttribute('role', 'group')))
  .observe(document.getElementById('chatbot'), {childList: true, subtree: true})"""


class Page(gr.Blocks):
    """Blocks whose first answer tells programs that make previews what they show: text, and a picture of the table."""

    def get_config_file(self) -> Any:
        base = public_base()
        picture = {"thumbnail": card_url(base, State(model=WELL_KNOWN[0]), "png")} if base else {}
        return super().get_config_file() | {"simple_description": DESCRIPTION} | picture


def build_page() -> gr.Blocks:
    """All that people see, wired."""
    with Page(title=TITLE, delete_cache=(3600, 3600)) as page:
        gr.HTML(render("header"), apply_default_css=False)
        form, chips, button = build_form()
        access = build_access()
        address = build_address()
        link_note = gr.HTML(apply_default_css=False, elem_id="link-note")
        complaint = gr.HTML(apply_default_css=False, elem_id="complaint")
        with gr.Tabs(elem_id="questions") as tabs:
            with gr.Tab("Run", id="run"):
                table = build_fit_table()
                with gr.Column(elem_id="run"):
                    loading = build_load()
                    elsewhere = build_engines()
                    with gr.Row(equal_height=False):
                        with gr.Column(min_width=320, scale=1):
                            readout = build_readout()
                            keeping = build_kept()
                            benching = build_benchmarks()
                        chat = build_chat()
            with gr.Tab("Compare", id="compare") as compare_tab:
                comparison = build_compare()
            with gr.Tab("Fine-tune", id="finetune") as finetune_tab:
                training, trained = build_finetune()
            with gr.Tab("What fits?", id="ranking") as ranking_tab:
                ranking = build_ranking()
            with gr.Tab("Lab", id="lab"):
                lab = build_lab()
        gr.HTML(render("footer"), apply_default_css=False)
        job = gr.State(None)

        page.load(None, js=_ANNOUNCE)
        page.load(None, js=_FIELDS)
        page.load(None, js=_GROUP_EXAMPLES)
        page.load(None, js=OPEN_ON_CLICK)
        page.load(None, js=COPY_WORDS)
        wire_estimate(page, form, chips, button, access, table, complaint, link_note, address, tabs, training)
        wire_access(access)
        _wire_finetune(form, access, training, trained, finetune_tab, button)
        _wire_ranking(form, ranking, ranking_tab, button)
        wire_load(table, access.token, loading, readout, job, chat)
        wire_options(loading.options, form, access, button, job)
        if elsewhere is not None:
            wire_engines(page, elsewhere, readout, job, chat)
        wire_kept(keeping, job, access.token, readout)
        if benching is not None:
            wire_benchmarks(benching, job)
        wire_chat(chat, job)
        wire_lab(lab)
        asked = [compare_tab.select, form.model.submit, button.click]
        wire_compare(comparison, form.model, access.token, asked)
    return page


def launch_options() -> dict[str, Any]:
    """What `launch()` is told."""
    return {
        "theme": THEME,
        "css": CSS,
        "head": HEAD,
        "ssr_mode": False,
        "run_history": False,
        "mcp_server": False,  # ours is in front of it (`web/tools.py`)
        "footer_links": ["api"],
        "state_session_capacity": 500,
    }


def warm_up() -> None:
    """Start what the first visitor would otherwise wait for, beside serving."""
    worker_pool.isolate()
    if gpu.on_zero_gpu():
        gpu.warm_up()  # before the first fork: a half-done import would hang the forked worker
    else:
        threading.Thread(target=gpu.warm_up, daemon=True, name="warm-up").start()


def _wire_finetune(
    form: Form, access: Access, training: FinetuneForm, answer: gr.HTML, tab: gr.Tab, button: gr.Button
) -> None:
    controls = [form.model, form.gpu, access.token, *training.inputs()]
    triggers = [tab.select, button.click, *(component.change for component in training.inputs())]
    asked = [form.model.submit, form.gpu.input, access.token.submit, access.use.click]
    gr.on([*triggers, *asked], show_finetune, controls, answer, **QUIETLY)


def _wire_ranking(form: Form, ranking: gr.HTML, tab: gr.Tab, button: gr.Button) -> None:
    triggers = [tab.select, button.click, form.gpu.input, form.count.input]
    gr.on(triggers, show_ranking, [form.gpu, form.context, form.batch, form.count, form.kv], ranking, **QUIETLY)
    ranking.click(chosen, None, form.model, show_progress="hidden", api_visibility="private").then(
        None, js="() => document.querySelector('#questions [role=tab]').click()"
    ).then(None, js="() => document.getElementById('estimate').click()")
