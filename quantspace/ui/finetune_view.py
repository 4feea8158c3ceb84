"""Fine-tuning: what training the chosen model on the chosen card takes, term by term."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWorking
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from ..errors import QuantSpaceError
from ..estimation.builder import inventory_for, training_peak
from ..estimation.hardware import find_gpu
from ..estimation.inventory import Inventory
from ..estimation.training.finetune import FinetuneFit, finetune
from ..estimation.training.optimizers import OPTIMIZERS
from ..estimation.training.workload import METHODS, FinetuneWorkload
from ..hub.reference import parse_reference
from ..precision import PRECISIONS
from ..share.finetuning import Finetuning
from .access import token_of
from .complaint import error_html
from .fit_table import VERDICT_WORDS
from .render import render

_METHODS = [
    ("QLoRA: adapters on a quantized base", "qlora"),
    ("LoRA: adapters", "lora"),
    ("Full: every weight", "full"),
]
PATIENCE = 0.3  # seconds before what is assumed is shown
_watching = ThreadPoolExecutor(max_workers=4, thread_name_prefix="watch")
_TARGETS = [("All linear layers", "all-linear"), ("Attention: what PEFT takes by itself", "attention")]


@dataclass
class FinetuneForm:
    """The controls of training, in the order in which handlers take their values: that of `Finetuning`."""

    method: gr.Dropdown
    base: gr.Dropdown
    rank: gr.Number
    targets: gr.Dropdown
    sequence: gr.Number
    step_batch: gr.Number
    optimizer: gr.Dropdown
    checkpointing: gr.Checkbox

    def inputs(self) -> list[Any]:
        return [getattr(self, part.name) for part in fields(self)]


def build_finetune() -> tuple[FinetuneForm, gr.HTML]:
    """Lay the controls and the place of the answer out in the current Blocks."""
    first = Finetuning()
    with gr.Row(elem_id="finetune-form"):
        method = gr.Dropdown(_METHODS, value=first.method, label="Method", min_width=230, scale=2)
        base = gr.Dropdown(
            _choices(first.method),
            value=first.precision,
            label="Base weights",
            min_width=210,
            allow_custom_value=True,  # while the method changes, a question may come with the base before it
        )
        rank = gr.Number(first.rank, label="Rank", info="of the adapters", min_width=90, precision=0)
        targets = gr.Dropdown(_TARGETS, value=first.targets, label="Adapted layers", min_width=230, scale=2)
    with gr.Row(elem_id="finetune-steps"):
        sequence = gr.Number(first.sequence, label="Sequence", info="tokens", min_width=100, precision=0)
        batch = gr.Number(first.step_batch, label="Batch", info="sequences a step", min_width=90, precision=0)
        optimizer = gr.Dropdown(list(OPTIMIZERS), value=first.optimizer, label="Optimizer", min_width=190)
        checkpointing = gr.Checkbox(first.checkpointing, label="Gradient checkpointing", min_width=190)
    answer = gr.HTML(apply_default_css=False, elem_id="finetune-answer")
    method.input(_base_of, method, base, show_progress="hidden", api_visibility="private")
    return FinetuneForm(method, base, rank, targets, sequence, batch, optimizer, checkpointing), answer


def show_finetune(
    model: str, card: str, oauth: gr.OAuthToken | None, typed_token: str, *controls: Any
) -> Iterator[str]:
    """The answer for the form's values, or what is wrong with them: assumed at once, then watched."""
    token = token_of(typed_token, oauth)
    try:
        workload = FinetuneWorkload(**dict(zip(_NAMES, controls, strict=True)))
        reference, gpu = parse_reference(model), find_gpu(card)
        inventory = inventory_for(reference, token)
        peak = _watching.submit(training_peak, reference, workload, token)
        try:
            known = peak.result(timeout=PATIENCE)
        except StillWorking:
            yield finetune_html(inventory, finetune(inventory, gpu, workload), watching=True)
            known = peak.result()
        yield finetune_html(inventory, finetune(inventory, gpu, workload, known))
    except QuantSpaceError as error:
        yield error_html(error)


def finetune_html(inventory: Inventory, fit: FinetuneFit, watching: bool = False) -> str:
    """One verdict with its terms; `watching` says that a better one is on its way."""
    scale = 1.04 * max(fit.usable_bytes, fit.total_bytes)
    return render(
        "finetune",
        model=inventory.model_id,
        fit=fit,
        watching=watching,
        words=VERDICT_WORDS,
        line=100 * fit.usable_bytes / scale,
        segments=[{"term": term, "percent": 100 * term.bytes / scale} for term in fit.terms],
    )


_NAMES = ("method", "precision", "rank", "targets", "sequence", "batch", "optimizer", "checkpointing")


def filled(controls: Sequence[Any]) -> list[Any]:
    """What a link makes of the form: its values, with the bases that the method takes."""
    method, base, *others = controls
    return [method, gr.update(choices=_choices(method), value=base), *others]


def _choices(method: str) -> list[tuple[str, str]]:
    return [(PRECISIONS[name].label, name) for name in METHODS[method]]


def _base_of(method: str) -> Any:
    return gr.update(choices=_choices(method), value=METHODS[method][0])
