"""A conversation as the chat shows it, in Gradio's messages: what was said, what belongs to it, and where it is cut.

An image is a message of its own in front of its question, since editing a question replaces all that is in it.
Gradio draws every message as Markdown with HTML in it: what a person typed goes there as one block of plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..precision import label_of
from ..runtime.job import Job, Message, Sampling, Stats
from ..runtime.remote import RemoteModel

Turn = dict[str, Any]
History = list[Turn]
Draft = dict[str, Any]  # what is in the message box: `text`, and paths of `files`

STATS_BEGIN = "\n\n<small class='qs-stats'>"
STATS_END = "</small>"  # left open while an answer streams
_CUT = "<span class='qs-cut'>"
_NO_WORDS = "(no words)"
TYPED_BEGIN, TYPED_END = "<div class='qs-typed'>", "</div>"  # chat_words.js knows them too
_DRAWN = re.compile(r"[&<>$\r\n]")  # what would be drawn, or end the block: tags, formulas, an empty line
_HIDDEN = re.compile(r"&#(\d+);")
_ENDINGS = {"length": "cut at max new tokens", "stopped": "stopped"}


def question(draft: Draft) -> History:
    """The messages that a draft becomes: its images, then its words."""
    pictures = [{"role": "user", "content": {"path": path}} for path in draft.get("files", ())]
    words = [{"role": "user", "content": [_words(as_typed(draft["text"]))]}] if draft["text"].strip() else []
    return [*pictures, *words]


def draft_of(history: History) -> Draft:
    """The last question as it was before it was sent."""
    asked = before(history, len(history) - 1)
    turns = asked[len(without_question(asked)) :]
    return {"text": "".join(said(turn["content"]) for turn in turns), "files": _all_images(turns)}


def before(history: History, index: int | tuple[int, int]) -> History:
    """The conversation up to and with the question that the message at `index` belongs to."""
    position = min(index if isinstance(index, int) else index[0], len(history) - 1)
    while position >= 0 and history[position]["role"] != "user":
        position -= 1
    while position + 1 < len(history) and not said(history[position]["content"]) and _is_user(history[position + 1]):
        position += 1  # an image alone: the words of its question follow
    return history[: position + 1]


def without_question(history: History) -> History:
    """The conversation without the question at its end: its words, and the images in front of them."""
    if not history or not _is_user(history[-1]):
        return history
    position = len(history) - 1
    while position and _is_user(history[position - 1]) and not said(history[position - 1]["content"]):
        position -= 1
    return history[:position]


def with_text(history: History, index: int | tuple[int, int], text: str) -> History:
    """The conversation with other words in the question at `index`."""
    position = index if isinstance(index, int) else index[0]
    return [*history[:position], {"role": "user", "content": [_words(as_typed(text))]}, *history[position + 1 :]]


def as_typed(text: str) -> str:
    """A person's words for the chat to show as they are: one block of HTML, in which nothing is drawn."""
    return TYPED_BEGIN + _DRAWN.sub(lambda found: f"&#{ord(found[0])};", text) + TYPED_END


def typed(shown: str) -> str:
    """What a person typed, of what the chat shows of it; what is not of `as_typed` stays as it is."""
    if not (shown.startswith(TYPED_BEGIN) and shown.endswith(TYPED_END)):
        return shown
    return _HIDDEN.sub(lambda found: chr(int(found[1])), shown[len(TYPED_BEGIN) : -len(TYPED_END)])


def messages_of(history: History, system: str) -> list[Message]:
    """What a model is asked: the system prompt, and the words and images of each turn."""
    messages = [Message("system", system.strip())] if system and system.strip() else []
    images: tuple[str, ...] = ()
    for position, turn in enumerate(history):
        images += tuple(images_of(turn["content"]))
        words = said(turn["content"])
        alone = _is_user(turn) and not words and position + 1 < len(history) and _is_user(history[position + 1])
        if alone and images_of(turn["content"]):
            continue  # what is said about it follows
        messages.append(Message(turn["role"], words, images))
        images = ()
    return messages


