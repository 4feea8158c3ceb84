"""From the form to the fit table: asked at once, answered in words first where it takes a moment."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWorking
from typing import Any

import gradio as gr
from cachetools import LRUCache

from ..errors import QuantSpaceError
from ..estimation.calculator import Estimate, estimate
from ..hub.reference import ModelRef, parse_reference
from ..runtime.measured_speed import measurements
from ..share.finetuning import FIELDS, Finetuning
from .access import FORGET, Access, token_of
from .address import address_html, opened, query_of, tuned_by
from .complaint import error_html
from .finetune_view import FinetuneForm, filled
from .fit_table import table_html, waiting_html
from .form import Form, chips_html, chosen
from .model_field import SETTLED_MODEL
from .render import render

PATIENCE = 0.15  # seconds before a page says that it is working
QUIETLY: dict[str, Any] = {
    "trigger_mode": "always_last",
    "show_progress": "hidden",
    "concurrency_limit": 16,
    "api_visibility": "private",
}
_QUICK: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_newest: LRUCache[str | None, object] = LRUCache(10_000)  # session → its last question
_steps: LRUCache[str | None, int] = LRUCache(10_000)  # session → its last step through the browser's history
_estimates = ThreadPoolExecutor(max_workers=32, thread_name_prefix="estimate")


def show_estimate(
    model: str,
    card: str,
    context: float,
    batch: float,
    count: float,
    kv: str,
    ram: float,
    images: float,
    typed_token: str,
    asked_row: tuple[str, str],
    tuned: Finetuning,
    oauth: gr.OAuthToken | None,
    request: gr.Request,
) -> Iterator[tuple[Any, Any, Any]]:
    """The table for the form's values, and its query for the address bar.

    An error leaves the last table in place and says what is wrong. Who asks again does not wait for the first
    answer, and does not see it.
    """
    token, session, mine = token_of(typed_token, oauth), request.session_hash, object()
    _newest[session] = mine
    row = asked_row[1] if asked_row[0] == model else ""
    future = _estimates.submit(_answer, model, card, count, context, batch, kv, ram, images, token)
    try:
        try:
            found, asked = future.result(timeout=PATIENCE)
        except StillWorking:
            if _newest.get(session) is mine:
                yield gr.skip(), waiting_html(str(model)[:80]), gr.skip()
            found, asked = future.result()
        answer = table_html(found, asked, row), ""
    except QuantSpaceError as error:
        answer = gr.skip(), error_html(error)
    if _newest.get(session) is not mine:
        yield gr.skip(), gr.skip(), gr.skip()
        return
    query = query_of(model, card, context, batch, count, kv, ram, images, row, tuned)
    yield *answer, gr.skip() if query is None else address_html(query)


def _answer(
    model: str, card: str, count: Any, context: Any, batch: Any, kv: str, ram: Any, images: Any, token: str | None
) -> tuple[Estimate, ModelRef]:
    asked = parse_reference(model)
    found = estimate(
        model, card, count, context, batch, kv, ram_gb=ram, images=images, token=token, measured=measurements.on
    )
    return found, asked


def wire_estimate(
    page: gr.Blocks,
    form: Form,
    chips: gr.HTML,
    button: gr.Button,
    access: Access,
    table: gr.HTML,
    complaint: gr.HTML,
    link_note: gr.HTML,
    address: gr.HTML,
    tabs: gr.Tabs,
    training: FinetuneForm,
) -> None:
    """Ask anew whenever a value of the form is settled, a token is given or forgotten, or an address is gone to.

    The controls of fine-tuning ask for no table: the address alone follows them.
    """
    asked_row, tuned = gr.State(("", "")), gr.State(Finetuning())
    inputs = [*form.inputs(), access.token, asked_row, tuned]
    show = {"fn": show_estimate, "inputs": inputs, "outputs": [table, complaint, address], **QUIETLY}
    settled = [form.model.submit, access.token.submit, access.use.click]
    changed = [part.input for part in form.inputs() if part is not form.model]
    gr.on([*changed, form.context.submit, form.context.blur], **show, js=SETTLED_MODEL)
    show |= {"trigger_mode": "multiple"}  # those who name another model don't wait for the last one's answer
    gr.on([button.click, *settled], **show)
    access.forget.click(None, None, access.token, js=FORGET).then(**show)
    chips.click(chosen, None, form.model, **_QUICK).then(**show)
    controls = training.inputs()
    gr.on(
        [part.input for part in controls], _tuned, [*form.inputs(), asked_row, *controls], [tuned, address], **QUIETLY
    )
    gone_to = gr.State("")
    of_link = [gone_to, *form.inputs(), asked_row, link_note, tabs, tuned, *controls]
    follow = {"fn": _follow, "inputs": [gone_to, access.token], "outputs": [table, complaint, address]}
    follow |= {"trigger_mode": "multiple", "concurrency_limit": 16, **_QUICK}
    page.load(chips_html, None, chips, **_QUICK)
    page.load(_open, None, of_link, **_QUICK).then(**follow)
    address.click(_go, None, of_link, trigger_mode="multiple", **_QUICK).then(**follow)


def _open(request: gr.Request) -> list[Any]:
    return _filled(str(request.query_params))


def _go(event: gr.EventData, request: gr.Request) -> Any:
    """The form that an entry of the browser's history stands for; a step that arrives late is passed over."""
    session, step = request.session_hash, int(event.step)
    if step < _steps.get(session, 0):
        return gr.skip()
    _steps[session] = step
    return _filled(str(event.query))


def _follow(
    query: str, typed_token: str, oauth: gr.OAuthToken | None, request: gr.Request
) -> Iterator[tuple[Any, Any, Any]]:
    """The table that the newest link asks for: not what the form shows, which may be between two links."""
    link = opened(query)
    tuned = link.state.finetuning
    yield from show_estimate(*link.values(), typed_token, link.asked_row, tuned, oauth, request)


def _filled(query: str) -> list[Any]:
    """What a link makes of the form, the row to be marked, the note about what was not understood, and the tabs."""
    link = opened(query)
    ignored = render("ignored", names=link.ignored) if link.ignored else ""
    tabs = gr.Tabs(selected=link.tab)
    return [query, *link.values(), link.asked_row, ignored, tabs, link.state.finetuning, *filled(link.controls())]


def _tuned(*given: Any) -> tuple[Any, Any]:
    """What the controls of fine-tuning say, and the address with it; neither while one of them is half typed."""
    place = len(given) - len(FIELDS)
    *values, asked_row = given[:place]
    tuned = tuned_by(given[place:])
    row = asked_row[1] if asked_row[0] == values[0] else ""
    query = query_of(*values, row, tuned) if tuned else None
    return (gr.skip(), gr.skip()) if query is None else (tuned, address_html(query))
