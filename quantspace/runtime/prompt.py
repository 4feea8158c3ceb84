"""From a conversation to what a model reads: its template, its tokens, and what is left out to fit the context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ChatFailed, shorten
from ..settings import settings
from .deadline import within
from .images import opened
from .job import Message, Sampling

if TYPE_CHECKING:
    from .loader import LoadedModel

UNSTATED_CONTEXT = 8192  # tokens for a model whose config names no limit
TEMPLATE_SECONDS = 5

_Conversation = list[dict[str, Any]]


@dataclass(frozen=True)
class Prompt:
    """What a model is given.

    Attributes:
        inputs: for `generate`, on the model's device; `input_ids` has shape (1, `length`).
        length: tokens.
        room: tokens that the answer may have.
        dropped: messages left out, the oldest first.
        images: whether there is more than text in it.
    """

    inputs: dict[str, torch.Tensor]
    length: int
    room: int
    dropped: int
    images: bool


def prompt_of(loaded: LoadedModel, messages: Sequence[Message], sampling: Sampling, context: int = 0) -> Prompt:
    """Encode the conversation; where it outgrows the context, its oldest turns are left out.

    Args:
        context: tokens of prompt and answer together at most; 0 for what the model was made for.

    Raises:
        ChatFailed: there is nothing to answer, or too much of it, or the template refuses it.
    """
    made_for = loaded.readout.max_context or context or UNSTATED_CONTEXT
    limit = min(made_for, context or made_for)
    turns = [message for message in messages if message.role != "system"]
    system = [message for message in messages if message.role == "system" and message.content.strip()]
    _refuse_nothing(turns)
    # A question that got no answer leaves two user turns in a row: what is left begins with a question.
    for dropped in (i for i, turn in enumerate(turns) if i == 0 or turn.role == "user"):
        inputs = _encoded(loaded, system, turns[dropped:])
        length = inputs["input_ids"].shape[1]
        if length + min(sampling.max_new_tokens, limit // 4) <= limit:
            break
    if not length:
        raise ChatFailed("This message has no tokens for this model.", "Send another text.")
    if length >= limit:
        raise _too_long(length, limit, made_for)
    room = min(int(sampling.max_new_tokens), limit - length)
    images = any(turn.images for turn in turns[dropped:])
    return Prompt({key: value.to(loaded.model.device) for key, value in inputs.items()}, length, room, dropped, images)


def _refuse_nothing(turns: Sequence[Message]) -> None:
    if not turns:
        raise ChatFailed("There is no message to answer.", "Send one.")
    if not turns[-1].content.strip() and not turns[-1].images:
        raise ChatFailed("The message is empty.", "Write something, then send it.")


def _too_long(length: int, limit: int, made_for: int) -> ChatFailed:
    if limit < made_for:
        return ChatFailed(
            f"This message is {length:,} tokens long; the context that was asked for has {limit:,}.",
            "Send a shorter one, or set a longer context in the form and load the model again.",
        )
    return ChatFailed(
        f"This message is {length:,} tokens long; the model reads at most {limit:,}.", "Send a shorter one."
    )


def _encoded(loaded: LoadedModel, system: list[Message], turns: Sequence[Message]) -> dict[str, torch.Tensor]:
    if any(turn.images for turn in turns):
        return _with_images(loaded, system, turns)
    tokenizer = loaded.tokenizer
    if not tokenizer.chat_template:
        return dict(tokenizer(turns[-1].content, return_tensors="pt", return_token_type_ids=False))
    text = _rendered(tokenizer.apply_chat_template, system, turns, lambda message: message.content)
    return dict(tokenizer(text, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False))


def _with_images(loaded: LoadedModel, system: list[Message], turns: Sequence[Message]) -> dict[str, torch.Tensor]:
    processor = loaded.processor
    if processor is None:
        raise ChatFailed("This model reads no images.", "Remove the image, or load a model that takes images.")
    paths = [path for turn in turns for path in turn.images]
    if len(paths) > settings().max_chat_images:
        raise ChatFailed(
            f"There are {len(paths):,} images in this chat; at most {settings().max_chat_images:,} are read.",
            "Clear the chat, or undo turns with images.",
        )
    images = [opened(path) for path in paths]
    text = _rendered(processor.apply_chat_template, system, turns, _blocks)
    encoded = processor(text=[text], images=images, add_special_tokens=False, return_tensors="pt")
    return {key: value for key, value in encoded.items() if isinstance(value, torch.Tensor)}


def _blocks(message: Message) -> list[dict[str, str]]:
    images = [{"type": "image"} for _ in message.images]
    return [*images, {"type": "text", "text": message.content}]


def _rendered(
    template: Callable[..., str], system: list[Message], turns: Sequence[Message], content: Callable[[Message], Any]
) -> str:
    """The conversation in the model's own format, asked for an answer.

    Raises:
        ChatFailed: the template refuses it or doesn't end.
    """
    try:
        return _within_time(template, [*system, *turns], content)
    except TimeoutError as error:
        raise ChatFailed(
            f"The model's chat template took more than {TEMPLATE_SECONDS} s.", "Pick another model: this one is broken."
        ) from error
    except Exception:  # templates are code of the repository: some refuse a system message, in their own words
        said = "\n\n".join(message.content for message in (*system, turns[0]))
        first = Message("user", said, turns[0].images)
        try:
            return _within_time(template, [first, *turns[1:]], content)
        except Exception as error:  # the same: whatever a template raises is its refusal
            raise ChatFailed(
                f"The model's chat template refuses this conversation: {shorten(str(error), 200)}",
                "Clear the chat and ask again.",
            ) from error


def _within_time(template: Callable[..., str], messages: list[Message], content: Callable[[Message], Any]) -> str:
    conversation: _Conversation = [{"role": message.role, "content": content(message)} for message in messages]
    return within(TEMPLATE_SECONDS, lambda: template(conversation, add_generation_prompt=True, tokenize=False))
