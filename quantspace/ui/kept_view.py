"""Quantized copies on disk: keep the one that is loaded, see all of them, download one, push one to the Hub, delete.

A token that is typed here goes with the one push, from the page to the Hub, and is kept nowhere (see `access.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..errors import KeepFailed, QuantSpaceError
from ..hub import upload
from ..hub.upload import Uploaded
from ..precision import PRECISIONS, label_of
from ..runtime import kept, kept_disk, kept_rules, session
from ..runtime.job import Done, Failed, Job, Phase
from ..runtime.kept import KeptCopy
from ..runtime.kept_task import KeepTask
from ..settings import settings
from ..share.model_card import CardFacts, model_card
from ..units import gb
from ..web.archives import archive_bytes, archive_url
from .access import keep_nothing, token_of
from .complaint import error_html, failed_html
from .progress import ProgressView
from .render import render

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-action]');
  const key = button?.closest('[data-kept]').dataset.kept;
  if (!key || (button.dataset.action === 'delete' && !confirm('Delete this copy from the disk?'))) return;
  trigger('click', { action: button.dataset.action, key });
});
"""
_STEPS = {"read": "Computing checksums", "sent": "Sending"}
_FORGET = "() => ''"


@dataclass
class KeptPlace:
    """The components, from the offer below the readout to the form that pushes."""

    offer: gr.HTML
    keep: gr.Button
    progress: gr.HTML
    cancel: gr.Button
    section: gr.Accordion
    list: gr.HTML
    chosen: gr.State  # key of the copy that is to be pushed
    form: gr.Column
    title: gr.HTML
    name: gr.Textbox
    private: gr.Checkbox
    token: gr.Textbox
    push: gr.Button
    stop: gr.Button
    close: gr.Button
    pushed: gr.HTML


@dataclass(frozen=True)
class Row:
    """A copy as the list shows it."""

    copy: KeptCopy
    used: str
    url: str
    archive_bytes: int
    can_be_pushed: bool


def build_kept() -> KeptPlace:
    """Lay the offer and the closed section out in the current Blocks."""
    offer = gr.HTML(apply_default_css=False, elem_id="kept-offer")
    keep = gr.Button("Keep this copy", size="sm", visible=False, elem_id="keep-copy")
    progress = gr.HTML(apply_default_css=False, elem_id="keep-progress")
    cancel = gr.Button("Cancel", size="sm", visible=False, elem_id="keep-cancel")
    with gr.Accordion("Quantized copies on this disk", open=False, elem_id="kept") as section:
        listed = gr.HTML(apply_default_css=False, js_on_load=_CLICKS, elem_id="kept-list")
        chosen = gr.State("")
        with gr.Column(visible=False, elem_id="push-form") as form:
            title = gr.HTML(apply_default_css=False)
            name = gr.Textbox(
                label="Repository", info="It must not exist yet", max_lines=1, elem_id="push-name", max_length=200
            )
            private = gr.Checkbox(True, label="Private", elem_id="push-private")
            token = keep_nothing(
                gr.Textbox(
                    label="Write token",
                    info="Goes from here to the Hub alone, and is kept nowhere",
                    type="password",
                    placeholder="hf_…",
                    max_lines=1,
                    elem_id="push-token",
                )
            )
            with gr.Row():
                push = gr.Button("Push", variant="primary", size="sm", min_width=90, elem_id="push")
                stop = gr.Button("Cancel", size="sm", min_width=90, visible=False, elem_id="push-cancel")
                close = gr.Button("Close", size="sm", min_width=90, elem_id="push-close")
        pushed = gr.HTML(apply_default_css=False, elem_id="pushed")
    return KeptPlace(
        offer,
        keep,
        progress,
        cancel,
        section,
        listed,
        chosen,
        form,
        title,
        name,
        private,
        token,
        push,
        stop,
        close,
        pushed,
    )


