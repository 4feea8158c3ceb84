"""Compare: one prompt to several precisions of the chosen model, side by side, with what each costs in quality."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from threading import Lock
from typing import Any

import gradio as gr
from cachetools import LRUCache

from ..errors import QuantSpaceError
from ..estimation.builder import inventory_for
from ..estimation.loadable import held_here, why_not
from ..estimation.weights import weight_bytes
from ..hub.reference import parse_reference
from ..precision import LOADABLE, label_of
from ..runtime.compare import DEFAULT_TEXT_TOKENS, Comparison, Question, Step, compare
from ..runtime.job import Sampling
from ..runtime.quality.task import MAX_TOKENS
from ..runtime.quality.text import MAX_CHARACTERS, EvaluationText, bundled_text, own_text
from ..settings import settings
from ..share.quality_words import QUALITY_COLUMNS, finding, text_words
from ..share.report import as_csv, as_json, as_markdown, file_name, model_name
from ..units import gb
from . import tickets
from .access import token_of
from .complaint import error_html
from .progress import ProgressView
from .render import render

DEFAULT_PRECISIONS = ("bf16", "nf4-dq")
DEFAULT_PROMPT = "What is quantization?"
BUNDLED, OWN, NONE = "bundled", "own", "none"
_TEXTS = [("The bundled text", BUNDLED), ("My own text", OWN), ("Not at all: answers only", NONE)]
_REFERENCES = [("In its own dtype", "published"), ("In FP32", "fp32"), ("None: perplexity only", "none")]
_STATES = {"waiting": "waits", "running": "at work", "done": "", "failed": "", "cancelled": "cancelled"}
_KEPT = 200  # comparisons whose files can be had
_SCRIPT = (files("quantspace.ui") / "compare.js").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Format:
    """A kind of file: its name to people, its ending, and how it is made."""

    label: str
    ending: str
    media_type: str
    make: Callable[[Comparison], str]


FORMATS = {
    "markdown": Format("Report as Markdown", "md", "text/markdown", as_markdown),
    "json": Format("Report as JSON", "json", "application/json", as_json),
    "csv": Format("Table as CSV", "csv", "text/csv", as_csv),
}


@dataclass
class Compare:
    """The components; `inputs` in the order in which the handler takes their values."""

    inputs: list[Any]
    run: gr.Button
    cancel: gr.Button
    progress: gr.HTML
    result: gr.HTML


def build_compare() -> Compare:
    """Lay the controls and the place of the answer out in the current Blocks."""
    precisions = gr.CheckboxGroup(
        [(row.label, row.id) for row in LOADABLE.values()],
        value=list(DEFAULT_PRECISIONS),
        label="Precisions of the model above",
        info="Loaded one after another; the unquantized model goes first, as the reference.",
        elem_id="compare-precisions",
    )
    prompt = gr.Textbox(DEFAULT_PROMPT, label="Prompt", lines=2, max_lines=6, elem_id="compare-prompt")
    source = gr.Radio(_TEXTS, value=BUNDLED, label="Measure quality on", elem_id="compare-text")
    own = gr.Textbox(
        label="Text",
        info="Some thousand words of the kind that the model is to work on. It stays on this machine.",
        lines=6,
        max_lines=12,
        max_length=MAX_CHARACTERS,
        visible=False,
        elem_id="compare-own",
    )
    with gr.Accordion("Settings of the comparison", open=False, elem_id="compare-settings"), gr.Row():
        reference = gr.Dropdown(
            _REFERENCES, value="published", label="Reference", info="the model unquantized", min_width=200
        )
        tokens = gr.Slider(
            256, MAX_TOKENS, DEFAULT_TEXT_TOKENS, step=256, label="Tokens of the text", info="at most", min_width=200
        )
        length = gr.Slider(
            1, settings().max_new_tokens, 128, step=1, label="Max new tokens", info="of each answer", min_width=200
        )
    with gr.Row():
        run = gr.Button("Compare", variant="primary", min_width=160, scale=0, elem_id="compare-run")
        cancel = gr.Button("Cancel", visible=False, min_width=160, scale=0, elem_id="compare-cancel")
    progress = gr.HTML(apply_default_css=False, elem_id="compare-progress")
    result = gr.HTML(
        apply_default_css=False, js_on_load=_SCRIPT, server_functions=[file_of_comparison], elem_id="compare-result"
    )
    source.change(
        lambda chosen: gr.update(visible=chosen == OWN), source, own, show_progress="hidden", api_visibility="private"
    )
    return Compare([precisions, prompt, source, own, reference, tokens, length], run, cancel, progress, result)


def wire_compare(place: Compare, model: gr.Textbox, token: gr.Textbox, asked: list[Any]) -> None:
    """Compare the model of the form, and stop at any time: what has been measured stays.

    Args:
        asked: events after which the model may be another, such as the tab's `select`.
    """
    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on(asked, offered, [model, token, place.inputs[0]], place.inputs[0], trigger_mode="always_last", **quick)
    ticket, states = gr.State(""), [place.progress, place.result, place.run, place.cancel]
    place.run.click(
        run_comparison,
        [ticket, model, token, *place.inputs],
        [ticket, *states],
        concurrency_limit=4,
        trigger_mode="multiple",  # "once" would swallow a press right after a cancel
        **quick,
    )
    place.cancel.click(cancelled, ticket, states, **quick)


def offered(model: str, oauth: gr.OAuthToken | None, typed_token: str, chosen: list[str]) -> Any:
    """The precisions that this machine can load of a model, with what each will hold; what was chosen stays chosen."""
    try:
        inventory = inventory_for(parse_reference(model), token_of(typed_token, oauth))
    except QuantSpaceError:  # the page says so above, and so does whoever runs a comparison
        return gr.skip()
    rows = [row for row in LOADABLE.values() if not why_not(inventory, row)]
    choices = [(f"{row.label} · {gb(weight_bytes(inventory, held_here(inventory, row)).held)}", row.id) for row in rows]
    ids = [row.id for row in rows]
    return gr.update(choices=choices, value=[name for name in chosen or () if name in ids])


def run_comparison(
    before: str,
    model: str,
    oauth: gr.OAuthToken | None,
    typed_token: str,
    precisions: list[str],
    prompt: str,
    source: str,
    own: str,
    reference: str,
    tokens: int,
    length: int,
) -> Iterator[list[Any]]:
    """The comparison as it grows: its ticket, progress, result, and which of the two buttons there is.

    The one `before` it gives way, where it is still under way.
    """
    ticket = tickets.next_ticket(before)
    try:
        question = Question(
            model,
            tuple(precisions),
            prompt,
            _text(source, own, model),
            int(tokens),
            reference,  # type: ignore[arg-type]
            sampling=Sampling(greedy=True, max_new_tokens=int(length)),
        )
        yield [ticket, "", gr.skip(), *_buttons(running=True)]
        with closing(compare(question, token_of(typed_token, oauth))) as steps:
            for shown in _shown(steps, question, ticket):
                yield [gr.skip(), *shown]
    except QuantSpaceError as error:
        yield [gr.skip(), error_html(error), gr.skip(), *_buttons(running=False)]


def _shown(steps: Iterator[Step], question: Question, ticket: str) -> Iterator[list[Any]]:
    view, precision = None, ""
    for step in steps:
        if fate := tickets.fate(ticket):
            yield cancelled(ticket) if fate == "cancelled" else [gr.skip()] * 4
            return
        remember(ticket, step.comparison)
        if step.phase is None:
            yield ["", comparison_html(step.comparison, ticket), *_buttons(running=False)]
            return
        if view is None or step.precision != precision:
            precision = step.precision
            view = ProgressView(f"{question.model[:80]} · {label_of(precision)}")
        html = comparison_html(step.comparison) if step.comparison.rows else ""
        # the buttons again: Gradio sends what changed, and may take back a change that isn't drawn yet
        yield [view.html(step.phase), html, *_buttons(running=True)]


def cancelled(ticket: str) -> list[Any]:
    """Stop a comparison: what has been measured until then stays, and can be kept."""
    tickets.cancel(ticket)
    comparison = cut(ticket)
    if comparison is None or not comparison.rows:
        return ["", gr.skip(), *_buttons(running=False)]
    measured = any(row.readout for row in comparison.rows)
    return ["", comparison_html(comparison, ticket if measured else ""), *_buttons(running=False)]


def _text(source: str, own: str, model: str) -> EvaluationText | None:
    if source == NONE:
        return None
    return own_text(own) if source == OWN else bundled_text(model.strip())


def comparison_html(comparison: Comparison, ticket: str = "") -> str:
    """A comparison so far; with a ticket its files can be had."""
    reference, text = comparison.reference, comparison.question.text
    judged = next((row.quality for row in comparison.rows if row.quality), None)
    measured = [row for row in comparison.rows if row.readout]
    return render(
        "compare",
        comparison=comparison,
        model=model_name(comparison),
        device=next((row.readout.device for row in measured), ""),
        measured=measured,
        judged=judged,
        columns=QUALITY_COLUMNS,
        method=text_words(judged, text.name) if judged and text else "",
        falls=any(row.quality and row.quality.ratio and row.quality.ratio.high < 1 for row in comparison.rows),
        found={row.precision: finding(row, reference) for row in comparison.rows},
        states=_STATES,
        ticket=ticket,
        formats=FORMATS,
    )


_comparisons: LRUCache[str, Comparison] = LRUCache(_KEPT)
_lock = Lock()


def remember(ticket: str, comparison: Comparison) -> None:
    """Keep a comparison as far as it has come, for those who want a file of it; one that was cut stays so."""
    with _lock:
        last = _comparisons.get(ticket)
        if last is None or not last.cancelled:
            _comparisons[ticket] = comparison


def cut(ticket: str) -> Comparison | None:
    """The comparison of a ticket, which is over now; nothing where it had not begun."""
    with _lock:
        comparison = _comparisons.get(ticket)
        if comparison is not None:
            comparison = _comparisons[ticket] = comparison.cut()
        return comparison


def file_of_comparison(given: object) -> dict[str, str] | None:
    """A file for `[ticket, format]`: its name, type and text; nothing where it is not at hand."""
    if not isinstance(given, list) or len(given) != 2 or not all(isinstance(text, str) for text in given):
        return None
    with _lock:
        comparison = _comparisons.get(given[0])
    kind = FORMATS.get(given[1])
    if comparison is None or kind is None:
        return None
    return {"name": f"{file_name(comparison)}.{kind.ending}", "type": kind.media_type, "text": kind.make(comparison)}


def _buttons(running: bool) -> tuple[Any, Any]:
    return gr.update(visible=not running), gr.update(visible=running)
