"""The chat beside the readout: settings, streaming, stop, retry, undo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..errors import QuantSpaceError
from ..hub.demo import DEMO_ID
from ..runtime import session
from ..runtime.job import Failed, Job, Message, Phase, Sampling, Stats, Text
from ..settings import settings
from .complaint import error_html, failed_html
from .progress import ProgressView

History = list[dict[str, Any]]

NOT_LOADED = "Press **Load** on a row above: the chat opens when its model is in memory."
DEMO_QUESTIONS = (
    "What is quantization?",
    "What is NF4?",
    "What is double quantization?",
    "Why does a long context cost memory?",
)
_STATS_BEGIN = "\n\n<small class='qs-stats'>"
_STATS_END = "</small>"  # left open while an answer streams
# The box is closed while an answer streams; whoever types with keys goes on where they were.
_FOCUS = """() => setTimeout(() => matchMedia('(pointer: fine)').matches
  && document.querySelector('#message textarea').focus({preventScroll: true}), 100)"""
_ENDINGS = {"length": "cut at max new tokens", "stopped": "stopped"}


@dataclass
class Chat:
    """The chat's components."""

    panel: gr.Column
    bot: gr.Chatbot
    box: gr.Textbox
    send: gr.Button
    stop: gr.Button
    clear: gr.Button
    status: gr.HTML
    settings: list[Any]


def build_chat() -> Chat:
    """Lay the chat out in the current Blocks."""
    with gr.Column(elem_id="chat", min_width=320) as panel:
        bot = gr.Chatbot(
            label="Chat",
            height=460,
            placeholder=NOT_LOADED,
            elem_id="chatbot",
            buttons=["copy"],
            feedback_options=None,
            layout="bubble",
            group_consecutive_messages=False,
        )
        status = gr.HTML(apply_default_css=False, elem_id="chat-status")
        with gr.Row(elem_id="chat-entry"):
            box = gr.Textbox(
                show_label=False,
                label="Message",
                placeholder="Ask something",
                lines=1,
                max_lines=6,
                scale=6,
                min_width=160,
                container=False,
                interactive=False,
                elem_id="message",
            )
            send = gr.Button("Send", variant="primary", min_width=70, scale=1, interactive=False, elem_id="send")
            stop = gr.Button("Stop", variant="stop", min_width=70, scale=1, visible=False, elem_id="stop")
            clear = gr.Button("Clear", min_width=70, scale=1, elem_id="clear")
        values = _build_settings()
    return Chat(panel, bot, box, send, stop, clear, status, values)


def _build_settings() -> list[Any]:
    with gr.Accordion("Settings of the answer", open=False, elem_id="chat-settings"):
        system = gr.Textbox(label="System prompt", lines=2, placeholder="None", elem_id="system")
        with gr.Row():
            greedy = gr.Checkbox(True, label="Greedy", info="always the likeliest token", min_width=200)
            length = gr.Slider(
                1, settings().max_new_tokens, 256, step=1, label="Max new tokens", min_width=200, elem_id="max-new"
            )
        with gr.Row():
            temperature = gr.Slider(
                0.05, 2, 0.7, step=0.05, label="Temperature", interactive=False, min_width=200, elem_id="temperature"
            )
            top_p = gr.Slider(
                0.05, 1, 0.95, step=0.05, label="Top-p", interactive=False, min_width=200, elem_id="top-p"
            )
    greedy.input(lambda on: [gr.update(interactive=not on)] * 2, greedy, [temperature, top_p], api_visibility="private")
    return [system, temperature, top_p, length, greedy]


def opened(job: Job, has_template: bool) -> list[Any]:
    """Updates of chatbot, message box and send button once `job`'s model is in memory."""
    examples = [{"text": question} for question in DEMO_QUESTIONS] if job.model_id == DEMO_ID else []
    words = f"**{job.model_id}** at **{job.precision}** is in memory."
    invitation = "Ask something" if has_template else "Type a beginning: the model continues it"
    return [
        gr.update(placeholder=words, examples=examples),
        gr.update(interactive=True, placeholder=invitation),
        gr.update(interactive=True),
    ]


def asked(text: str, history: History | None) -> tuple[str, History]:
    """Put what was typed into the conversation and clear the box."""
    text = (text or "").strip()
    if not text:
        return "", history or []
    return "", [*(history or []), {"role": "user", "content": text}]


def before(history: History, index: int | tuple[int, int]) -> History:
    """The conversation up to and with the question that led to message `index`."""
    position = index[0] if isinstance(index, tuple) else index
    while position >= 0 and history[position]["role"] != "user":
        position -= 1
    return history[: position + 1]


