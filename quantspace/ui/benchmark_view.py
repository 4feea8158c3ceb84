"""Benchmarks of the model that is loaded: pick one, watch it, and set it beside those before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..errors import QuantSpaceError
from ..precision import label_of
from ..runtime import benchmarks, session
from ..runtime.benchmarks import BenchmarkResult, BenchmarkTask
from ..runtime.job import Done, Failed, Job, Phase
from .complaint import error_html, failed_html
from .progress import ProgressView
from .render import render

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
Rows = list[dict[str, Any]]


@dataclass
class BenchmarkPlace:
    """The components, from the choice to the results."""

    choice: gr.Dropdown
    limit: gr.Number
    run: gr.Button
    cancel: gr.Button
    progress: gr.HTML
    results: gr.HTML
    rows: gr.State


def build_benchmarks() -> BenchmarkPlace | None:
    """Lay the section out in the current Blocks; `None` where the harness is missing, which it then says."""
    with gr.Accordion("Benchmarks", open=False, elem_id="benchmarks"):
        offered = benchmarks.offered()
        gr.HTML(render("benchmarks_intro", offered=offered.values(), missing=benchmarks.missing()))
        if benchmarks.missing():
            return None
        with gr.Row(equal_height=True):
            choice = gr.Dropdown(
                [(found.label, task) for task, found in offered.items()], value=next(iter(offered)), label="Benchmark",
                min_width=160, elem_id="benchmark",
            )  # fmt: skip
            limit = gr.Number(
                20, label="Questions", info="more of them, a narrower interval", precision=0, minimum=1,
                maximum=benchmarks.MAX_QUESTIONS, min_width=120, elem_id="benchmark-limit",
            )  # fmt: skip
        run = gr.Button("Run the benchmark", size="sm", elem_id="benchmark-run")
        cancel = gr.Button("Cancel", size="sm", visible=False, elem_id="benchmark-cancel")
        progress = gr.HTML(apply_default_css=False, elem_id="benchmark-progress")
        results = gr.HTML(apply_default_css=False, elem_id="benchmark-results")
        rows = gr.State([])
    return BenchmarkPlace(choice, limit, run, cancel, progress, results, rows)


def wire_benchmarks(place: BenchmarkPlace, job: gr.State) -> None:
    """Run the chosen benchmark on the model of `job`."""
    outputs = [place.progress, place.cancel, place.rows, place.results]
    inputs = [job, place.choice, place.limit, place.rows]
    running = place.run.click(run_benchmark, inputs, outputs, concurrency_limit=2, **_QUIET)
    stopped = ("", gr.update(visible=False))
    place.cancel.click(lambda: stopped, None, outputs[:2], cancels=[running], **_QUIET)


def run_benchmark(job: Job | None, task: str, limit: float, rows: Rows) -> Iterator[tuple[Any, ...]]:
    """Progress, and then the result below those before."""
    off, on = gr.update(visible=False), gr.update(visible=True)
    try:
        if not isinstance(job, Job):
            raise QuantSpaceError("No model is in this machine's memory.", "Press Load on a row first.")
        asked = BenchmarkTask.of(task, limit)
    except QuantSpaceError as error:
        yield error_html(error), off, gr.skip(), gr.skip()
        return
    view = ProgressView(f"{job.model_id} · {label_of(job.precision)}")
    for event in session.perform(job, asked):
        if isinstance(event, Phase):
            yield view.html(event), on, gr.skip(), gr.skip()
        elif isinstance(event, Failed):
            yield failed_html(event), off, gr.skip(), gr.skip()
        elif isinstance(event, Done):
            rows = [*rows, _row(job, asked, event.result)]
            yield "", off, rows, render("benchmarks", rows=rows)


def _row(job: Job, asked: BenchmarkTask, result: BenchmarkResult) -> dict[str, Any]:
    spread = f" ± {196 * result.stderr:.1f}" if result.stderr is not None else ""
    return {
        "model": job.model_id,
        "precision": label_of(job.precision),
        "benchmark": asked.benchmark.label,
        "metric": result.metric,
        "value": f"{100 * result.value:.1f}{spread} %",
        "questions": f"{result.questions:,}",
        "seconds": f"{result.seconds:,.0f} s",
        "harness": result.harness,
    }