def wire_kept(place: KeptPlace, job: gr.State, access_token: gr.Textbox, readout: gr.HTML) -> None:
    """Offer to keep what `readout` shows once it changes; `job` is what was loaded."""
    shown = [place.offer, place.keep]
    readout.change(offer, job, shown, **_QUIET)
    place.section.expand(list_html, access_token, place.list, **_QUIET)
    keeping = place.keep.click(
        keep_copy,
        [job, access_token],
        [place.progress, place.cancel, *shown, place.list, place.section],
        concurrency_limit=4,
        **_QUIET,
    )
    place.cancel.click(None, None, None, cancels=[keeping], **_QUIET).then(
        lambda job: ("", gr.update(visible=False), *offer(job)), job, [place.progress, place.cancel, *shown], **_QUIET
    )
    place.list.click(
        act,
        [access_token, place.token],
        [place.list, place.form, place.chosen, place.title, place.name, place.pushed],
        **_QUIET,
    ).then(offer, job, shown, **_QUIET)
    pushing = place.push.click(
        push_copy,
        [place.chosen, place.name, place.private, place.token, access_token],
        [place.pushed, place.stop, place.push, place.token],
        concurrency_limit=4,
        **_QUIET,
    )
    stopped = ("", gr.update(visible=False), gr.update(interactive=True))
    place.stop.click(lambda: stopped, None, [place.pushed, place.stop, place.push], cancels=[pushing], **_QUIET)
    place.close.click(lambda: (gr.update(visible=False), ""), None, [place.form, place.pushed], **_QUIET)
    place.close.click(None, None, place.token, js=_FORGET, **_QUIET)


def offer(job: Any) -> tuple[str, Any]:
    """What can be done with the loaded model, and whether there is a button for it."""
    if not isinstance(job, Job) or not kept_here(job):
        return "", gr.update(visible=False)
    refusal = kept_rules.refusal_to_keep(job.precision, job.options)
    if refusal is not None:
        html = render("kept_offer", state="refused", message=refusal.message, hint=refusal.hint)
        return html, gr.update(visible=False)
    copy = kept.copy_of(job)
    if copy is not None:
        return render("kept_offer", state="kept", size=copy.bytes), gr.update(visible=False)
    quick = job.sha != "bundled"
    html = render("kept_offer", state="offered", size=job.expected_bytes, quick=quick)
    return html, gr.update(visible=True, interactive=True)


def kept_here(job: Job) -> bool:
    """Whether a copy could make a load faster: where it quantizes, or casts to something smaller than was published."""
    row = PRECISIONS.get(job.precision)
    if row is None or row.method not in kept_rules.METHODS or not settings().kept_bytes:
        return False
    return row.quantizes or kept_rules.is_smaller(job)


def keep_copy(job: Job | None, oauth: gr.OAuthToken | None, typed: str) -> Iterator[list[Any]]:
    """Write the copy: progress, then the list with it."""
    if not isinstance(job, Job):
        return
    view = ProgressView(f"{job.model_id[:80]} · {label_of(job.precision)}")
    again = [gr.skip(), gr.update(interactive=True), gr.skip(), gr.skip()]
    busy = [gr.skip(), gr.update(interactive=False), gr.skip(), gr.skip()]
    yield [view.html(Phase("Asking whether it may be kept")), gr.update(visible=False), *busy]
    try:
        task = KeepTask.of(job)
    except KeepFailed as error:
        yield [error_html(error), gr.update(visible=False), *again]
        return
    for step in session.perform(job, task):
        if isinstance(step, Phase):
            yield [view.html(step), gr.update(visible=True), *busy]
        elif isinstance(step, Failed):
            yield [failed_html(step), gr.update(visible=False), *again]
        elif isinstance(step, Done):
            listed = list_html(oauth, typed)
            yield ["", gr.update(visible=False), *offer(job), listed, gr.update(open=True)]


def list_html(oauth: gr.OAuthToken | None, typed: str, note: str = "") -> str:
    """The copies that this visitor may see."""
    rows = [
        Row(
            copy,
            time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(copy.used)),
            archive_url(copy.key),
            archive_bytes(copy.manifest.files),
            _refusal_to_push(copy) is None,
        )
        for copy in kept.visible_to(token_of(typed, oauth))
    ]
    every = kept.copies()
    hidden = len(every) - len(rows)
    if hidden and not note:
        note = f"{hidden} more of models that are not open to everybody: use a token that may read them to see them."
    return render(
        "kept",
        copies=rows,
        total=sum(copy.bytes for copy in every),
        limit=settings().kept_bytes,
        note=note,
        deletable=_may_delete(),
    )


