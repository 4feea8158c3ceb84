"""Answers of a real loaded model: streamed, stoppable, within its context, and one at a time."""

import copy
import queue
import threading
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from quantspace.errors import ChatFailed
from quantspace.hub.demo import DEMO_ID, demo_folder
from quantspace.runtime import worker
from quantspace.runtime.chat import answer
from quantspace.runtime.job import Failed, Job, Loaded, Message, Phase, Sampling, Stats, Text
from quantspace.runtime.loader import load
from quantspace.runtime.streamer import Words
from tests.tiny_models import save_tiny

pytestmark = pytest.mark.xdist_group("chat")  # one process, so that each model is loaded once

QUESTION = (Message("user", "What is NF4?"),)
TALK = (
    Message("user", "What is quantization?"),
    Message("assistant", "It stores weights in fewer bits."),
    Message("user", "What does double quantization do?"),
    Message("assistant", "It quantizes the block scales again."),
    Message("user", "Why does a long context cost memory?"),
)
SECONDS_A_TOKEN = 0.04  # at least, where a test needs time to look on


def demo_job(precision, messages=(), **sampling):
    choice = Sampling(greedy=True, **{"max_new_tokens": 4, **sampling})
    return Job(DEMO_ID, "bundled", str(demo_folder()), precision, 0, 0, messages=tuple(messages), sampling=choice)


BOTH = pytest.mark.parametrize("loaded", ["bf16", "nf4-dq"], indirect=True)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The model is too small for more: they would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models():
    return {}


@pytest.fixture
def loaded(models, request):
    """The demo model at bf16, or at the precision that a test asks for; loaded once."""
    precision = getattr(request, "param", "bf16")
    if precision not in models:
        *_, models[precision] = load(demo_job(precision), [])
    return models[precision]


@pytest.fixture
def endless(loaded, monkeypatch):
    """The model without a token that ends an answer, at a pace that can be followed."""
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", None)
    handle = loaded.model.register_forward_hook(lambda *_: time.sleep(SECONDS_A_TOKEN))
    yield loaded
    handle.remove()


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


class TestAnswer:
    @BOTH
    def test_streams_pieces_and_ends_with_statistics(self, endless):
        *pieces, stats = answer(endless, QUESTION, Sampling(greedy=True, max_new_tokens=12), [])
        assert isinstance(stats, Stats)
        assert sum(isinstance(event, Text) and bool(event.piece) for event in pieces) >= 3

    def test_statistics_grow_with_the_pieces(self, endless):
        *pieces, stats = answer(endless, QUESTION, Sampling(greedy=True, max_new_tokens=12), [])
        counts = [event.so_far.new_tokens for event in pieces] + [stats.new_tokens]
        assert counts == sorted(counts)
        assert any(0 < count < 12 for count in counts)
        assert {event.so_far.ended for event in pieces} == {"running"}

    @BOTH
    def test_an_answer_comes(self, loaded):
        text, stats = ask(loaded, max_new_tokens=24)
        assert text.strip()
        assert "<|" not in text  # the template's own tokens are not part of an answer
        assert stats.ended in ("eos", "length")

    @BOTH
    def test_greedy_is_the_same_every_time_whatever_the_temperature(self, loaded):
        texts = {ask(loaded, max_new_tokens=16, temperature=heat, top_p=0.5)[0] for heat in (0.1, 0.7, 2.0)}
        assert len(texts) == 1

    def test_temperature_zero_is_greedy(self, loaded):
        assert ask(loaded, greedy=False, temperature=0)[0] == ask(loaded)[0]

    def test_sampling_at_a_high_temperature_varies(self, endless):
        texts = {ask(endless, greedy=False, temperature=100.0, top_p=1.0)[0] for _ in range(3)}
        assert len(texts) > 1

    @pytest.mark.parametrize("limit", [1, 2, 11])
    def test_no_more_tokens_than_asked_for(self, endless, limit):
        _, stats = ask(endless, max_new_tokens=limit)
        assert (stats.new_tokens, stats.ended) == (limit, "length")

    def test_answer_that_the_model_ends_itself(self, loaded, monkeypatch):
        every_token = list(range(loaded.model.config.vocab_size))
        monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", every_token)
        _, stats = ask(loaded, max_new_tokens=20)
        assert (stats.new_tokens, stats.ended, stats.tokens_per_s) == (1, "eos", None)

    def test_statistics_agree_with_each_other_and_with_the_clock(self, endless):
        started = time.monotonic()
        _, stats = ask(endless, max_new_tokens=10)
        spent = time.monotonic() - started
        assert stats.prompt_tokens == tokens_of(endless, QUESTION)
        assert 0 < stats.first_token_s < spent
        seconds_after_first = (stats.new_tokens - 1) / stats.tokens_per_s
        assert 9 * SECONDS_A_TOKEN <= seconds_after_first <= spent - stats.first_token_s
        assert stats.dropped_turns == 0

    def test_system_prompt_is_read_before_the_question(self, loaded):
        system = Message("system", "Answer in one word.")
        _, stats = ask(loaded, (system, *QUESTION))
        assert stats.prompt_tokens == tokens_of(loaded, (system, *QUESTION)) > tokens_of(loaded, QUESTION)

    def test_blank_system_prompt_is_none(self, loaded):
        assert ask(loaded, (Message("system", " \n"), *QUESTION))[1].prompt_tokens == tokens_of(loaded, QUESTION)

    def test_earlier_turns_are_read_too(self, loaded):
        assert ask(loaded, TALK)[1].prompt_tokens == tokens_of(loaded, TALK)

    def test_nothing_to_answer_is_refused(self, loaded):
        with pytest.raises(ChatFailed, match="no message to answer"):
            ask(loaded, (Message("system", "Be brief."),))

    @pytest.mark.parametrize("text", ["", " \n\t"])
    def test_an_empty_message_is_refused(self, loaded, text):
        with pytest.raises(ChatFailed, match=r"message is empty.*Write something"):
            ask(loaded, (Message("user", text),))

    def test_error_within_the_model_is_told(self, loaded):
        def broken(*_):
            raise ValueError("the weights are on fire")

        handle = loaded.model.register_forward_hook(broken)
        try:
            with pytest.raises(ChatFailed, match=r"ValueError: the weights are on fire.*Try again"):
                ask(loaded)
        finally:
            handle.remove()
        assert ask(loaded)[1].new_tokens > 0


