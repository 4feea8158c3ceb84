"""The form: which model, on which card, for which workload."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from ..estimation.calculator import DEFAULT_RAM_GB, KV_DTYPES
from ..estimation.hardware import gpus
from ..hub.demo import DEMO_ID
from ..hub.presence import hub_reachable
from ..settings import settings
from ..units import gb
from .model_field import build_model_field
from .render import render

# Small, open and able to chat: what a visitor with a network can load within a minute.
SMALL_MODELS = ("Qwen/Qwen3-0.6B", "HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen/Qwen2.5-0.5B-Instruct")
WELL_KNOWN = ("google/gemma-3-4b-it", "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-30B-A3B", "openai-community/gpt2")
_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-model]');
  if (button) trigger('click', {model: button.dataset.model});
});
"""


@dataclass
class Form:
    """The form's components, in the order in which handlers take their values."""

    model: gr.Textbox
    gpu: gr.Dropdown
    context: gr.Textbox
    batch: gr.Number
    count: gr.Number
    kv: gr.Dropdown
    ram: gr.Number
    images: gr.Number

    def inputs(self) -> list[Any]:
        return [getattr(self, part.name) for part in fields(self)]


def build_form() -> tuple[Form, gr.HTML, gr.Button]:
    """Lay the form out in the current Blocks: its fields, models to begin with, and the button.

    A click on one of the models fires the `.click` of the second with `event.model`.
    """
    with gr.Row(elem_id="form-main"):
        model = build_model_field()
        gpu = gr.Dropdown(
            [(f"{gpu.name} · {gb(gpu.usable_bytes)} usable", gpu.id) for gpu in gpus().values()],
            value=settings().default_gpu,
            label="GPU",
            info="What it must fit into",
            allow_custom_value=True,
            scale=2,
            min_width=220,
            elem_id="gpu",
        )
    chips = gr.HTML(apply_default_css=False, js_on_load=_CLICKS, elem_id="model-chips")
    with gr.Row(elem_id="form-workload"):
        context = gr.Textbox(
            str(settings().default_context),
            label="Context",
            info="tokens: 8192, 32k, 1M",
            max_lines=1,
            min_width=100,
            elem_id="context",
        )
        batch = gr.Number(1, label="Batch", info="sequences", min_width=90, elem_id="batch")
        count = gr.Number(1, label="GPUs", info="1 to 8", min_width=80, elem_id="count")
        kv = gr.Dropdown(
            list(KV_DTYPES), value="auto", label="Cache dtype", info="of the estimate", min_width=120, elem_id="kv"
        )
        ram = gr.Number(
            DEFAULT_RAM_GB, label="System RAM", info="GB, for layers left over", min_width=130, elem_id="ram"
        )
        images = gr.Number(0, label="Images", info="in a prompt", min_width=90, elem_id="images")
        button = gr.Button("Estimate", variant="primary", min_width=120, elem_id="estimate")
    return Form(model, gpu, context, batch, count, kv, ram, images), chips, button


def chips_html() -> str:
    """Models to begin with: real small ones first where there is a network, the demo where there is none."""
    online = hub_reachable()
    loadable = (*SMALL_MODELS, DEMO_ID) if online else (DEMO_ID,)
    return render("chips", loadable=loadable, known=WELL_KNOWN, demo=DEMO_ID, online=online)


def chosen(event: gr.EventData) -> str:
    """The model that was clicked on."""
    return str(event.model)
