"""Turns lessons into training conversations: reworded, chained, with and without a system prompt.

`Conversations.draw()` gives token ids and labels of one conversation; `batches()` sorts them by
length and pads. Only the assistant's tokens carry a label.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from quantspace.demo.curriculum import Lesson
from quantspace.demo.tokenizer import as_asked
from quantspace.demo.wording import reword

IGNORED = -100  # the label that cross_entropy skips
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful, honest and concise assistant.",
    "You are a chatbot.",
    "Answer briefly.",
    "Be friendly and clear.",
    "You are an expert in machine learning.",
    "You are QuantSpace's assistant. Answer questions about GPU memory.",
    "Always answer in English.",
    "You are a pirate.",
    "Answer the user's questions as well as you can.",
    "Think before you answer.",
    "You are an AI model running on a small GPU. Keep your answers short.",
)
TURNS, TURN_WEIGHTS = (1, 2, 3, 4, 6, 10, 15), (40, 20, 14, 10, 8, 5, 3)


@dataclass
class Conversations:
    """Draws endless training conversations from weighted lessons.

    `weights` says how often a lesson comes up, in any unit.
    """

    lessons: Sequence[Lesson]
    weights: Sequence[float]
    tokenizer: PreTrainedTokenizerFast
    chance: random.Random

    def draw(self) -> tuple[list[int], list[int]]:
        """Token ids and labels of one conversation, equally long."""
        ids, labels = [self.tokenizer.bos_token_id], [IGNORED]
        if self.chance.random() < 0.3:
            self._say("system", self.chance.choice(SYSTEM_PROMPTS), ids, labels)
        turns = self.chance.choices(TURNS, TURN_WEIGHTS)[0]
        for turn, lesson in enumerate(self.chance.choices(self.lessons, self.weights, k=turns)):
            self._say("user", reword(self.chance.choice(lesson.taught), self.chance), ids, labels)
            # A stopped answer stays in the history, so the model must be used to seeing one.
            stopped = turn < turns - 1 and self.chance.random() < 0.05
            self._say("assistant", lesson.answer, ids, labels, stopped)
        return ids, labels

    def _say(self, role: str, text: str, ids: list[int], labels: list[int], stopped: bool = False) -> None:
        """Appends one message as the chat template writes it."""
        start, end = self.tokenizer.convert_tokens_to_ids(f"<|{role}|>"), self.tokenizer.eos_token_id
        said = self.tokenizer.encode(as_asked(text) if role == "user" else text, add_special_tokens=False)
        if role == "user" and self.chance.random() < 0.3:
            said = self._blurred(said)
        if stopped:
            said = said[: self.chance.randrange(len(said))]
        learned = role == "assistant" and not stopped
        ids += [start, *said, end]
        labels += [IGNORED, *(said if learned else [IGNORED] * len(said)), end if learned else IGNORED]

    def _blurred(self, said: list[int]) -> list[int]:
        """The tokens with about one in ten replaced, so that no answer hangs on a single one."""
        words = range(len(self.tokenizer.all_special_ids), len(self.tokenizer))  # the special tokens come first
        return [token if self.chance.random() > 0.1 else self.chance.choice(words) for token in said]

    def batches(self, tokens: int, pool: int = 512) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Endless (ids, labels), each (sequences, length) and about `tokens` tokens in all.

        Padded on the right: with causal attention no real token sees the padding, so no mask is needed.
        """
        while True:
            drawn = sorted((self.draw() for _ in range(pool)), key=lambda pair: len(pair[0]))
            groups: list[list[tuple[list[int], list[int]]]] = [[]]
            for pair in drawn:
                if groups[-1] and (len(groups[-1]) + 1) * len(pair[0]) > tokens:
                    groups.append([])
                groups[-1].append(pair)
            self.chance.shuffle(groups)
            for group in groups:
                yield (
                    self._pad([p[0] for p in group], self.tokenizer.pad_token_id),
                    self._pad([p[1] for p in group], IGNORED),
                )

    @staticmethod
    def _pad(rows: list[list[int]], filler: int) -> torch.Tensor:
        longest = max(map(len, rows))
        return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])
