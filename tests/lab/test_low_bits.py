"""Few bits: what rounding costs the demo model, and what training with it wins back."""

import hashlib

import pytest
import torch
from torch.nn.functional import cross_entropy

from quantspace.errors import BadInput
from quantspace.hub.demo import demo_folder
from quantspace.lab.experiments import AS_IS, CONTROL, PTQ, QAT, LowBits, LowBitsResult
from quantspace.lab.lessons import demo_model, demo_tokenizer, exercises, questions, recall
from quantspace.lab.low_bits import packed_bytes, quantized_layers, train
from quantspace.lab.recipes import finish_training, prepare_for_training, quantize_after_training
from quantspace.runtime.job import Phase

SHORT = LowBits(bits=2, steps=12, batch=4, questions=24, control=False)


def folder_digest() -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in demo_folder().iterdir()}


@pytest.fixture(scope="module")
def events():
    before = folder_digest()
    events = list(SHORT.run())
    assert folder_digest() == before  # the model on the disk is as it was
    return events


@pytest.fixture(scope="module")
def result(events) -> LowBitsResult:
    return [event for event in events if isinstance(event, LowBitsResult)][-1]


def test_training_with_two_bits_in_sight_wins_back_much_of_what_rounding_cost(result):
    before, after, trained = (result.state(name).loss for name in (AS_IS, PTQ, QAT))
    assert before < 0.001
    assert after > 1
    assert trained < 0.75 * after


def test_more_answers_are_right_again(result):
    assert result.state(QAT).right > result.state(PTQ).right + 0.05


def test_progress_counts_the_steps_and_the_curve_grows_with_them(events, result):
    steps = [event.done for event in events if isinstance(event, Phase) and event.total == SHORT.steps]
    assert steps == list(range(1, SHORT.steps + 1))
    assert len(result.curve) == SHORT.steps


def test_what_is_trained_to_be_rounded_takes_no_byte_more(result):
    weights = sum(layer.weight.numel() for layer in quantized_layers(demo_model()))
    scales = 4 * weights // 64
    assert result.state(AS_IS).packed_bytes == 2 * weights
    assert result.state(PTQ).packed_bytes == result.state(QAT).packed_bytes == weights * 2 // 8 + scales


@pytest.mark.parametrize("group", [64, 0])
@pytest.mark.parametrize("bits", [4, 3, 2])
def test_training_sees_the_very_weights_that_are_kept(bits, group):
    """Prepared but not trained a step, the model is the one that is rounded after training."""
    ids = questions(demo_tokenizer(), 2)[0][0]
    models = (
        prepare_for_training(demo_model(), bits, group),
        finish_training(prepare_for_training(demo_model(), bits, group), bits, group),
        quantize_after_training(demo_model(), bits, group),
    )
    with torch.inference_mode():
        logits = [model(input_ids=ids, use_cache=False).logits for model in models]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_weights_take_no_more_values_than_the_bits_allow(bits):
    rounded = quantize_after_training(demo_model(), bits, 64)
    values = {value for layer in quantized_layers(rounded) for value in layer.weight.qdata.unique().tolist()}
    assert values == set(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))


def test_fewer_bits_cost_more():
    batches = questions(demo_tokenizer(), 24)
    losses = [recall(quantize_after_training(demo_model(), bits, 64), batches).loss for bits in (4, 3, 2)]
    assert losses == sorted(losses)
    assert losses[0] < 0.01 < 1 < losses[2]


def test_the_same_seed_trains_the_same_model():
    asked = LowBits(bits=2, steps=2, batch=2, seed=3)
    curves = [tuple(train(demo_model(), demo_tokenizer(), asked)) for _ in range(2)]
    assert curves[0] == curves[1]
    other = tuple(train(demo_model(), demo_tokenizer(), LowBits(bits=2, steps=2, batch=2, seed=4)))
    assert other != curves[0]


def test_the_comparison_without_rounding_is_rounded_at_the_end():
    asked = LowBits(bits=3, steps=1, batch=1, questions=4)
    last = [event for event in asked.run() if isinstance(event, LowBitsResult)][-1]
    assert [state.name for state in last.states] == [AS_IS, PTQ, QAT, CONTROL]
    assert last.state(CONTROL).packed_bytes == last.state(PTQ).packed_bytes


def test_loss_is_the_cross_entropy_of_the_answers_tokens():
    model, batches = demo_model(), questions(demo_tokenizer(), 3)
    total, tokens = 0.0, 0
    for ids, labels in batches:
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        total += cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum").item()
        tokens += int((labels != -100).sum())
    known = recall(model, batches)
    assert known.tokens == tokens
    assert known.loss == pytest.approx(total / tokens, rel=1e-4)


def test_what_is_asked_is_never_trained_on():
    tokenizer = demo_tokenizer()
    asked = {tuple(row.tolist()) for ids, _ in questions(tokenizer) for row in _trimmed(ids, tokenizer)}
    drawn = exercises(tokenizer, seed=0)
    trained = {tuple(row.tolist()) for _ in range(40) for row in _trimmed(next(drawn)[0], tokenizer)}
    assert not asked & trained


def _trimmed(ids: torch.Tensor, tokenizer) -> list[torch.Tensor]:
    return [row[row != tokenizer.pad_token_id] for row in ids]


@pytest.mark.parametrize(
    ("values", "found"),
    [({"bits": 5}, "Bits is “5”"), ({"group": 7}, "“7”"), ({"steps": 0}, "Steps is “0”"), ({"steps": 10**6}, "Steps")],
)
def test_a_value_out_of_range_is_told(values, found):
    with pytest.raises(BadInput, match=found):
        LowBits(**values)


def test_packed_bytes_of_a_model_that_is_not_rounded_are_those_of_its_file():
    model = demo_model()
    assert packed_bytes(model, 4) == 2 * sum(layer.weight.numel() for layer in quantized_layers(model))
