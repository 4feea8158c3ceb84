"""The chat beside the readout: ask, stop, retry, edit, undo, clear, and take the conversation along."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any

import gradio as gr

from ..hub.demo import DEMO_ID
from ..runtime.job import Job
from ..runtime.remote import RemoteModel
from ..settings import settings
from .conversation import History, at_precision, stopped
from .conversation_events import asked, cleared_of, edited, example, exported, reply, retried, undone
from .conversation_file import FORMATS

NOT_LOADED = "Press **Load** on a row above: the chat opens when its model is in memory."
DEMO_QUESTIONS = (
    "What is quantization?",
    "What is NF4?",
    "What is double quantization?",
    "Why does a long context cost memory?",
)
# The box is closed while an answer streams; whoever types with keys goes on where they were.
_FOCUS = """() => setTimeout(() => matchMedia('(pointer: fine)').matches
  && document.querySelector('#message textarea')?.focus({preventScroll: true}), 100)"""
COPY_WORDS = (files("quantspace.ui") / "chat_words.js").read_text(encoding="utf-8")
_DOWNLOAD = """(file) => {
  if (!file?.text) return;
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([file.text], { type: file.type }));
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}"""
_QUICK: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass
class Chat:
    """The chat's components."""

    panel: gr.Column
    bot: gr.Chatbot
    box: gr.MultimodalTextbox
    send: gr.Button
    stop: gr.Button
    clear: gr.Button
    restore: gr.Button
    status: gr.HTML
    settings: list[Any]
    exports: dict[str, gr.Button]
    file: gr.JSON


def build_chat() -> Chat:
    """Lay the chat out in the current Blocks."""
    with gr.Column(elem_id="chat", min_width=320) as panel:
        bot = gr.Chatbot(
            label="Chat",
            show_label=False,  # it floats over the first message
            height=460,
            placeholder=NOT_LOADED,
            elem_id="chatbot",
            buttons=["copy"],
            editable="user",
            feedback_options=None,
            layout="bubble",
            group_consecutive_messages=False,
        )
        status = gr.HTML(apply_default_css=False, elem_id="chat-status")
        with gr.Row(elem_id="chat-entry"):
            box = gr.MultimodalTextbox(
                show_label=False,
                label="Message",
                placeholder="Ask something",
                sources=[],
                file_types=["image"],
                file_count="multiple",
                lines=1,
                max_lines=6,
                max_plain_text_length=settings().max_prompt_characters,  # a long text stays text when it is pasted
                scale=6,
                min_width=160,
                container=False,
                interactive=False,
                submit_btn=False,
                elem_id="message",
            )
            send = gr.Button("Send", variant="primary", min_width=70, scale=1, interactive=False, elem_id="send")
            stop = gr.Button("Stop", variant="stop", min_width=70, scale=1, visible=False, elem_id="stop")
            clear = gr.Button("Clear", min_width=70, scale=1, elem_id="clear")
            restore = gr.Button("Undo clear", min_width=70, scale=1, visible=False, elem_id="undo-clear")
        values = _build_settings()
        with gr.Row(elem_id="chat-exports"):
            exports = {
                name: gr.Button(f"Export as {kind.label}", size="sm", min_width=120, elem_id=f"export-{name}")
                for name, kind in FORMATS.items()
            }
        file = gr.JSON(visible="hidden", elem_id="chat-file")
    return Chat(panel, bot, box, send, stop, clear, restore, status, values, exports, file)


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


