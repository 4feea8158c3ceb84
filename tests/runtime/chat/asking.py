"""Questions to the demo model, and how a test here asks them."""

import pytest

from quantspace.hub.demo import DEMO_ID, demo_folder
from quantspace.runtime.chat import answer
from quantspace.runtime.job import Job, Message, Sampling, Stats, Text

QUESTION = (Message("user", "What is NF4?"),)
TALK = (
    Message("user", "What is quantization?"),
    Message("assistant", "It stores weights in fewer bits."),
    Message("user", "What does double quantization do?"),
    Message("assistant", "It quantizes the block scales again."),
    Message("user", "Why does a long context cost memory?"),
)
SECONDS_A_TOKEN = 0.04  # at least, where a test needs time to look on
BOTH = pytest.mark.parametrize("loaded", ["bf16", "nf4-dq"], indirect=True)


def demo_job(precision, messages=(), **sampling):
    choice = Sampling(greedy=True, **{"max_new_tokens": 4, **sampling})
    return Job(DEMO_ID, "bundled", str(demo_folder()), precision, 0, 0, messages=tuple(messages), sampling=choice)


def ask(loaded, messages=QUESTION, **sampling):
    """The text of an answer, and its statistics."""
    choice = Sampling(**{"greedy": True, "max_new_tokens": 4, **sampling})
    *texts, stats = answer(loaded, messages, choice, [])
    assert all(isinstance(event, Text) for event in texts)
    assert isinstance(stats, Stats)
    return "".join(event.piece for event in texts), stats


def tokens_of(loaded, messages):
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    ids = loaded.tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=True)
    return len(ids["input_ids"])