def answered(text: str, stats: Stats, job: Job | RemoteModel, sampling: Sampling) -> Turn:
    """An answer with its statistics beneath, and the facts that are exported with it."""
    end = "…" if stats.ended == "running" else STATS_END
    shown = f"{text or _NO_WORDS}{STATS_BEGIN}{_cut_note(stats, job)}{' · '.join(_parts(stats, job))}{end}"
    return _answer(shown, _facts(stats, job, sampling))


def stopped(history: History) -> History:
    """Mark the answer that was being streamed, or had not begun, as stopped."""
    if not history:
        return history
    if _is_user(history[-1]):
        return [*history, _answer(f"{_NO_WORDS}{STATS_BEGIN}stopped{STATS_END}", {})]
    text = _text(history[-1]["content"])
    if STATS_BEGIN not in text or text.endswith(STATS_END):
        return history
    facts = facts_of(history[-1])
    if isinstance(facts.get("stats"), dict):
        facts["stats"]["ended"] = "stopped"
    return [*history[:-1], _answer(f"{text.removesuffix('…')} · stopped{STATS_END}", facts)]


def _answer(shown: str, facts: dict[str, Any]) -> Turn:
    return {"role": "assistant", "content": [_words(shown)], "metadata": {"log": json.dumps(facts)}}


def at_precision(job: Job | RemoteModel) -> str:
    """The name that people know a model's precision by; of an engine elsewhere, its own."""
    return job.precision if isinstance(job, RemoteModel) else label_of(job.precision)


def said(content: Any) -> str:
    """The words of a message: a question as it was typed, an answer without the statistics beneath it."""
    words = _text(content).partition(STATS_BEGIN)[0]
    return "" if words == _NO_WORDS else typed(words)


def images_of(content: Any) -> list[str]:
    """Paths of a message's images."""
    blocks = content if isinstance(content, list) else [content]
    files = (block.get("file", block) for block in blocks if isinstance(block, dict))
    return [file["path"] for file in files if isinstance(file, dict) and isinstance(file.get("path"), str)]


def facts_of(turn: Turn) -> dict[str, Any]:
    """What was noted with an answer: model, precision, sampling and statistics; empty where nothing was."""
    try:
        facts = json.loads((turn.get("metadata") or {}).get("log") or "{}")
    except ValueError:  # it has been in a browser
        return {}
    return facts if isinstance(facts, dict) else {}


def _facts(stats: Stats, job: Job | RemoteModel, sampling: Sampling) -> dict[str, Any]:
    model = {"model": job.model_id, "revision": getattr(job, "sha", ""), "precision": job.precision}
    return {**model, "context": getattr(job, "context", 0), "sampling": asdict(sampling), "stats": asdict(stats)}


def _parts(stats: Stats, job: Job | RemoteModel) -> list[str]:
    parts = ["completion"] if stats.completion else []
    parts += [at_precision(job), f"{stats.new_tokens} tokens"]
    if stats.tokens_per_s is not None:
        parts.append(f"{stats.tokens_per_s:.1f} tokens/s")
    if stats.first_token_s is not None:
        parts.append(f"first token after {stats.first_token_s:.2f} s")
    if stats.reused_tokens:
        parts.append(f"{stats.reused_tokens:,} of {stats.prompt_tokens:,} prompt tokens reused")
    elif stats.prompt_tokens:  # an engine elsewhere tells them at the end, or never
        parts.append(f"prompt {stats.prompt_tokens:,} tokens")
    if stats.ended in _ENDINGS:
        parts.append(_ENDINGS[stats.ended])
    return parts


def _cut_note(stats: Stats, job: Job | RemoteModel) -> str:
    if not stats.dropped_turns:
        return ""
    context = getattr(job, "context", 0)
    limit = f" of {context:,} tokens" if context else ""
    turns = "oldest message was" if stats.dropped_turns == 1 else f"{stats.dropped_turns} oldest messages were"
    return f"{_CUT}The context{limit} is full: the {turns} left out from here on.</span>"


def _all_images(turns: Sequence[Turn]) -> list[str]:
    return [path for turn in turns for path in images_of(turn["content"])]


def _is_user(turn: Turn) -> bool:
    return turn["role"] == "user"


def _words(text: str) -> dict[str, str]:
    """As a block: Gradio takes the indentation off a plain string."""
    return {"type": "text", "text": text}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else [content]
    return "".join(block if isinstance(block, str) else block.get("text") or "" for block in blocks)