def opened(job: Job | RemoteModel, has_template: bool, images: bool = False) -> list[Any]:
    """Updates of chatbot, message box and send button once `job`'s model can be talked to."""
    examples = [{"text": question} for question in DEMO_QUESTIONS] if job.model_id == DEMO_ID else []
    remote = isinstance(job, RemoteModel)
    where = f"is asked at **{at_precision(job)}**" if remote else f"at **{at_precision(job)}** is in memory"
    words = f"**{job.model_id}** {where}."
    invitation = "Ask something, or attach an image" if images else "Ask something"
    if not has_template:
        words += " It brings no chat template: it continues a text instead of answering, and reads the last one alone."
        invitation = "Type a beginning: the model continues it"
    if context := getattr(job, "context", 0):
        words += f" The last {context:,} tokens of a conversation are read, as estimated."
    return [
        gr.update(placeholder=words, examples=examples),
        gr.update(interactive=True, placeholder=invitation, sources=["upload"] if images else []),
        gr.update(interactive=True),
    ]


def wire_chat(chat: Chat, job: gr.State) -> None:
    """Send, stop, retry, edit, undo, clear and export, for the model of `job`."""
    resort = gr.State(None)
    cleared = gr.State(None)
    running = {"fn": lambda: _stoppable(True), "inputs": None, "outputs": _entry(chat)} | _QUICK
    idle = running | {"fn": lambda: _stoppable(False)}
    streaming = {
        "fn": reply,
        "inputs": [chat.bot, job, resort, *chat.settings],
        "outputs": [chat.bot, chat.status, chat.box],
        "show_progress": "hidden",
        "concurrency_limit": 8,
        "api_visibility": "private",
    }
    answers = []
    for start in (
        gr.on(
            [chat.box.submit, chat.send.click],
            asked,
            [chat.box, chat.bot],
            [chat.box, chat.bot, resort, chat.status],
            **_QUICK,
        ),
        chat.bot.example_select(example, chat.bot, [chat.bot, resort], **_QUICK),
        chat.bot.retry(retried, chat.bot, [chat.bot, resort], **_QUICK),
        chat.bot.edit(edited, chat.bot, [chat.bot, resort], **_QUICK),
    ):
        answer = start.then(**running).then(**streaming)
        answer.then(**idle).then(None, js=_FOCUS)
        answers.append(answer)
    chat.stop.click(
        lambda history: (stopped(history), ""), chat.bot, [chat.bot, chat.status], cancels=answers, **_QUICK
    ).then(stopped, chat.bot, chat.bot, **_QUICK).then(**idle)  # again: a piece under way may have come after it
    chat.bot.undo(undone, chat.bot, [chat.bot, chat.box], **_QUICK)
    _wire_clear(chat, cleared, answers, idle)
    _wire_exports(chat)


def _wire_clear(chat: Chat, cleared: gr.State, answers: list[Any], idle: dict[str, Any]) -> None:
    buttons = [chat.clear, chat.restore]
    emptied = chat.clear.click(cleared_of, chat.bot, [chat.bot, chat.status, cleared], cancels=answers, **_QUICK)
    emptied = emptied.then(lambda: [], None, chat.bot, **_QUICK).then(**idle)  # a piece under way, as above
    emptied.then(_restorable, cleared, buttons, **_QUICK)
    restored = chat.restore.click(lambda kept: (kept or [], None), cleared, [chat.bot, cleared], **_QUICK)
    restored.then(_restorable, cleared, buttons, **_QUICK)


def _wire_exports(chat: Chat) -> None:
    for name, button in chat.exports.items():
        button.click(
            partial(exported, name),
            [chat.bot, chat.settings[0]],
            [chat.file, chat.status],
            **_QUICK,
        ).then(None, chat.file, None, js=_DOWNLOAD)


def _restorable(kept: History | None) -> tuple[Any, Any]:
    return gr.update(visible=not kept), gr.update(visible=bool(kept))


def _entry(chat: Chat) -> list[Any]:
    return [chat.send, chat.stop, chat.box, chat.clear, chat.restore]


def _stoppable(running: bool) -> tuple[Any, ...]:
    """Send gives way to Stop while an answer streams; a question sent meanwhile would be lost."""
    shown = gr.update(visible=True) if running else gr.skip()
    gone = gr.update(visible=False) if running else gr.skip()
    return gr.update(visible=not running), gr.update(visible=running), gr.update(interactive=not running), shown, gone
