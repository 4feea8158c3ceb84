"""Turns that take over what the turn before has read give the very tokens that reading everything anew gives."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from quantspace.hub.demo import DEMO_ID, demo_folder
from quantspace.runtime.chat import answer
from quantspace.runtime.job import Job, Message, Sampling
from quantspace.runtime.loader import load
from quantspace.runtime.prefix import Prefix, can_be_continued, can_be_cut
from tests.words import only_words, word_tokenizer

pytestmark = [pytest.mark.xdist_group("prefix"), pytest.mark.usefixtures("one_thread")]

VOCABULARY = 512
LOUDER = 3  # weights as small as they are drawn make a model repeat one token whatever it is asked

# What can be taken over: `any` prefix, or only where the prompt `continues` all that was read, or `nothing`.
FAMILIES = {
    "llama-untied": "any",
    "qwen3-norms": "any",
    "olmo2": "any",
    "gpt2-conv1d": "any",
    "gpt-neox-biases": "any",
    "mpt-no-biases": "any",
    "qwen3-moe-experts": "any",
    "mixtral-experts": "any",
    "deepseek-v3-latent": "any",
    "qwen2.5-vl-vision": "any",
    "llava-vision": "any",
    "mistral-sliding": "continues",
    "gpt-oss-experts": "continues",
    "gemma4-shared": "continues",
    "llama4-chunked": "continues",
    "qwen3-next-hybrid": "continues",
    "qwen3.5-hybrid": "continues",
    "lfm2-hybrid": "continues",
    "jamba-hybrid": "continues",
    "falcon-h1-hybrid": "continues",
    "mamba-state": "nothing",
    "mamba2-state": "nothing",
}


def job_of(folder, precision):
    return Job("tests/tiny", "sha", str(folder), precision, 0, 0)


@pytest.fixture
def tiny(tiny_checkpoint):
    """A tiny model of a family that says something else to everything, in words."""

    def loaded(name, precision="fp32"):
        *_, model = load(job_of(tiny_checkpoint(name), precision), [])
        for weight in model.model.parameters():
            if weight.ndim > 1 and weight.is_floating_point():
                weight.data.mul_(LOUDER)
        model.model.generation_config.eos_token_id = None
        model.model.generation_config.suppress_tokens = only_words(VOCABULARY)
        return replace(model, tokenizer=word_tokenizer(VOCABULARY))

    return loaded


class Talk:
    """A conversation with a model, all whose questions and tokens are noted."""

    def __init__(self, loaded, monkeypatch):
        self.loaded = loaded
        self.asked = []  # of each answer: messages, most new tokens, and the tokens of prompt and answer
        self.reused = []
        self._sequences = []
        generate = loaded.model.generate

        def noted(**given):
            made = generate(**given)
            self._sequences.append(made.sequences[0].tolist())
            return made

        monkeypatch.setattr(loaded.model, "generate", noted)

    def ask(self, *messages, most=12, stop=False):
        sampling = Sampling(greedy=True, max_new_tokens=most)
        crew, text = [], ""
        stream = answer(self.loaded, messages, sampling, crew)
        for event in stream:
            text += getattr(event, "piece", "")
            if stop and text:
                break
        stream.close()
        crew[0].join()
        self.reused.append(getattr(event, "so_far", event).reused_tokens)
        self.asked.append((messages, most, self._sequences[-1]))
        return Message("assistant", text)

    def tokens_read_anew(self, messages, most):
        self.loaded.prefix.drop()
        self.ask(*messages, most=most)
        assert self.reused[-1] == 0
        return self.asked[-1][2]


def user(*words):
    return Message("user", " ".join(f"w{word}" for word in words))


def whole_afternoon(talk):
    """Turns, a retry, an edit, an undo, a talk in between, and a stop in mid-answer."""
    first, second, third = user(20, 33, 21), user(40, 41, 45, 40), user(77, 30)
    one = talk.ask(first)
    two = talk.ask(first, one, second)
    talk.ask(first, one, second)  # once more
    edited = user(40, 52, 45, 40)
    other = talk.ask(first, one, edited)
    talk.ask(user(99, 98, 97))  # somebody else
    talk.ask(first, one, edited, other, third)
    talk.ask(first, one, third)  # after an undo
    cut = talk.ask(first, one, second, two, third, most=60, stop=True)
    talk.ask(first, one, second, two, third, cut, user(60))
    talk.ask(Message("system", "w50 w51"), first)


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_the_tokens_that_reading_all_anew_gives(tiny, monkeypatch, name):
    talk = Talk(tiny(name), monkeypatch)
    whole_afternoon(talk)
    reused = list(talk.reused)
    for messages, most, tokens in list(talk.asked):
        anew = talk.tokens_read_anew(messages, most)
        assert tokens == anew[: len(tokens)]
        assert len(tokens) == len(anew) or most == 60  # the stopped one is a beginning
    assert len({token for *_, tokens in talk.asked for token in tokens[-6:]}) > 6, "too dull to tell"
    took = {"any": lambda: all(reused[1:3]), "continues": lambda: reused[1] and not reused[2], "nothing": lambda: True}
    assert took[FAMILIES[name]]()
    assert any(reused) == (FAMILIES[name] != "nothing")


def test_a_quantized_model_answers_the_same_too(tiny, monkeypatch):
    talk = Talk(tiny("llama-untied", "nf4"), monkeypatch)
    whole_afternoon(talk)
    assert all(talk.reused[1:3])
    for messages, most, tokens in list(talk.asked):
        assert tokens == talk.tokens_read_anew(messages, most)[: len(tokens)]


@pytest.mark.parametrize("precision", ["bf16", "nf4-dq"])
def test_a_trained_model_answers_the_same_in_half_precision(monkeypatch, precision):
    *_, demo = load(Job(DEMO_ID, "bundled", str(demo_folder()), precision, 0, 0), [])
    talk = Talk(demo, monkeypatch)
    messages = []
    for question in ("What is NF4?", "What is double quantization?", "What is quantization?", "What is NF4?"):
        messages.append(Message("user", question))
        messages.append(talk.ask(*messages, most=40))
    prompts = [len(tokens) for *_, tokens in talk.asked]
    assert all(reused >= before - 2 for reused, before in zip(talk.reused[1:], prompts, strict=False))
    for said, most, tokens in list(talk.asked):
        assert tokens == talk.tokens_read_anew(said, most)


def test_a_retry_reads_one_token(tiny, monkeypatch):
    talk = Talk(tiny("llama-untied"), monkeypatch)
    talk.ask(user(20, 33, 21))
    talk.ask(user(20, 33, 21))
    length = len(talk.asked[0][2]) - 12
    assert talk.reused == [0, length - 1]


def test_a_cache_counts_while_it_is_kept(tiny, monkeypatch):
    loaded = tiny("llama-untied")
    talk = Talk(loaded, monkeypatch)
    assert loaded.prefix.held_bytes == 0
    talk.ask(user(20, 33, 21))
    config = loaded.model.config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert loaded.prefix.held_bytes == len(loaded.prefix.tokens) * per_token
    loaded.prefix.drop()
    assert loaded.prefix.held_bytes == 0


def test_another_conversation_finds_the_memory_of_the_last_one_free(tiny, monkeypatch):
    loaded = tiny("llama-untied")
    talk = Talk(loaded, monkeypatch)
    talk.ask(user(20, 33, 21))
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.removeprefix("<bos> ")
    held = []
    handle = loaded.model.register_forward_pre_hook(lambda *_: held.append(loaded.prefix.held_bytes))
    talk.loaded = replace(loaded, tokenizer=tokenizer)
    talk.ask(user(80))
    handle.remove()
    assert talk.reused[-1] == 0
    assert set(held) == {0}


def test_nothing_is_kept_of_an_answer_that_broke(tiny, monkeypatch):
    loaded = tiny("llama-untied")
    talk = Talk(loaded, monkeypatch)
    talk.ask(user(20, 33, 21))

    def broken(*_):
        raise ValueError("the weights are on fire")

    handle = loaded.model.register_forward_hook(broken)
    with pytest.raises(Exception, match="on fire"):
        talk.ask(user(20, 33, 21))
    handle.remove()
    assert loaded.prefix.cache is None
    talk.ask(user(20, 33, 21))
    assert talk.asked[-1][2] == talk.asked[0][2]


class TestWhatCanBeTaken:
    def cache(self, tokens, window=None):
        layer = DynamicSlidingWindowLayer(sliding_window=window) if window else None
        cache = DynamicCache()
        if layer is not None:
            cache.layers = [layer]
            cache.layer_class_to_replicate = None
        cache.update(torch.zeros(1, 2, tokens, 4), torch.zeros(1, 2, tokens, 4), 0)
        return cache

    def kept(self, cache, tokens):
        prefix = Prefix()
        prefix.keep([*tokens, 999], cache)
        return prefix

    @pytest.mark.parametrize(
        ("prompt", "reused"),
        [([1, 2, 3, 4, 5], 4), ([1, 2, 3, 4], 3), ([1, 2, 9, 9, 9], 2), ([1], 0), ([9, 2, 3], 0)],
        ids=["longer", "the same", "another end", "one token", "another beginning"],
    )
    def test_a_prompt_takes_what_it_has_in_common_but_for_its_last_token(self, prompt, reused):
        cache, found = self.kept(self.cache(4), [1, 2, 3, 4]).take(prompt)
        assert found == reused
        assert (cache.get_seq_length() if cache else 0) == reused

    def test_a_window_that_has_dropped_tokens_is_only_continued(self):
        full = self.cache(8, window=4)
        assert can_be_continued(full)
        assert not can_be_cut(full)
        assert self.kept(full, range(8)).take([*range(8), 8])[1] == 8
        assert self.kept(self.cache(8, window=4), range(8)).take([*range(7), 9, 9])[1] == 0

    def test_a_window_that_is_not_full_is_cut(self):
        cache, reused = self.kept(self.cache(6, window=16), range(6)).take([0, 1, 2, 9])
        assert (cache.get_seq_length(), reused) == (3, 3)

    def test_a_cache_of_another_kind_is_not_kept(self):
        class Compressed(DynamicCache):
            pass

        other = Compressed()
        other.update(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), 0)
        assert self.kept(other, range(4)).cache is None

    def test_a_cache_that_has_read_another_number_of_tokens_is_not_kept(self):
        assert self.kept(self.cache(3), range(4)).cache is None
