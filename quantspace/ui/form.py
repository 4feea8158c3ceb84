"""The form: which model, on which card, for which workload. And how a link fills it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import gradio as gr

from ..errors import UnknownGpu
from ..estimation.calculator import DEFAULT_RAM_GB, KV_DTYPES
from ..estimation.hardware import find_gpu, gpus
from ..hub.catalogue import bundled_models
from ..hub.demo import DEMO_ID, demo_config
from ..hub.presence import hub_reachable
from ..settings import settings
from ..units import gb
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
# What Gradio, Spaces and sign-in put into a page's address; none of it is ours to complain about.
_FOREIGN = frozenset({"__theme", "__sign", "__lang", "logs", "view", "oauth", "code", "state", "ref", "source"})


@dataclass
class Form:
    """The form's components, in the order in which handlers take their values."""

    model: gr.Dropdown
    gpu: gr.Dropdown
    context: gr.Textbox
    batch: gr.Number
    count: gr.Number
    kv: gr.Dropdown
    ram: gr.Number
    images: gr.Number

    def inputs(self) -> list[Any]:
        return [getattr(self, part.name) for part in fields(self)]


@dataclass
class Asked:
    """What a link asks for: values by parameter, and what was not understood."""

    values: dict[str, Any]
    ignored: list[str] = field(default_factory=list)


def build_form() -> tuple[Form, gr.HTML, gr.Button]:
    """Lay the form out in the current Blocks: its fields, models to begin with, and the button.

    A click on one of the models fires the `.click` of the second with `event.model`.
    """
    with gr.Row(elem_id="form-main"):
        model = gr.Dropdown(
            [DEMO_ID, *SMALL_MODELS, *(m for m in bundled_models() if m not in SMALL_MODELS)],
            value=DEMO_ID,
            label="Model",
            info="An id on the Hub, or the link of its page",
            allow_custom_value=True,
            scale=3,
            min_width=260,
            elem_id="model",
        )
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
            info="tokens: 8192, 32k",
            max_lines=1,
            min_width=100,
            elem_id="context",
        )
        batch = gr.Number(1, label="Batch", info="sequences", min_width=90, elem_id="batch")
        count = gr.Number(1, label="GPUs", info="1 to 8", min_width=80, elem_id="count")
        kv = gr.Dropdown(
            list(KV_DTYPES), value="auto", label="Cache dtype", info="auto: the model's", min_width=120, elem_id="kv"
        )
        ram = gr.Number(
            DEFAULT_RAM_GB, label="System RAM", info="GB, for layers left over", min_width=130, elem_id="ram"
        )
        images = gr.Number(0, label="Images", info="in a prompt", min_width=90, elem_id="images")
        button = gr.Button("Estimate", variant="primary", min_width=120, elem_id="estimate")
    return Form(model, gpu, context, batch, count, kv, ram, images), chips, button


def read_link(parameters: Mapping[str, str]) -> Asked:
    """Values of the form from a page's query parameters; broken or unknown ones are ignored and named."""
    asked = Asked({})
    readers = {
        "model": str.strip,
        "gpu": lambda text: find_gpu(text).id,
        "context": lambda text: str(int(text)),
        "batch": int,
        "count": int,
        "kv": _known_kv,
        "ram": float,
        "images": int,
    }
    for name, text in parameters.items():
        if name in _FOREIGN:
            continue
        try:
            asked.values[name] = readers[name](text)
        except (KeyError, ValueError, UnknownGpu):
            asked.ignored.append(name[:40])
    return asked


def opening_values(asked: Asked) -> list[Any]:
    """The form's values when the page opens: the link's, else what can be loaded from here."""
    first = SMALL_MODELS[0] if hub_reachable() else DEMO_ID
    known = demo_config()["max_position_embeddings"] if first == DEMO_ID and "model" not in asked.values else None
    context = str(known or settings().default_context)
    card = settings().default_gpu
    defaults = {"model": first, "gpu": card, "context": context, "batch": 1, "count": 1, "kv": "auto"}
    defaults |= {"ram": DEFAULT_RAM_GB, "images": 0}
    return list((defaults | asked.values).values())


def chips_html() -> str:
    """Models to begin with: real small ones first where there is a network, the demo where there is none."""
    online = hub_reachable()
    loadable = (*SMALL_MODELS, DEMO_ID) if online else (DEMO_ID,)
    return render("chips", loadable=loadable, known=WELL_KNOWN, demo=DEMO_ID, online=online)


def _known_kv(text: str) -> str:
    if text not in KV_DTYPES:
        raise ValueError(text)
    return text
