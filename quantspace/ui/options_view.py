"""The options of the load: what each default is and why, and what a change makes of the rows, before anything loads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from ..errors import BadInput, QuantSpaceError
from ..estimation.calculator import Estimate, estimate
from ..estimation.fit import FitRow
from ..estimation.quantized_cache import FORMATS
from ..estimation.weights import weight_bytes
from ..runtime.device_text import parse_limits, parse_map
from ..runtime.job import Job, LoadOptions
from ..runtime.machine import Machine, machine
from ..runtime.option_checks import ATTENTIONS, unavailable
from ..runtime.options import COMPUTE_DTYPES, defaults, settle, unquantized_modules, warnings
from ..runtime.placement import held_by_device
from .access import Access, token_of
from .complaint import error_html
from .form import Form
from .render import render

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_DEFAULT = ("Default", "")
_ATTENTION = "which code computes it"
_CACHE = "of keys and values, in the chat"
_PLACEMENTS = [("Default", ""), ("Limits for each device", "limits"), ("A map by hand", "map")]
_DOUBLE_QUANT = {"": None, "on": True, "off": False}
_DEFAULTS = ("", "", "", "", "", "", "", "")
_SEPARATORS = re.compile(r"[\s,;]+")


@dataclass
class OptionsForm:
    """The controls, in the order in which handlers take their values."""

    compute_dtype: gr.Dropdown
    double_quant: gr.Dropdown
    attention: gr.Dropdown
    kv_dtype: gr.Dropdown
    skip: gr.Textbox
    placement: gr.Radio
    limits: gr.Textbox
    map: gr.Textbox

    def inputs(self) -> list[Any]:
        return [getattr(self, part.name) for part in fields(self)]


@dataclass
class OptionsPlace:
    """The section with all that is in it."""

    section: gr.Accordion
    form: OptionsForm
    reset: gr.Button
    about: gr.HTML


def build_options() -> OptionsPlace:
    """Lay the options out in the current Blocks, closed."""
    with gr.Accordion("Options of the load", open=False, elem_id="load-options") as section:
        with gr.Row():
            dtypes = [_DEFAULT, *((name, name) for name in COMPUTE_DTYPES)]
            compute_dtype = _choice("Compute dtype", "of what is not quantized, too", dtypes, "compute-dtype")
            double_quant = _choice("Double quant", "of 4-bit scales", [_DEFAULT, "on", "off"], "double-quant")
            attention = _choice("Attention", _ATTENTION, _attentions({}), "attention")
            kv_dtype = _choice("KV cache", _CACHE, _caches({}), "kv-cache")
        skip = gr.Textbox(
            label="Modules that are not quantized",
            info="Beside those that never are: the beginning or the end of their names",
            placeholder="down_proj, model.layers.0",
            max_lines=1,
            elem_id="skip",
        )
        placement = gr.Radio(_PLACEMENTS, value="", label="Where modules go", elem_id="placement")
        limits = gr.Textbox(
            label="Limits",
            info="Of the weights; the disk holds none unless it has a limit",
            placeholder="cuda:0: 10 GB\ncpu: 24 GB\ndisk: 100 GB",
            lines=3,
            visible=False,
            elem_id="limits",
        )
        by_hand = gr.Textbox(
            label="Device map",
            info="A module and its device a line; * for the rest",
            placeholder="model.layers.0-11: cuda:0\nmodel.layers.12-31: cpu\n*: cuda:0",
            lines=4,
            visible=False,
            elem_id="device-map",
        )
        reset = gr.Button("Defaults", size="sm", elem_id="reset-options")
        about = gr.HTML(apply_default_css=False, elem_id="options-about")
    form = OptionsForm(compute_dtype, double_quant, attention, kv_dtype, skip, placement, limits, by_hand)
    return OptionsPlace(section, form, reset, about)


def options_of(
    compute_dtype: str,
    double_quant: str,
    attention: str,
    kv_dtype: str,
    skip: str,
    placement: str,
    limits: str,
    device_map: str,
) -> LoadOptions:
    """What was chosen.

    Raises:
        BadInput: a limit or a map is not one.
    """
    return LoadOptions(
        compute_dtype=compute_dtype or "",
        double_quant=_DOUBLE_QUANT.get(double_quant or ""),
        skip=tuple(name for name in _SEPARATORS.split(skip or "") if name),
        attention=attention or "",
        kv_dtype=kv_dtype or "",
        device_map=_given(parse_map(device_map), "map") if placement == "map" else (),
        max_memory=_given(parse_limits(limits), "limits") if placement == "limits" else (),
    )


def wire_options(place: OptionsPlace, form: Form, access: Access, button: gr.Button, job: gr.State) -> None:
    """Tell what the options do whenever they, or the model, change while the section is open."""
    opened = gr.State(False)
    controls = place.form.inputs()
    show = {
        "fn": show_options,
        "inputs": [opened, form.model, form.gpu, access.token, job, *controls],
        "outputs": place.about,
        "trigger_mode": "always_last",
        **_QUIET,
    }
    place.section.expand(_available, None, [opened, place.form.attention, place.form.kv_dtype], **_QUIET).then(**show)
    place.section.collapse(lambda: False, None, opened, **_QUIET)
    place.form.placement.change(_asked_for, place.form.placement, [place.form.limits, place.form.map], **_QUIET)
    settled = [part.change for part in controls]
    gr.on([*settled, form.model.submit, form.gpu.change, button.click, job.change], **show)
    place.reset.click(lambda: _DEFAULTS, None, controls, **_QUIET)


def show_options(
    opened: bool,
    model: str,
    card: str,
    oauth: gr.OAuthToken | None,
    typed_token: str,
    job: Any,
    *values: Any,
) -> str:
    """The defaults with their reasons, and what the chosen options make of the rows."""
    if not opened:
        return gr.skip()
    try:
        found = estimate(model, card, token=token_of(typed_token, oauth))
    except QuantSpaceError as error:
        return error_html(error)
    here = machine()
    try:
        options = options_of(*values)
        rows = list(_effects(found, options, here, _in_question(found, job)))
        complaint = ""
    except QuantSpaceError as error:
        options, rows, complaint = LoadOptions(), [], error_html(error)
    return render(
        "options",
        model=found.inventory.model_id,
        defaults=_named(defaults(found.inventory, here)),
        rows=rows,
        changed=options != LoadOptions(),
        complaint=complaint,
        warnings=warnings(options, found.inventory, here),
    )


@dataclass(frozen=True)
class Effect:
    """What options make of one row, in bytes.

    Attributes:
        mark: `loaded` or `recommended`; empty for others.
        devices: bytes held by each device, where the model is on several.
    """

    label: str
    mark: str
    before: int
    after: int
    devices: tuple[tuple[str, int], ...] = ()


def _effects(found: Estimate, options: LoadOptions, here: Machine, asked: tuple[str, str]) -> Iterable[Effect]:
    """The row in question, and every other that the options change.

    Raises:
        BadInput: the options can't be had for the row in question.
    """
    precision_id, mark = asked
    for row in found.rows:
        if not row.loadable:
            continue
        if row.precision.id == precision_id:
            yield _effect(row, options, here, mark)
            continue
        try:
            effect = _effect(row, options, here, "")
        except BadInput:  # it is told where that row is loaded
            continue
        if effect.after != effect.before:
            yield effect


def _effect(row: FitRow, options: LoadOptions, here: Machine, mark: str) -> Effect:
    inventory, precision = row.demand.inventory, row.precision
    settled = settle(options, inventory, precision, here)
    skipped = unquantized_modules(settled, here)
    variant = precision.with_options(settled.compute_dtype, settled.double_quant, skipped)
    devices = held_by_device(inventory, variant, settled.device_map) if settled.device_map else ()
    before, after = (weight_bytes(inventory, counted).held for counted in (precision, variant))
    return Effect(precision.label, mark, before, after, devices)


def _in_question(found: Estimate, job: Any) -> tuple[str, str]:
    """The row that was loaded last of this model, else the one that is recommended among those that load."""
    loadable = [row.precision.id for row in found.rows if row.loadable]
    if isinstance(job, Job) and job.model_id == found.inventory.model_id and job.precision in loadable:
        return job.precision, "loaded"
    if found.recommended in loadable:
        return str(found.recommended), "recommended"
    return (loadable[-1], "") if loadable else ("", "")


def _named(found: Any) -> list[tuple[str, Any]]:
    names = {
        "compute_dtype": "Compute dtype",
        "double_quant": "Double quant",
        "attention": "Attention",
        "kv_dtype": "KV cache",
        "skip": "Not quantized",
        "placement": "Where modules go",
    }
    return [(name, getattr(found, field)) for field, name in names.items()]


def _available() -> tuple[bool, Any, Any]:
    """The section is open, and offers what can be had here; what cannot is told with its reason."""
    missing = unavailable(machine())
    return (
        True,
        gr.update(choices=_attentions(missing), info=_reasons(missing, ATTENTIONS) or _ATTENTION),
        gr.update(choices=_caches(missing), info=_reasons(missing, FORMATS) or _CACHE),
    )


def _attentions(missing: dict[str, str]) -> list[Any]:
    return [_DEFAULT, *(name for name in ATTENTIONS if name not in missing)]


def _caches(missing: dict[str, str]) -> list[Any]:
    return [_DEFAULT, *((row.label, name) for name, row in FORMATS.items() if name not in missing)]


def _reasons(missing: dict[str, str], names: Iterable[str]) -> str:
    by_reason: dict[str, list[str]] = {}
    for name in names:
        if name in missing:
            by_reason.setdefault(missing[name], []).append(name)
    return "; ".join(f"{' and '.join(found)} {reason}" for reason, found in by_reason.items())


def _asked_for(placement: str) -> tuple[Any, Any]:
    return gr.update(visible=placement == "limits"), gr.update(visible=placement == "map")


def _given(found: Any, name: str) -> Any:
    """What was written, where it was to be written."""
    if not found:
        hints = {"map": "such as `*: cpu`", "limits": "such as `cpu: 24 GB`"}
        raise BadInput("No device was named.", f"Write a line {hints[name]}, or choose “Default”.")
    return found


def _choice(label: str, info: str, choices: list[Any], name: str) -> gr.Dropdown:
    return gr.Dropdown(choices, value="", label=label, info=info, min_width=150, elem_id=name)