def reply(
    history: History,
    job: Job | None,
    system: str,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    greedy: bool,
) -> Iterator[tuple[Any, str]]:
    """Stream the answer to the last question: yields the conversation and the status line."""
    if job is None or not history or history[-1]["role"] != "user":
        yield history, ""
        return
    try:
        sampling = Sampling(temperature, top_p, max_new_tokens, bool(greedy))
    except QuantSpaceError as error:
        yield gr.skip(), error_html(error)
        return
    view = ProgressView(f"{job.model_id} · {job.precision}")
    answer = ""
    for event in session.chat(job, _messages(history, system), sampling):
        if isinstance(event, Text):
            answer += event.piece
            if event.piece:
                yield [*history, {"role": "assistant", "content": _with_stats(answer, event.so_far, job)}], ""
            else:
                yield gr.skip(), gr.skip()  # a sign of life, so that a stop is noticed
        elif isinstance(event, Stats):
            yield [*history, {"role": "assistant", "content": _with_stats(answer, event, job)}], ""
        elif isinstance(event, Failed):
            shown = [{"role": "assistant", "content": answer}] if answer else []
            yield [*history, *shown], failed_html(event)
            return
        elif isinstance(event, Phase):
            yield gr.skip(), view.html(event)


def stopped(history: History) -> History:
    """Mark the answer that was being streamed, or had not begun, as stopped."""
    if not history:
        return history
    if history[-1]["role"] == "user":
        return [*history, {"role": "assistant", "content": f"(no words){_STATS_BEGIN}stopped{_STATS_END}"}]
    text = _text(history[-1]["content"])
    if _STATS_BEGIN not in text or text.endswith(_STATS_END):
        return history
    return [*history[:-1], {"role": "assistant", "content": text.removesuffix("…") + " · stopped" + _STATS_END}]


def _messages(history: History, system: str) -> list[Message]:
    messages = [Message("system", system.strip())] if system and system.strip() else []
    return [*messages, *(Message(turn["role"], said(turn["content"])) for turn in history)]


def said(content: Any) -> str:
    """The words of a message, without the statistics beneath an answer."""
    return _text(content).partition(_STATS_BEGIN)[0]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(block.get("text", "") for block in content if isinstance(block, dict))


def _with_stats(answer: str, stats: Stats, job: Job) -> str:
    parts = [job.precision, f"{stats.new_tokens} tokens"]
    if stats.tokens_per_s is not None:
        parts.append(f"{stats.tokens_per_s:.1f} tokens/s")
    if stats.first_token_s is not None:
        parts.append(f"first token after {stats.first_token_s:.2f} s")
    parts.append(f"prompt {stats.prompt_tokens} tokens")
    if stats.ended in _ENDINGS:
        parts.append(_ENDINGS[stats.ended])
    if stats.dropped_turns:
        parts.append(f"left out, since the context is full: the oldest {stats.dropped_turns} of the messages")
    end = "…" if stats.ended == "running" else _STATS_END
    return f"{answer or '(no words)'}{_STATS_BEGIN}{' · '.join(parts)}{end}"


def wire_chat(chat: Chat, job: gr.State) -> None:
    """Send, stop, retry, undo and clear, for the model of `job`."""
    streaming = {
        "fn": reply,
        "inputs": [chat.bot, job, *chat.settings],
        "outputs": [chat.bot, chat.status],
        "show_progress": "hidden",
        "concurrency_limit": 8,
        "api_visibility": "private",
    }
    quick = {"show_progress": "hidden", "api_visibility": "private"}
    running = ({"fn": lambda: _stoppable(True)} | quick) | {"inputs": None, "outputs": [chat.send, chat.stop, chat.box]}
    idle = running | {"fn": lambda: _stoppable(False)}

    answers = []
    for start in (
        gr.on([chat.box.submit, chat.send.click], asked, [chat.box, chat.bot], [chat.box, chat.bot], **quick),
        chat.bot.example_select(_example, chat.bot, chat.bot, **quick),
        chat.bot.retry(_retried, chat.bot, chat.bot, **quick),
    ):
        answer = start.then(**running).then(**streaming)
        answer.then(**idle).then(None, js=_FOCUS)
        answers.append(answer)
    chat.stop.click(
        lambda history: (stopped(history), ""), chat.bot, [chat.bot, chat.status], cancels=answers, **quick
    ).then(stopped, chat.bot, chat.bot, **quick).then(**idle)  # again: a piece under way may have come after it
    chat.bot.undo(_undone, chat.bot, [chat.bot, chat.box], **quick)
    chat.clear.click(lambda: ([], ""), None, [chat.bot, chat.status], cancels=answers, **quick).then(**idle)


def _example(event: gr.SelectData, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*(history or []), {"role": "user", "content": event.value["text"]}]


def _retried(event: gr.RetryData, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return before(history, event.index)


def _undone(event: gr.UndoData, history: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Any]:
    kept = before(history, event.index)
    return kept[:-1], said(kept[-1]["content"]) if kept else gr.skip()


def _stoppable(running: bool) -> tuple[Any, Any, Any]:
    """Send gives way to Stop while an answer streams; a question sent meanwhile would be lost."""
    return gr.update(visible=not running), gr.update(visible=running), gr.update(interactive=not running)
