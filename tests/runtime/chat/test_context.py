"""What a model reads of a conversation: by its template, and as much as its context holds."""

import copy
from dataclasses import replace

import pytest

from quantspace.errors import ChatFailed
from quantspace.runtime import worker
from quantspace.runtime.chat import answer
from quantspace.runtime.job import Message, Sampling
from tests.runtime.chat.asking import QUESTION, TALK, ask, demo_job, tokens_of

pytestmark = [
    pytest.mark.xdist_group("chat"),  # one process, so that each model is loaded once
    pytest.mark.usefixtures("one_thread"),
]


class TestTemplates:
    def with_template(self, loaded, template):
        tokenizer = copy.deepcopy(loaded.tokenizer)
        tokenizer.chat_template = template
        return replace(loaded, tokenizer=tokenizer)

    def test_model_without_a_template_continues_the_last_message(self, loaded):
        base = self.with_template(loaded, None)
        _, stats = ask(base, TALK)
        assert stats.prompt_tokens == len(base.tokenizer(TALK[-1].content)["input_ids"])

    ROLES = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
    NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}" + ROLES

    @pytest.mark.parametrize("turns", [QUESTION, TALK], ids=["one turn", "five turns"])
    def test_template_that_refuses_a_system_prompt_gets_it_with_the_first_question(self, loaded, turns):
        picky = self.with_template(loaded, self.NO_SYSTEM)
        _, stats = ask(picky, (Message("system", "Be brief."), *turns))
        merged = (Message("user", f"Be brief.\n\n{turns[0].content}"), *turns[1:])
        assert stats.prompt_tokens == tokens_of(picky, merged)

    @pytest.mark.parametrize("system", [(), (Message("system", "Be brief."),)], ids=["without", "with system prompt"])
    def test_template_that_refuses_everything_is_told(self, loaded, system):
        broken = self.with_template(loaded, "{{ raise_exception('Roles must alternate') }}")
        with pytest.raises(ChatFailed, match=r"Roles must alternate.*Clear the chat"):
            ask(broken, (*system, *QUESTION))


class TestContext:
    def within(self, loaded, limit):
        return replace(loaded, readout=replace(loaded.readout, max_context=limit))

    @pytest.mark.parametrize("dropped", [0, 2, 4])
    def test_conversation_that_outgrows_the_context_loses_its_oldest_turns(self, loaded, dropped):
        short = self.within(loaded, tokens_of(loaded, TALK[dropped:]) + 4)
        _, stats = ask(short, TALK, max_new_tokens=4)
        assert stats.dropped_turns == dropped
        assert stats.prompt_tokens == tokens_of(loaded, TALK[dropped:])

    def test_system_prompt_stays_when_turns_go(self, loaded):
        system = Message("system", "Answer in one word.")
        short = self.within(loaded, tokens_of(loaded, (system, *TALK[2:])) + 4)
        _, stats = ask(short, (system, *TALK), max_new_tokens=4)
        assert (stats.dropped_turns, stats.prompt_tokens) == (2, tokens_of(loaded, (system, *TALK[2:])))

    def test_answer_ends_where_the_context_does(self, endless):
        short = self.within(endless, tokens_of(endless, QUESTION) + 12)
        _, stats = ask(short, max_new_tokens=500)
        assert (stats.new_tokens, stats.ended) == (12, "length")

    def test_long_question_without_an_answer_does_not_block_the_next_one(self, loaded):
        too_long = Message("user", "memory " * 200)
        short = self.within(loaded, 100)
        with pytest.raises(ChatFailed):
            ask(short, (too_long,))
        _, stats = ask(short, (too_long, *QUESTION))
        assert (stats.dropped_turns, stats.prompt_tokens) == (1, tokens_of(loaded, QUESTION))

    def test_one_message_longer_than_the_context_is_refused_with_both_lengths(self, loaded):
        message = Message("user", "memory " * 200)
        length = tokens_of(loaded, (message,))
        with pytest.raises(ChatFailed, match=f"{length:,} tokens long; the model reads at most 100.*shorter"):
            ask(self.within(loaded, 100), (message,))

    def test_context_that_was_asked_for_is_kept_to(self, endless):
        asked_for = tokens_of(endless, TALK[2:]) + 16
        *_, stats = answer(endless, TALK, Sampling(greedy=True, max_new_tokens=500), [], context=asked_for)
        assert stats.prompt_tokens + stats.new_tokens == asked_for
        assert stats.dropped_turns > 0

    def test_context_beyond_what_the_model_was_made_for_gives_no_more(self, endless):
        short = self.within(endless, tokens_of(endless, QUESTION) + 12)
        *_, stats = answer(short, QUESTION, Sampling(greedy=True, max_new_tokens=500), [], context=10**6)
        assert stats.new_tokens == 12

    def test_message_longer_than_the_context_asked_for_is_told_where_to_ask_for_more(self, loaded):
        message = Message("user", "memory " * 200)
        with pytest.raises(ChatFailed, match=r"context that was asked for has 100\..*longer context in the form"):
            list(answer(loaded, (message,), Sampling(), [], context=100))

    def test_job_takes_its_context_along(self):
        worker.unload()
        job = replace(demo_job("bf16", TALK, max_new_tokens=8), context=44)
        *_, stats = worker.serve(job)
        assert stats.dropped_turns > 0
        worker.unload()
