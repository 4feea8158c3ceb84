"""Answers of a real loaded model: streamed, stoppable, told in whole words, whether it chats or completes."""

import time

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from quantspace.errors import ChatFailed
from quantspace.runtime.chat import answer
from quantspace.runtime.job import Job, Message, Sampling, Stats, Text
from quantspace.runtime.loader import load
from quantspace.runtime.streamer import Words
from tests.runtime.chat.asking import BOTH, QUESTION, SECONDS_A_TOKEN, TALK, ask, tokens_of

pytestmark = [
    pytest.mark.xdist_group("chat"),  # one process, so that each model is loaded once
    pytest.mark.usefixtures("one_thread"),
]


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
        crew = []
        stream = answer(endless, QUESTION, Sampling(greedy=True, max_new_tokens=1000), crew)
        next(stream)
        assert crew[0].is_alive()
        stream.close()
        crew[0].join(5)
        assert not crew[0].is_alive()


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
