"""What an experiment of the Lab found, as HTML: what it shows in words, its table, its chart."""

from __future__ import annotations

from typing import Any

from ..lab.conclusions import loss, of_dynamic, of_low_bits, of_pruning
from ..lab.experiments import FILES, KINDS, PTQ, QAT, DynamicResult, LowBitsResult, PruningResult, Result
from .lab_chart import Chart, Level, Line, chart_html
from .render import render


def dynamic_html(result: DynamicResult, whole: bool) -> str:
    """The table of files, outputs and seconds. Nothing before the first row."""
    if not result.rows:
        return ""
    return _answer("lab_dynamic", result, of_dynamic(result), whole, kinds=KINDS, files=FILES)


def pruning_html(result: PruningResult, whole: bool) -> str:
    """The layer's states, the curve of the loss, and its table."""
    return _answer("lab_pruning", result, of_pruning(result), whole, chart=_pruning_chart(result))


def low_bits_html(result: LowBitsResult, whole: bool) -> str:
    """The curve of training, and the table of losses."""
    return _answer("lab_low_bits", result, of_low_bits(result), whole, chart=_training_chart(result))


def _answer(template: str, result: Result, sentences: list[str], whole: bool, **more: Any) -> str:
    how = {"nats": loss, "percent": _percent, "ms": _milliseconds}
    return render(template, result=result, sentences=sentences, whole=whole, **how, **more)


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def _pruning_chart(result: PruningResult) -> str:
    if not result.models:
        return ""
    scattered = [(0.0, result.loss), *((model.sparsity, model.loss_scattered) for model in result.models)]
    neurons = [(0.0, result.loss), *((model.sparsity, model.loss_rebuilt) for model in result.models)]
    return chart_html(
        Chart(
            caption="Loss over the share pruned, with scattered zeros and with neurons taken out; the table has it.",
            x_label="share of the feed-forward weights pruned",
            y_label="loss, each line ten times the one below",
            x_range=(0, 1),
            x_ticks=[(quarter / 4, f"{quarter / 4:.0%}") for quarter in range(5)],
            lines=[Line("scattered zeros", 0, scattered), Line("whole neurons out", 5, neurons)],
            logarithmic=True,
        )
    )


def _training_chart(result: LowBitsResult) -> str:
    if len(result.curve) < 2:
        return ""
    points = list(enumerate(result.curve, start=1))
    reached = [(PTQ, 2), (QAT, 5)]
    levels = [Level(name, tone, state.loss) for name, tone in reached if (state := result.state(name))]
    last = len(points)
    return chart_html(
        Chart(
            caption=f"Training loss of {last} steps, from {points[0][1]:.3g} to {points[-1][1]:.3g}.",
            x_label="step of training",
            y_label="loss",
            x_range=(1, last),
            x_ticks=[(1, "1"), (last, str(last))],
            lines=[Line("training, each step", 0, points, dots=False)],
            levels=levels,
        )
    )
