"""Gradio's named endpoints: the same answers as the page, for `gradio_client`.

An error is `{"error": {"code", "message", "hint"}}`, as the answer itself: Gradio's own endpoints know
only 200 and a bare 500. Plain routes with HTTP's statuses, and the tools of agents, are in `web/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import gradio as gr

from .errors import BadInput, QuantSpaceError
from .estimation.builder import inventory_for, training_peak
from .estimation.hardware import find_gpu
from .estimation.training.finetune import finetune as fit_finetune
from .estimation.training.workload import FinetuneWorkload
from .hub.reference import parse_reference
from .runtime import session
from .runtime.job import Event, Failed, Job, Loaded, Message, Phase, Sampling, Stats, Text
from .web import answers


def estimate(
    model: str,
    gpu: str = "t4",
    gpu_count: int = 1,
    context: int = 8192,
    batch: int = 1,
    kv_dtype: str = "auto",
    revision: str = "main",
) -> dict[str, Any]:
    """Tell which precisions of a model fit a GPU, with exact weight bytes and the reason for each verdict.

    Where memory is short, layers may be left to 32 GB of system memory: the verdict is then offload.

    Args:
        model: Id on the Hugging Face Hub such as google/gemma-3-4b-it, or the link of its page.
        gpu: Id or name of a card, such as t4, a100-80gb or rtx-4090; see gpus for all.
        gpu_count: Number of like GPUs, 1 to 8.
        context: Tokens in each sequence.
        batch: Sequences at once.
        kv_dtype: Dtype of the KV cache: auto, bfloat16, float16, float32, fp8, int4 or int2.
        revision: Branch, tag or commit of the model.
    """
    try:
        return answers.estimate(
            model, gpu=gpu, gpu_count=gpu_count, context=context, batch=batch, kv_dtype=kv_dtype, revision=revision
        )
    except QuantSpaceError as error:
        return {"error": error.as_data()}


def gpus() -> list[dict[str, Any]]:
    """List the GPUs that can be asked about, with their usable memory in bytes."""
    return answers.gpus()


def inventory(model: str, precision: str = "nf4-dq", revision: str = "main") -> dict[str, Any]:
    """List every layer of a model with its bytes by storage dtype, before anything is loaded.

    Args:
        model: Id on the Hugging Face Hub, or the link of its page.
        precision: One of fp32, bf16, fp16, int8, nf4, nf4-dq, fp4, nf4-moe, native, int8-ao, fp8-ao, int4-ao,
            awq-4bit, gptq-4bit, mxfp4.
        revision: Branch, tag or commit of the model.
    """
    try:
        return answers.inventory(model, precision, revision)
    except QuantSpaceError as error:
        return {"error": error.as_data()}


def finetune(
    model: str,
    gpu: str = "t4",
    method: str = "qlora",
    precision: str = "nf4-dq",
    rank: int = 16,
    targets: str = "all-linear",
    batch: int = 1,
    sequence: int = 2048,
    optimizer: str = "paged-adamw-8bit",
    checkpointing: bool = True,
    revision: str = "main",
) -> dict[str, Any]:
    """Tell whether fine-tuning a model fits one GPU, term by term with formulas, and how long a sequence could be.

    Args:
        model: Id on the Hugging Face Hub, or the link of its page.
        gpu: Id or name of a card; see gpus for all.
        method: qlora, lora or full.
        precision: Of the base weights: nf4-dq, nf4, fp4 or int8 for qlora; bf16, fp16 or fp32 otherwise.
        rank: Of the adapters.
        targets: Layers that are adapted: all-linear, or attention as PEFT takes by itself.
        batch: Sequences a step.
        sequence: Tokens in each sequence.
        optimizer: adamw, adamw-8bit, paged-adamw-8bit or sgd.
        checkpointing: Whether activations are computed again in the backward pass.
        revision: Branch, tag or commit of the model.
    """
    try:
        workload = FinetuneWorkload(method, precision, rank, targets, batch, sequence, optimizer, checkpointing)
        reference, card = parse_reference(model, revision), find_gpu(gpu)
        found, peak = inventory_for(reference), training_peak(reference, workload)
        return {"model": found.model_id, **fit_finetune(found, card, workload, peak).as_data()}
    except QuantSpaceError as error:
        return {"error": error.as_data()}


def choose_gpu(
    model: str, context: int = 8192, batch: int = 1, kv_dtype: str = "auto", revision: str = "main"
) -> dict[str, Any]:
    """Tell the smallest GPU and the cheapest Space that a model fits on, precision by precision.

    Args:
        model: Id on the Hugging Face Hub, or the link of its page.
        context: Tokens in each sequence.
        batch: Sequences at once.
        kv_dtype: Dtype of the KV cache: auto, bfloat16, float16, float32, fp8, int4 or int2.
        revision: Branch, tag or commit of the model.
    """
    try:
        return answers.find_gpu(model, context, batch, kv_dtype, revision)
    except QuantSpaceError as error:
        return {"error": error.as_data()}


def models_for_gpu(
    gpu: str = "t4", gpu_count: int = 1, context: int = 8192, batch: int = 1, kv_dtype: str = "auto"
) -> dict[str, Any]:
    """List the models of the catalogue that fit a GPU, the largest first, each at the best precision that fits.

    Args:
        gpu: Id or name of a card; see gpus for all.
        gpu_count: Number of like GPUs, 1 to 8.
        context: Tokens in each sequence.
        batch: Sequences at once.
        kv_dtype: Dtype of the KV cache: auto, bfloat16, float16, float32, fp8, int4 or int2.
    """
    try:
        return answers.models_for_gpu(gpu, gpu_count, context, batch, kv_dtype)
    except QuantSpaceError as error:
        return {"error": error.as_data()}


def load(model: str, precision: str = "nf4-dq", revision: str = "main") -> Iterator[dict[str, Any]]:
    """Load one variant of a model on this machine; streams progress and ends with what it really holds.

    Args:
        model: Id on the Hugging Face Hub, or the link of its page.
        precision: One of fp32, bf16, fp16, int8, nf4, nf4-dq, fp4.
        revision: Branch, tag or commit of the model.
    """
    job: Job | None = None
    for event in session.load_model(model, precision, revision):
        if isinstance(event, Job):
            job = event
        else:
            yield _event_data(event, job)


def chat(
    model: str,
    prompt: str,
    precision: str = "nf4-dq",
    system: str = "",
    temperature: float = 0.7,
    top_p: float = 0.95,
    max_new_tokens: int = 256,
    greedy: bool = True,
    revision: str = "main",
) -> Iterator[dict[str, Any]]:
    """Ask one variant of a model, loading it first where needed; streams text and ends with statistics.

    Args:
        model: Id on the Hugging Face Hub, or the link of its page.
        prompt: What to ask.
        precision: One of fp32, bf16, fp16, int8, nf4, nf4-dq, fp4.
        system: System prompt; empty for none.
        temperature: Above 0; used unless greedy.
        top_p: From 0 to 1; used unless greedy.
        max_new_tokens: Length of the answer at most.
        greedy: Always take the likeliest token.
        revision: Branch, tag or commit of the model.
    """
    try:
        sampling = Sampling(temperature, top_p, max_new_tokens, bool(greedy))
        messages = [Message("system", _text("System prompt", system)), Message("user", _text("Prompt", prompt))]
    except QuantSpaceError as error:
        yield {"error": error.as_data()}
        return
    for event in session.ask(model, precision, [m for m in messages if m.content.strip()], sampling, revision):
        yield _event_data(event, None)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str | None):
        raise BadInput(f"{name} is not a text.", "Give a text, or leave it out.")
    return value or ""


def add_endpoints() -> None:
    """Register the endpoints in the current Blocks."""
    gr.api(estimate, api_name="estimate", queue=False)
    gr.api(gpus, api_name="gpus", queue=False)
    gr.api(inventory, api_name="inventory", queue=False)
    gr.api(finetune, api_name="finetune", queue=False)
    gr.api(choose_gpu, api_name="choose_gpu", queue=False)
    gr.api(models_for_gpu, api_name="models_for_gpu", queue=False)
    gr.api(load, api_name="load", concurrency_limit=4)
    gr.api(chat, api_name="chat", concurrency_limit=8)


def _event_data(event: Event, job: Job | None) -> dict[str, Any]:
    match event:
        case Failed():
            return {"error": asdict(event)}
        case Phase():
            return {"phase": asdict(event)}
        case Text():
            return {"text": event.piece}
        case Stats():
            return {"stats": asdict(event)}
        case Loaded():
            readout = event.readout
            data = {name: value for name, value in asdict(readout).items() if name != "tensors"}
            assert job is not None
            data |= {
                "estimated_footprint_bytes": job.expected_footprint,
                "estimated_held_bytes": job.expected_bytes,
                "layers": answers.layers(readout.tensors),
            }
            return {"readout": data}
