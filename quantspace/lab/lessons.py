"""The demo model and its lessons: what pruning and few bits are measured on, and trained with.

The weights are read from the app's folder into memory in fp32; nothing is ever written back.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from ..demo.curriculum import Lesson, read_lessons
from ..hub.demo import demo_folder

IGNORED = -100  # the label that cross_entropy skips
QUESTIONS = 96  # lessons that a loss is measured on
BATCH = 16  # conversations read together

Batch = tuple[torch.Tensor, torch.Tensor]  # ids and labels, each (conversations, tokens)


@dataclass(frozen=True)
class Recall:
    """How well a model still knows its lessons.

    Attributes:
        loss: mean cross-entropy over the answers' tokens, in nats.
        right: share of those tokens that the model finds likeliest, from 0 to 1.
    """

    loss: float
    right: float
    tokens: int


def demo_model() -> PreTrainedModel:
    """A fresh copy in fp32."""
    return AutoModelForCausalLM.from_pretrained(demo_folder(), dtype=torch.float32).eval()


def demo_tokenizer() -> PreTrainedTokenizerFast:
    """The demo model's own."""
    return AutoTokenizer.from_pretrained(demo_folder())


def asked_lessons(count: int = QUESTIONS) -> list[Lesson]:
    """Lessons spread evenly over all of them."""
    lessons = read_lessons()
    return [lessons[at * len(lessons) // count] for at in range(count)]


def questions(tokenizer: PreTrainedTokenizerFast, count: int = QUESTIONS) -> list[Batch]:
    """The first phrasing of each of `count` lessons, with its answer."""
    rows = [_conversation(tokenizer, lesson.taught[0], lesson.answer) for lesson in asked_lessons(count)]
    rows.sort(key=lambda row: len(row[0]))  # equally long ones waste no padding
    return [_padded(rows[at : at + BATCH], tokenizer.pad_token_id) for at in range(0, len(rows), BATCH)]


def exercises(tokenizer: PreTrainedTokenizerFast, seed: int, size: int = BATCH) -> Iterator[Batch]:
    """Endless batches of lessons to train with; the phrasings that `questions` asks are left out."""
    chance = random.Random(seed)
    lessons = [lesson for lesson in read_lessons() if len(lesson.taught) > 1]
    while True:
        rows = [_exercise(tokenizer, chance.choice(lessons), chance) for _ in range(size)]
        yield _padded(rows, tokenizer.pad_token_id)


def loss_of(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy over the answers' tokens of one batch."""
    logits, targets = _predictions(model, batch)
    return cross_entropy(logits, targets)


@torch.inference_mode()
def recall(model: PreTrainedModel, batches: Sequence[Batch]) -> Recall:
    """How well `model` knows the answers of `batches`."""
    loss, right, tokens = 0.0, 0, 0
    for batch in batches:
        logits, targets = _predictions(model, batch)
        loss += cross_entropy(logits, targets, reduction="sum").item()
        right += int((logits.argmax(dim=-1) == targets).sum())
        tokens += targets.numel()
    return Recall(loss / tokens, right / tokens, tokens)


@torch.inference_mode()
def answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, question: str, tokens: int = 40) -> str:
    """The model's greedy answer, cut after `tokens` tokens."""
    chat = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def _predictions(model: PreTrainedModel, batch: Batch) -> Batch:
    """Logits (learned tokens, vocabulary) and targets (learned tokens,); no other position goes through the head."""
    ids, labels = batch
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    targets = labels[:, 1:]
    learned = targets != IGNORED
    return model.lm_head(hidden[learned]), targets[learned]


def _exercise(tokenizer: PreTrainedTokenizerFast, lesson: Lesson, chance: random.Random) -> tuple[list[int], int]:
    return _conversation(tokenizer, chance.choice(lesson.taught[1:]), lesson.answer)


def _conversation(tokenizer: PreTrainedTokenizerFast, question: str, answer: str) -> tuple[list[int], int]:
    """Token ids of a question with its answer, and how many of them the answer has."""
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    whole = tokenizer.apply_chat_template(chat, return_dict=False)
    asked = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, return_dict=False)
    return whole, len(whole) - len(asked)


def _padded(rows: Sequence[tuple[list[int], int]], filler: int) -> Batch:
    """Padded on the right: with causal attention no real token sees the padding, so no mask is needed."""
    longest = max(len(ids) for ids, _ in rows)
    ids = [ids + [filler] * (longest - len(ids)) for ids, _ in rows]
    labels = [
        [IGNORED] * (len(ids) - learned) + ids[len(ids) - learned :] + [IGNORED] * (longest - len(ids))
        for ids, learned in rows
    ]
    return torch.tensor(ids), torch.tensor(labels)
