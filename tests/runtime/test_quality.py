"""Figures of quality: as another computation gives them, in the order that precisions have, with honest bounds."""

import pickle
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from quantspace.errors import BadInput, MeasurementFailed, OutOfMemory
from quantspace.hub.demo import DEMO_ID, demo_folder
from quantspace.precision import PRECISIONS
from quantspace.runtime.job import Done, Job, Phase
from quantspace.runtime.loader import load
from quantspace.runtime.quality.figures import Interval, mean_interval, quality_of, share_interval
from quantspace.runtime.quality.logits import mapped, writing
from quantspace.runtime.quality.task import WINDOW, MeasureQuality
from quantspace.runtime.quality.text import MIN_CHARACTERS, EvaluationText, bundled_text, own_text

pytestmark = [
    pytest.mark.xdist_group("quality"),  # one process, so that each precision is loaded once
    pytest.mark.usefixtures("one_thread"),
]

LESSONS = bundled_text(DEMO_ID).content
TOKENS = 1536  # three windows
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def demo():
    """Give the demo model at a precision; each is loaded once."""
    kept = {}

    def at(precision):
        if precision not in kept:
            *_, kept[precision] = load(Job(DEMO_ID, "bundled", str(demo_folder()), precision, 0, 0), [])
        return kept[precision]

    return at


@pytest.fixture(scope="module")
def reference(demo, tmp_path_factory):
    """The outputs of the demo model in float32, on the disk."""
    path = tmp_path_factory.mktemp("quality") / "reference.bin"
    return measured(demo("fp32"), keep_at=str(path)).stored


def measured(loaded, text=LESSONS, tokens=TOKENS, **how):
    *phases, last = MeasureQuality(text, tokens, **how).run(loaded, [])
    assert all(isinstance(phase, Phase) for phase in phases)
    assert isinstance(last, Done)
    return last.result


def quality(loaded, **how):
    return quality_of(measured(loaded, **how).scores)


@pytest.fixture(scope="module")
def windows():
    """The windows that the demo model reads, `(windows, tokens)`."""
    ids = AutoTokenizer.from_pretrained(demo_folder())(LESSONS, verbose=False)["input_ids"]
    return torch.tensor(ids[:TOKENS]).view(-1, WINDOW)


@pytest.fixture(scope="module")
def plainly(windows):
    """Give log-probabilities `(windows, tokens, vocabulary)` in float64, and the loss that transformers works out.

    One window at a time: LLM.int8 keeps those columns in 16 bits that have an outlier anywhere in a batch.
    """

    @cache
    def of(precision):
        model = AutoModelForCausalLM.from_pretrained(demo_folder(), **PRECISIONS[precision].transformers_kwargs())
        with torch.inference_mode():
            made = [model(window[None], labels=window[None]) for window in windows]
        logits = np.concatenate([one.logits.double().numpy() for one in made])
        peak = logits.max(-1, keepdims=True)
        logs = logits - peak - np.log(np.exp(logits - peak).sum(-1, keepdims=True))
        return logs, np.mean([one.loss.item() for one in made])

    return of


class TestAgainstAnotherComputation:
    """Made with transformers and numpy alone, from models that this app has not loaded."""

    @pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4-dq"])
    def test_perplexity_divergence_and_agreement_are_the_same(self, demo, reference, windows, plainly, precision):
        logs, loss = plainly(precision)
        found = quality(demo(precision), reference=reference)

        following = windows.numpy()[:, 1:, None]
        log_of_text = np.take_along_axis(logs[:, :-1], following, -1)
        assert found.tokens == log_of_text.size == TOKENS - 3
        assert np.log(found.perplexity.value) == pytest.approx(-log_of_text.mean(), abs=TOLERANCE)
        assert np.log(found.perplexity.value) == pytest.approx(loss, abs=TOLERANCE)

        theirs, mine = plainly("fp32")[0][:, :-1], logs[:, :-1]
        divergence = (np.exp(theirs) * (theirs - mine)).sum(-1).mean()
        assert found.divergence.value == pytest.approx(divergence, abs=TOLERANCE)
        assert found.divergence.value == pytest.approx(divergence, rel=0.01, abs=1e-9)
        assert found.agreement.value == pytest.approx((theirs.argmax(-1) == mine.argmax(-1)).mean(), abs=TOLERANCE)
        change = np.take_along_axis(theirs - mine, following, -1).mean()
        assert np.log(found.ratio.value) == pytest.approx(change, abs=TOLERANCE)


