"""The Lab: three older methods, each run on the CPU at a press, with progress, figures and what they show.

One experiment runs at a time, whoever asks: the others wait in the queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import gradio as gr

from ..errors import QuantSpaceError
from ..lab.apart import perform
from ..lab.experiments import BITS, GROUPS, KINDS, MOST_STEPS, SPARSITIES, DynamicInt8, Experiment, LowBits, Pruning
from ..lab.snippets import Snippet, dynamic_snippets, low_bits_snippets, pruning_snippets
from ..runtime.job import Failed, Phase
from . import tickets
from .complaint import error_html, failed_html
from .lab_answers import dynamic_html, low_bits_html, pruning_html
from .progress import ProgressView
from .render import render

_CSS = (files("quantspace.ui") / "lab.css").read_text(encoding="utf-8")
REDRAW = 0.15  # seconds between two pictures of something that goes on
WAITING = "Waiting for a turn, one experiment runs at a time"
_QUIETLY: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class Section:
    """One method: what it says of itself, and what becomes of its controls' values and of its result."""

    id: str
    title: str
    about: str
    snippets: Callable[[], list[Snippet]]
    experiment: Callable[..., Experiment]
    html: Callable[[Any, bool], str]


@dataclass
class Bench:
    """The components of one section; `controls` in the order in which the experiment takes their values."""

    section: Section
    controls: list[Any]
    run: gr.Button
    cancel: gr.Button
    progress: gr.HTML
    answer: gr.HTML


def build_lab() -> list[Bench]:
    """Lay the sections out in the current Blocks."""
    gr.HTML(f"<style>{_CSS}</style>" + render("lab_intro"), apply_default_css=False, padding=False)
    return [_build(section, _CONTROLS[section.id]) for section in SECTIONS]


def wire_lab(lab: Sequence[Bench]) -> None:
    """Run and stop each section's experiment."""
    for bench in lab:
        _wire(bench)


def _build(section: Section, controls: Callable[[], list[Any]]) -> Bench:
    about = render("lab_section", title=section.title, about=section.about)
    gr.HTML(about, apply_default_css=False, padding=False, elem_classes="lab-about")
    with gr.Row():
        inputs = controls()
    with gr.Row(elem_classes="lab-buttons"):
        run = gr.Button("Run", variant="primary", size="sm", elem_id=f"lab-{section.id}-run")
        cancel = gr.Button("Cancel", visible=False, size="sm", elem_id=f"lab-{section.id}-cancel")
    progress = gr.HTML(apply_default_css=False, elem_classes="lab-progress", elem_id=f"lab-{section.id}-progress")
    answer = gr.HTML(apply_default_css=False, elem_classes="lab-result", elem_id=f"lab-{section.id}")
    gr.HTML(render("lab_code", snippets=section.snippets()), apply_default_css=False, padding=False)
    return Bench(section, inputs, run, cancel, progress, answer)


def _wire(bench: Bench) -> None:
    section, ticket = bench.section, gr.State("")
    states = [bench.progress, bench.run, bench.cancel]

    def started(before: str) -> list[Any]:
        waiting = ProgressView(section.title).html(Phase(WAITING))
        return [waiting, *_buttons(running=True), tickets.next_ticket(before)]

    def carried_out(own: str, *values: Any) -> Iterator[list[Any]]:
        yield from run_section(section, values, own)

    def stopped(own: str) -> list[Any]:
        tickets.cancel(own)
        return _ended()

    bench.run.click(started, ticket, [*states, ticket], **_QUIETLY).then(
        carried_out,
        [ticket, *bench.controls],
        [*states, bench.answer],
        concurrency_id="lab",
        concurrency_limit=1,
        trigger_mode="multiple",  # "once" would swallow a press right after a cancel
        **_QUIETLY,
    )
    bench.cancel.click(stopped, ticket, states, **_QUIETLY)


def run_section(section: Section, values: Sequence[Any], ticket: str) -> Iterator[list[Any]]:
    """Values of the progress, both buttons and the answer, as the experiment goes on while its `ticket` counts."""
    view, result, drawn = ProgressView(section.title), None, 0.0
    try:
        experiment = section.experiment(*values)
    except QuantSpaceError as error:
        yield [*_ended(error_html(error)), gr.skip()]
        return
    phase = Phase("Starting")
    with closing(perform(experiment)) as events:
        for event in events:
            if fate := tickets.fate(ticket):  # who is cancelled has the last word, not who gave way
                yield [*_ended(), gr.skip()] if fate == "cancelled" else [gr.skip()] * 4
                return
            if isinstance(event, Failed):
                yield [*_ended(failed_html(event)), gr.skip()]
                return
            if isinstance(event, Phase):
                phase = event
            else:
                result = event
            if time.monotonic() - drawn >= REDRAW:
                drawn = time.monotonic()
                shown = gr.skip() if result is None else section.html(result, False)
                yield [view.html(phase), *_buttons(running=True), shown]
    yield [*_ended(), "" if result is None else section.html(result, True)]


def _ended(progress: str = "") -> list[Any]:
    return [progress, *_buttons(running=False)]


def _buttons(running: bool) -> list[Any]:
    return [gr.update(interactive=not running), gr.update(visible=running)]


def _dynamic_controls() -> list[Any]:
    choices = [(label, kind) for kind, label in KINDS.items()]
    return [gr.CheckboxGroup(choices, value=list(KINDS), label="Models", elem_id="lab-kinds")]


def _pruning_controls() -> list[Any]:
    choices = [(f"{share:.0%}", share) for share in SPARSITIES]
    return [
        gr.CheckboxGroup(choices, value=list(Pruning().sparsities), label="Share pruned, of the chat model", scale=3),
        gr.Dropdown(choices, value=0.5, label="Share pruned, of the one layer", min_width=200),
    ]


def _low_bits_controls() -> list[Any]:
    usual = LowBits()
    return [
        gr.Dropdown([(f"{bits} bits", bits) for bits in BITS], value=usual.bits, label="Weights in", min_width=120),
        gr.Dropdown(
            [(words, group) for group, words in GROUPS.items()], value=64, label="One scale for", min_width=150
        ),
        gr.Slider(10, MOST_STEPS, usual.steps, step=10, label="Training steps", min_width=220, elem_id="lab-steps"),
        gr.Checkbox(usual.control, label="Also train as long without rounding", min_width=240),
    ]


def _dynamic(kinds: Sequence[Any]) -> Experiment:
    return DynamicInt8(tuple(kinds))


def _pruning(sparsities: Sequence[float], layer_sparsity: float) -> Experiment:
    return Pruning(tuple(sparsities), layer_sparsity)


SECTIONS = (
    Section(
        "dynamic",
        "Dynamic int8",
        "PyTorch's oldest quantization: weights become 8-bit integers once, activations at every pass.",
        dynamic_snippets,
        _dynamic,
        dynamic_html,
    ),
    Section(
        "pruning",
        "Pruning",
        "Weights that matter least are set to zero, one by one or by whole rows. A zero takes as much room as any "
        "other number: what saves is to rebuild the layer without them.",
        pruning_snippets,
        _pruning,
        pruning_html,
    ),
    Section(
        "low-bits",
        "Few bits: after training, or trained for it",
        "Rounding a finished model (PTQ) against training it a little further with its weights rounded in every pass "
        "(QAT), on the demo chat model.",
        low_bits_snippets,
        LowBits,
        low_bits_html,
    ),
)
_CONTROLS: dict[str, Callable[[], list[Any]]] = {
    "dynamic": _dynamic_controls,
    "pruning": _pruning_controls,
    "low-bits": _low_bits_controls,
}
