"""What a person's actions make of a conversation: a question asked, again, otherwise or not at all, and its answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..errors import BadInput, QuantSpaceError
from ..runtime import session
from ..runtime.job import Failed, Job, Phase, Sampling, Stats, Text
from ..runtime.remote import RemoteModel
from .complaint import error_html, failed_html
from .conversation import (
    Draft,
    History,
    answered,
    at_precision,
    before,
    draft_of,
    messages_of,
    question,
    stopped,
    typed,
    with_text,
    without_question,
)
from .conversation_file import conversation_file
from .progress import ProgressView

_EMPTY: Draft = {"text": "", "files": []}


@dataclass(frozen=True)
class Resort:
    """What a page goes back to where an answer breaks off before its first word."""

    history: History
    draft: Draft | None = None  # what had been typed; `None` where nothing was


def asked(draft: Draft | None, history: History | None) -> tuple[Any, ...]:
    """A draft becomes a question: what the message box, the conversation, the resort and the status are then."""
    history, draft = history or [], draft or _EMPTY
    if not draft["text"].strip() and not draft["files"]:
        empty = BadInput("The message is empty.", "Write something, then send it.")
        return gr.skip(), history, gr.skip(), error_html(empty)
    return _EMPTY, [*history, *question(draft)], Resort(history, draft), ""


def reply(
    history: History,
    job: Job | RemoteModel | None,
    resort: Resort | None,
    system: str,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    greedy: bool,
) -> Iterator[tuple[Any, str, Any]]:
    """Stream the answer to the last question: yields the conversation, the status line and the message box."""
    if not history or history[-1]["role"] != "user":
        yield history, gr.skip(), gr.skip()
        return
    if job is None:  # the app was started anew, or has forgotten this page
        gone = BadInput("The model is no longer in memory.", "Press Load on a row again; the conversation stays.")
        yield _gone_back(history, resort, error_html(gone))
        return
    try:
        sampling = Sampling(temperature, top_p, max_new_tokens, bool(greedy))
    except QuantSpaceError as error:
        yield _gone_back(history, resort, error_html(error))
        return
    view = ProgressView(f"{job.model_id} · {at_precision(job)}")
    answer = ""
    shown: History = []
    for event in session.chat(job, messages_of(history, system), sampling):
        if isinstance(event, Text) and not event.piece:
            yield gr.skip(), gr.skip(), gr.skip()  # a sign of life, so that a stop is noticed
        elif isinstance(event, Text | Stats):
            answer += getattr(event, "piece", "")
            stats = event if isinstance(event, Stats) else event.so_far
            shown = [answered(answer, stats, job, sampling)]
            yield [*history, *shown], "", gr.skip()
        elif isinstance(event, Failed):
            if answer:
                yield stopped([*history, *shown]), failed_html(event), gr.skip()
            else:
                yield _gone_back(history, resort, failed_html(event))
            return
        elif isinstance(event, Phase):
            yield gr.skip(), view.html(event), gr.skip()


def _gone_back(history: History, resort: Resort | None, complaint: str) -> tuple[Any, str, Any]:
    """As it was before the question, with what was typed in the message box again."""
    if resort is None:
        return without_question(history), complaint, draft_of(history)
    return resort.history, complaint, gr.skip() if resort.draft is None else resort.draft


def example(event: gr.SelectData, history: History | None) -> tuple[History, Resort]:
    """One of the questions that the empty chat offers."""
    before_it = history or []
    return [*before_it, *question({"text": event.value["text"], "files": []})], Resort(before_it)


def retried(event: gr.RetryData, history: History) -> tuple[History, Resort]:
    """The question of an answer, once more."""
    return before(history, event.index), Resort(history)


def edited(event: gr.EditData, history: History) -> tuple[History, Resort]:
    """A question in other words, to be answered anew. An error, or no words at all, leaves everything as it was."""
    old = with_text(history, event.index, typed(event.previous_value))
    new = with_text(history, event.index, event.value)
    return before(new, event.index) if event.value.strip() else old, Resort(old)


def undone(event: gr.UndoData, history: History) -> tuple[History, Draft]:
    """The conversation without its last question, which is in the message box again."""
    kept = before(history, event.index)
    return without_question(kept), draft_of(kept)


def cleared_of(history: History | None) -> tuple[History, str, History | None]:
    """An empty conversation, no complaint, and what can be brought back."""
    return [], "", stopped(history) if history else None


def exported(format_name: str, history: History | None, system: str | None) -> tuple[Any, str]:
    """The file to download, and the complaint where there is none."""
    try:
        return conversation_file(history or [], system or "", format_name), ""
    except QuantSpaceError as error:
        return None, error_html(error)