def act(event: gr.EventData, oauth: gr.OAuthToken | None, typed: str, write_token: str) -> list[Any]:
    """Delete the copy whose button was pressed, or open the form that pushes it."""
    unchanged = [gr.skip()] * 5
    try:
        copy = _seen(str(event.key), oauth, typed)
        if event.action == "delete" and _may_delete():
            kept_disk.delete(copy)
            return [list_html(oauth, typed), gr.update(visible=False), "", gr.skip(), gr.skip(), ""]
        if event.action == "push":
            name = upload.suggested_name(_user(write_token or token_of(typed, oauth)), *_named(copy))
            title = f"Push {copy.manifest.model_id} · {copy.label} ({gb(copy.bytes)}) to the Hub"
            heading = render("kept_offer", state="refused", message=title, hint="")
            return [gr.skip(), gr.update(visible=True), copy.key, heading, name, ""]
    except QuantSpaceError as error:
        return [list_html(oauth, typed, str(error)), *unchanged]
    return [gr.skip(), *unchanged]


def push_copy(
    key: str, oauth: gr.OAuthToken | None, name: str, private: bool, write_token: str, typed: str
) -> Iterator[list[Any]]:
    """Send a copy to a repository of the visitor's own, with its model card."""
    token = write_token or token_of(typed, oauth)
    idle = [gr.update(visible=False), gr.update(interactive=True), gr.skip()]
    busy = [gr.update(visible=True), gr.update(interactive=False), gr.skip()]
    try:
        copy = _seen(key, oauth, typed)
        refusal = _refusal_to_push(copy)
        if refusal is not None:
            raise refusal
        view = ProgressView(f"{copy.manifest.model_id[:80]} · {copy.label}")
        yield [view.html(Phase("Asking the Hub who you are")), *busy]
        account = upload.account_of(token)
        repo_id = upload.checked_name(name or upload.suggested_name(account.name, *_named(copy)), account.name)
        if not account.writes:
            raise upload.lacks_write(repo_id)
        files = {path: copy.folder / path for path in copy.manifest.files}
        for step in upload.upload(files, card_of(copy, repo_id, token), repo_id, token, private):
            if isinstance(step, Uploaded):
                phase = Phase(f"{_STEPS[step.step]}, in MB", step.done // 10**6, max(1, step.total // 10**6))
                yield [view.html(phase), *busy]
            else:
                yield [render("pushed", url=step), *idle[:2], ""]  # the token has done its work
    except QuantSpaceError as error:
        yield [error_html(error), *idle]


def card_of(copy: KeptCopy, repo_id: str, token: str | None) -> str:
    """The model card of a copy, with the licence of its original where the Hub knows it."""
    manifest = copy.manifest
    facts = CardFacts(
        repo_id=repo_id,
        base_id=manifest.model_id,
        base_sha=manifest.sha,
        precision=manifest.precision,
        architecture=manifest.architecture,
        footprint_bytes=manifest.footprint_bytes,
        held_bytes=manifest.held_bytes,
        file_bytes=copy.bytes,
        compute_dtype=manifest.compute_dtype,
        double_quant=manifest.double_quant,
        skip=manifest.skip,
        license=upload.license_of(manifest.model_id, manifest.sha, token),
        quality=kept.quality_of(copy),
        versions=manifest.versions,
    )
    return model_card(facts)


def _seen(key: str, oauth: gr.OAuthToken | None, typed: str) -> KeptCopy:
    """The copy of that name, if this visitor may know of it.

    Raises:
        BadInput: it is not there, or not for this visitor, which is all the same to them.
    """
    copy = kept.named(key)
    return copy if copy in kept.visible_to(token_of(typed, oauth)) else kept.named("")


def _may_delete() -> bool:
    """On a Space anybody may visit, and the copies are everybody's: there the bound alone makes room."""
    return not settings().on_space


def _refusal_to_push(copy: KeptCopy) -> KeepFailed | None:
    row = PRECISIONS.get(copy.manifest.precision)
    if row is not None and row.experts:
        return KeepFailed(f"{row.label} is in a format that this app alone reads.", "Push NF4 or INT8 instead.")
    return None


def _named(copy: KeptCopy) -> tuple[str, str]:
    return copy.manifest.model_id, copy.manifest.precision


def _user(token: str | None) -> str:
    """The name before the slash; without it where the Hub does not tell."""
    try:
        return upload.account_of(token).name
    except QuantSpaceError:
        return ""