class TestOrder:
    def test_a_model_compared_with_itself_has_lost_nothing(self, demo, reference):
        found = quality(demo("fp32"), reference=reference)
        assert found.divergence == Interval(0, 0, 0)
        assert found.ratio == Interval(1, 1, 1)
        assert found.agreement.value == 1

    def test_the_same_holds_in_bfloat16_whose_outputs_are_kept_in_two_bytes(self, demo, tmp_path):
        stored = measured(demo("bf16"), keep_at=str(tmp_path / "bf16")).stored
        assert Path(stored.path).stat().st_size == 2 * stored.tokens * stored.vocabulary
        found = quality(demo("bf16"), reference=stored)
        assert found.divergence == Interval(0, 0, 0)
        assert found.agreement.value == 1

    def test_fewer_bits_are_further_from_the_reference(self, demo, reference):
        found = [quality(demo(precision), reference=reference) for precision in ("fp32", "bf16", "int8", "nf4")]
        divergence = [figures.divergence.value for figures in found]
        agreement = [figures.agreement.value for figures in found]
        assert divergence == sorted(divergence) and len(set(divergence)) == 4
        assert agreement == sorted(agreement, reverse=True)
        assert agreement[-1] < agreement[0]

    def test_divergence_of_another_kind_of_text_orders_alike(self, demo, tmp_path):
        passages = bundled_text().content
        stored = measured(demo("fp32"), passages, keep_at=str(tmp_path / "passages")).stored
        found = [quality(demo(precision), text=passages, reference=stored) for precision in ("bf16", "int8", "nf4")]
        assert [f.divergence.value for f in found] == sorted(f.divergence.value for f in found)


class TestReading:
    def test_tokens_are_limited_and_the_rest_of_the_text_is_told(self, demo):
        found = quality(demo("bf16"), tokens=600)
        assert (found.tokens, found.windows, found.window, found.read_tokens) == (598, 2, WINDOW, 600)
        assert found.text_tokens > 3000

    def test_progress_counts_scored_tokens_up_to_all_of_them(self, demo):
        phases = [event for event in MeasureQuality(LESSONS, 1100).run(demo("bf16"), []) if isinstance(event, Phase)]
        assert [phase.done for phase in phases] == [0, 511, 1022, 1097]
        assert {phase.total for phase in phases} == {1097}

    def test_a_context_shorter_than_a_window_is_kept_to(self, demo):
        loaded = demo("bf16")
        short = replace(loaded, readout=replace(loaded.readout, max_context=100))
        assert quality(short, tokens=400).window == 100

    def test_every_window_begins_with_the_tokenizers_bos_and_then_all_of_the_text_is_scored(self, demo):
        loaded = demo("bf16")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(demo_folder())
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, tokenizer.bos_token_id)]
        )
        seen = []
        hook = loaded.model.register_forward_pre_hook(
            lambda _module, _args, kwargs: seen.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
        )
        found = quality(replace(loaded, tokenizer=tokenizer), tokens=1200)
        hook.remove()

        assert found.tokens == found.read_tokens == 1200
        assert {window[0] for window in seen} == {tokenizer.bos_token_id}
        text = [token for window in seen for token in window[1:]]
        assert text == tokenizer(LESSONS, add_special_tokens=False)["input_ids"][:1200]

    def test_a_text_with_too_few_tokens_is_refused(self, demo):
        with pytest.raises(MeasurementFailed, match="2 tokens for this model: too few"):
            measured(demo("bf16"), "<|begin|><|end|>")

    def test_outputs_that_are_no_numbers_are_told(self, demo):
        loaded = demo("fp16")
        norm = loaded.model.model.norm.weight
        before = norm.data.clone()
        norm.data.fill_(60_000)
        try:
            with pytest.raises(MeasurementFailed, match="not numbers on this text: it overflows"):
                measured(loaded, tokens=600)
        finally:
            norm.data.copy_(before)

    def test_a_window_that_does_not_fit_is_out_of_memory_in_our_words(self, demo):
        loaded = demo("bf16")

        def full(*_):
            raise torch.OutOfMemoryError("CUDA out of memory")

        hook = loaded.model.register_forward_pre_hook(full)
        try:
            with pytest.raises(OutOfMemory, match="Memory ran out while quantspace/demo read the text at bf16"):
                measured(loaded)
        finally:
            hook.remove()