class TestStopping:
    @BOTH
    def test_closing_stops_the_generation_within_two_tokens(self, endless):
        steps = []
        handle = endless.model.register_forward_hook(lambda *_: steps.append(1))
        stream = answer(endless, QUESTION, Sampling(greedy=True, max_new_tokens=1000), [])
        assert any(event.piece for event in stream)

        before = len(steps)
        stream.close()
        time.sleep(10 * SECONDS_A_TOKEN)  # long enough for many tokens, had it gone on
        handle.remove()

        assert 0 < before <= len(steps) <= before + 2

    def test_nothing_of_a_stopped_answer_goes_on(self, endless):
        before = set(threading.enumerate())
        stream = answer(endless, QUESTION, Sampling(greedy=True, max_new_tokens=1000), [])
        next(stream)
        started = set(threading.enumerate()) - before
        stream.close()
        for thread in started:
            thread.join(timeout=5)
        assert started
        assert not any(thread.is_alive() for thread in started)


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


class TestWords:
    def pieces(self, tokenizer, ids, step=1):
        words = Words(tokenizer)
        return [words.more(ids[:count]) for count in range(step, len(ids), step)] + [words.more(ids, last=True)]

    @pytest.mark.parametrize("text", ["What is NF4?", "naïve 数 🙂 café", "  two  spaces\n\n    and lines"])
    @pytest.mark.parametrize("step", [1, 3])
    def test_pieces_are_the_text_whatever_comes_at_once(self, loaded, text, step):
        ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert "".join(self.pieces(loaded.tokenizer, ids, step)) == loaded.tokenizer.decode(ids)

    def test_half_a_sign_waits_for_its_other_half(self, loaded):
        ids = loaded.tokenizer("🙂", add_special_tokens=False)["input_ids"]
        assert len(ids) > 1
        *before, last = self.pieces(loaded.tokenizer, ids)
        assert (set(before), last) == ({""}, "🙂")


