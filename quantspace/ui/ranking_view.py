"""What fits a card: the catalogue's models, the most capable first."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ..errors import QuantSpaceError
from ..estimation.advice import Ranked, what_fits
from ..estimation.calculator import hardware_and_workload
from ..estimation.speed.expected import SpeedRange, decode_speed
from ..estimation.workload import Hardware, Workload
from ..runtime.measured_speed import measurements
from .complaint import error_html
from .fit_table import VERDICT_WORDS
from .render import render

_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-model]');
  if (button) trigger('click', {model: button.dataset.model});
});
"""


def build_ranking() -> gr.HTML:
    """The place of the ranking; a click on a model fires `.click` with `event.model`."""
    return gr.HTML(apply_default_css=False, js_on_load=_CLICKS, elem_id="ranking")


def show_ranking(card: str, context: Any, batch: Any, count: Any, kv: Any) -> str:
    """The ranking for the form's values, or what is wrong with them."""
    try:
        hardware, workload = hardware_and_workload(card, count, context, batch, kv, 0)
    except QuantSpaceError as error:
        return error_html(error)
    found = what_fits(hardware.gpu, hardware.count, workload)
    speeds = {row.model_id: _speed(row, hardware, workload) for row in found.ranked}
    fitting = sum(1 + len(row.also) for row in found.ranked)
    return render(
        "ranking",
        found=found,
        fitting=fitting,
        hardware=hardware,
        workload=workload,
        speeds=speeds,
        words=VERDICT_WORDS,
    )


def _speed(row: Ranked, hardware: Hardware, workload: Workload) -> SpeedRange | None:
    measured = measurements.on(hardware.gpu, row.model_id, row.precision.id)
    return decode_speed(row.inventory, row.precision, hardware.gpu, hardware.count, workload, measured=measured)