@pytest.fixture(scope="module")
def small_tokenizer():
    """One of 300 tokens, for tiny models of 512."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([bundled_text().content], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


class TestArchitectures:
    @pytest.fixture
    def tiny(self, tiny_checkpoint, small_tokenizer):
        def at(name, precision="fp32"):
            *_, loaded = load(Job(f"tiny/{name}", "sha", str(tiny_checkpoint(name)), precision, 0, 0), [])
            return replace(loaded, tokenizer=small_tokenizer)

        return at

    @pytest.mark.parametrize(
        "name", ["gpt2-conv1d", "gemma3-vision", "qwen2.5-vl-vision", "mamba-state", "bloom-alibi"]
    )
    def test_any_model_that_continues_text_is_measured(self, tiny, tmp_path, name):
        text = bundled_text().content
        stored = measured(tiny(name), text, 400, keep_at=str(tmp_path / "reference")).stored
        found = quality(tiny(name, "bf16"), text=text, tokens=400, reference=stored)
        assert found.perplexity.value > 300  # random weights know nothing
        assert 0 < found.divergence.value < 0.01

    @pytest.mark.parametrize("name", ["t5-float32-kept", "bart-two-sided"])
    def test_a_model_that_answers_one_text_with_another_has_no_perplexity(self, tiny, name):
        with pytest.raises(MeasurementFailed, match="perplexity is of models that continue a text"):
            measured(tiny(name))


class TestOnDisk:
    def test_rows_come_back_as_they_were(self, tmp_path):
        rows = torch.randn(7, 11, dtype=torch.bfloat16)
        with writing(str(tmp_path / "rows"), 10**6) as writer:
            writer.append(rows[:3])
            writer.append(rows[3:])
        assert torch.equal(mapped(writer.stored()), rows)

    def test_no_more_rows_are_kept_than_the_limit_allows(self, tmp_path):
        rows = torch.zeros(10, 100)
        with writing(str(tmp_path / "rows"), 1999) as writer:
            assert writer.capacity(rows) == 4
            writer.append(rows[:3])
            assert writer.capacity(rows) == 1

    def test_a_full_disk_is_told_with_what_to_do(self):
        with (
            pytest.raises(MeasurementFailed, match="could not be written to the disk: No space left") as caught,
            writing("/dev/full", 10**9) as writer,
        ):
            writer.append(torch.zeros(1000, 1000))
        assert "fewer tokens" in caught.value.hint

    def test_a_file_that_has_gone_is_told(self, demo, reference):
        with pytest.raises(MeasurementFailed, match="not on the disk any more"):
            measured(demo("bf16"), reference=replace(reference, path="/nowhere/reference.bin"))


class TestIntervals:
    def test_the_mean_lies_inside_as_often_as_is_said(self):
        """Series whose neighbours are alike, as losses of a text are: 95% is said, fewer draws allow ± 4."""
        chance = np.random.default_rng(1)
        inside = 0
        for _ in range(200):
            noise = chance.normal(size=2100)
            series = np.convolve(noise, 0.6 ** np.arange(20), mode="valid")[:2048] + 3
            bounds = mean_interval(series)
            inside += bounds.low <= 3 <= bounds.high
        assert 0.91 <= inside / 200 <= 0.99

    def test_tokens_that_hang_together_count_for_fewer(self):
        chance = np.random.default_rng(2)
        apart = chance.random(2048) < 0.9
        together = np.repeat(chance.random(64) < 0.9, 32)
        widths = [bounds.high - bounds.low for bounds in (share_interval(apart), share_interval(together))]
        assert widths[1] > 3 * widths[0]

    def test_full_agreement_on_some_tokens_is_not_certain(self):
        bounds = share_interval(np.ones(500, dtype=bool))
        assert (bounds.value, bounds.high) == (1, 1)
        assert bounds.low == pytest.approx(500 / (500 + 1.959964**2))  # Wilson's at no failures

    def test_the_same_measurement_has_the_same_bounds(self):
        series = np.random.default_rng(3).random(300)
        assert mean_interval(series) == mean_interval(series)

    @pytest.mark.parametrize("tokens", [1, 2, 31, 33])
    def test_few_tokens_have_bounds_too(self, tokens):
        series = np.linspace(0, 1, tokens)
        for bounds in (mean_interval(series), share_interval(series > 0.5)):
            assert bounds.low <= bounds.value <= bounds.high


class TestTexts:
    def test_the_bundled_one_is_enough_for_the_default_and_has_many_kinds(self):
        text = bundled_text().content
        assert len(text) > 10_000
        for kind in ("def ", "SELECT", "| City", '"order"', "p²", "Le marché", "Wer zum", "said the old woman"):
            assert kind in text

    def test_the_demo_model_is_read_its_own_lessons(self):
        assert bundled_text(DEMO_ID) != bundled_text("org/other") == bundled_text()

    def test_digest_tells_texts_apart(self):
        words = "word " * MIN_CHARACTERS
        assert own_text(words).digest == own_text(f"  {words}\n").digest != own_text(words + "more").digest

    @pytest.mark.parametrize(("size", "words"), [(399, "too few"), (200_001, "at most 200,000")])
    def test_too_short_and_too_long_is_refused(self, size, words):
        with pytest.raises(BadInput, match=words):
            EvaluationText("own", "x" * size)


class TestSeam:
    def test_the_task_pickles_and_needs_no_torch_until_it_runs(self):
        script = (
            "import pickle, sys; from quantspace.runtime.quality.task import MeasureQuality, StoredLogits;"
            "task = MeasureQuality('text', 9, reference=StoredLogits('/tmp/x', 1, 2, 'float32'));"
            "assert pickle.loads(pickle.dumps(task)) == task; assert task.seconds() > 0;"
            "assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])

    def test_what_comes_back_pickles(self, demo, reference):
        found = measured(demo("bf16"), reference=reference)
        again = pickle.loads(pickle.dumps(found))
        assert quality_of(again.scores) == quality_of(found.scores)