BEGINNING, END = "The future of AI is", "small and open and runs on your own card ."
SENTENCE = f"{BEGINNING} {END}"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    vocabulary = ["<end>", "<unk>", *dict.fromkeys(SENTENCE.split())]
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="<unk>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, **shape))
    ids = torch.tensor([[*tokenizer(SENTENCE)["input_ids"], 0]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    loaded = {}
    for precision in ("fp32", "int8"):
        *_, loaded[precision] = load(Job("tests/base", "sha", str(folder), precision, 0, 0), [])
    return loaded


class TestBaseModels:
    """A model of GPT-2's shape without a chat template, trained for a moment to end one sentence."""

    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_a_beginning_is_completed(self, base, precision):
        text, stats = ask(base[precision], (Message("user", BEGINNING),), max_new_tokens=20)
        assert text.strip() == END
        assert stats.completion
        assert stats.ended == "eos"

    def test_a_tokenizer_without_a_pad_token_will_do(self, base):
        assert base["fp32"].tokenizer.pad_token_id is None

    def test_eight_bits_stay_close_to_fp32(self, base):
        ids = base["fp32"].tokenizer(SENTENCE, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            exact, rounded = (base[precision].model(ids, labels=ids) for precision in ("fp32", "int8"))
        assert base["int8"].readout.held_bytes < 0.5 * base["fp32"].readout.held_bytes
        difference = (exact.logits - rounded.logits).abs().max()
        assert 0 < difference < 0.05 * exact.logits.abs().max()
        assert float(rounded.loss.exp()) == pytest.approx(float(exact.loss.exp()), rel=0.02)  # perplexity

    def test_only_a_completion_is_called_one(self, loaded):
        assert not ask(loaded)[1].completion


class TestWorker:
    @pytest.fixture(autouse=True)
    def empty_worker(self):
        worker.unload()
        yield
        worker.unload()

    def phases(self, job):
        """The names of a job's phases in order, and its last event."""
        events = list(worker.serve(job))
        names = [event.name for event in events if isinstance(event, Phase)]
        return [name for name, following in pairwise([*names, None]) if name != following], events[-1]

    def test_job_without_messages_loads_and_shows_what_is_held(self):
        phases, last = self.phases(demo_job("nf4-dq"))
        assert phases == ["load"]
        assert isinstance(last, Loaded)
        assert (last.readout.model_id, last.readout.precision) == (DEMO_ID, "nf4-dq")

    def test_job_with_messages_is_answered_with_the_model_that_is_there(self):
        self.phases(demo_job("nf4-dq"))
        phases, last = self.phases(demo_job("nf4-dq", QUESTION))
        assert phases == ["generate"]
        assert isinstance(last, Stats)

    def test_job_with_messages_loads_the_model_that_is_not_there(self):
        phases, last = self.phases(demo_job("bf16", QUESTION))
        assert phases == ["load", "generate"]
        assert isinstance(last, Stats)

    def test_another_precision_replaces_the_model(self):
        loads = [self.phases(demo_job(precision))[0] for precision in ("bf16", "nf4-dq", "nf4-dq", "bf16")]
        assert loads == [["load"], ["load"], [], ["load"]]

    def test_another_commit_replaces_the_model(self):
        self.phases(demo_job("bf16"))
        assert self.phases(replace(demo_job("bf16"), sha="other"))[0] == ["load"]

    def test_error_of_a_load_is_an_event_and_the_next_job_is_served(self, tmp_path):
        _, last = self.phases(replace(demo_job("bf16"), folder=str(tmp_path / "missing")))
        assert isinstance(last, Failed)
        assert last.code == "load_failed"
        assert last.hint
        assert isinstance(self.phases(demo_job("bf16"))[1], Loaded)

    def test_error_of_an_answer_is_an_event_and_the_model_stays(self):
        self.phases(demo_job("bf16"))
        _, last = self.phases(demo_job("bf16", [Message("user", "memory " * 5000)]))
        assert isinstance(last, Failed)
        assert last.code == "chat_failed"
        assert self.phases(demo_job("bf16", QUESTION))[0] == ["generate"]

    @pytest.mark.parametrize("architecture", ["llama-tied", "gpt2-conv1d", "gemma3-text"])
    def test_checkpoint_without_a_tokenizer_is_told(self, tmp_path, architecture):
        save_tiny(architecture, tmp_path)
        _, last = self.phases(replace(demo_job("bf16"), folder=str(tmp_path), sha="mute"))
        assert isinstance(last, Failed)
        assert "comes without a tokenizer" in last.message
        assert last.hint

    def test_broken_tokenizer_is_told(self, tmp_path):
        save_tiny("llama-tied", tmp_path)
        (tmp_path / "tokenizer.json").write_text('{"model":')
        _, last = self.phases(replace(demo_job("bf16"), folder=str(tmp_path), sha="broken"))
        assert isinstance(last, Failed)
        assert "tokenizer" in last.message
        assert "can't be read" in last.message

    def test_mistake_of_our_own_is_an_event_too(self, monkeypatch):
        def broken(job, crew):
            raise ZeroDivisionError("division by zero")
            yield

        monkeypatch.setattr(worker, "load", broken)
        assert list(worker.serve(demo_job("bf16"))) == [
            Failed("internal", "Something broke here: ZeroDivisionError: division by zero", "Try again.")
        ]

    def test_closed_job_makes_way_for_the_next(self):
        stream = worker.serve(demo_job("bf16", QUESTION, max_new_tokens=500))
        assert any(isinstance(event, Text) for event in stream)
        stream.close()
        assert self.phases(demo_job("bf16", QUESTION))[0] == ["generate"]

    def test_second_job_at_once_waits_for_its_turn(self):
        first = worker.serve(demo_job("bf16", QUESTION))
        next(first)  # it runs now, and stays where it is until it is read on

        seen = queue.Queue()
        second = threading.Thread(target=lambda: [seen.put(event) for event in worker.serve(demo_job("nf4-dq"))])
        second.start()
        assert seen.get(timeout=10) == Phase("wait")

        assert isinstance(list(first)[-1], Stats)
        second.join(timeout=30)
        later = list(seen.queue)
        assert Phase("wait") not in later[-2:]
        assert isinstance(later[-1], Loaded)
        assert later[-1].readout.precision == "nf4-dq"
