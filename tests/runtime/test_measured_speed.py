"""Answers measured on this machine, and what they tell of others."""

import threading

import pytest

from quantspace.estimation.builder import inventory_for
from quantspace.estimation.fit import Workload
from quantspace.estimation.hardware import find_gpu
from quantspace.estimation.speed.expected import decode_speed
from quantspace.hub.reference import ModelRef
from quantspace.precision import PRECISIONS
from quantspace.runtime.job import Stats
from quantspace.runtime.measured_speed import ANSWERS, MODELS, Measurements, device_of

LLAMA = "meta-llama/Llama-3.1-8B"
QWEN = "Qwen/Qwen2.5-14B"
L4 = "NVIDIA L4"


def answer(tokens_per_s=12.0, new_tokens=100, ended="eos"):
    return Stats(50, new_tokens, 0.5, tokens_per_s, ended)


@pytest.fixture
def store():
    return Measurements()


@pytest.mark.parametrize("kept_out", [answer(new_tokens=15), answer(ended="running"), answer(tokens_per_s=None)])
def test_short_unfinished_and_untimed_answers_do_not_count(store, kept_out):
    assert not store.record(L4, LLAMA, "bf16", kept_out)
    assert store.on(find_gpu("l4"), LLAMA, "bf16") is None


def test_a_device_outside_of_the_catalogue_is_passed_over(store):
    assert not store.record("Imaginary GPU 9000", LLAMA, "bf16", answer())


def test_answers_of_a_model_are_told_with_their_spread(store):
    for speed in (11.0, 12.0, 13.0):
        assert store.record(L4, LLAMA, "bf16", answer(speed))
    measured = store.on(find_gpu("l4"), LLAMA, "bf16")
    assert (measured.low, measured.high) == pytest.approx((11.0 * 0.95, 13.0 * 1.05))
    assert (measured.answers, measured.context) == (3, 100)


def test_a_measurement_here_narrows_the_estimate_of_that_model_to_it(store):
    model, card, work = inventory_for(ModelRef(LLAMA)), find_gpu("l4"), Workload(100, 1)
    store.record(L4, LLAMA, "bf16", answer(12.0))
    measured = store.on(card, LLAMA, "bf16")
    speed = decode_speed(model, PRECISIONS["bf16"], card, 1, work, measured=measured)
    assert (speed.low, speed.high) == pytest.approx((11.4, 12.6))
    assert speed.corrected == "Measured here: 11.4 to 12.6 tokens/s over 1 answer."


def test_another_model_on_the_device_narrows_the_range_around_where_it_lay_itself(store):
    llama, qwen = inventory_for(ModelRef(LLAMA)), inventory_for(ModelRef(QWEN))
    card, work, bf16 = find_gpu("l4"), Workload(100, 1), PRECISIONS["bf16"]
    own = decode_speed(llama, bf16, card, 1, work)
    store.expect(llama)
    store.record(L4, LLAMA, "bf16", answer((own.low * own.high) ** 0.5))  # the middle of its range
    measured = store.on(card, QWEN, "bf16")
    wide = decode_speed(qwen, bf16, card, 1, work)
    narrow = decode_speed(qwen, bf16, card, 1, work, measured=measured)
    assert measured.position == store.efficiency_of(card) == pytest.approx(0.5)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert LLAMA in narrow.corrected


def test_a_model_that_was_not_announced_tells_nothing_of_others(store):
    store.record(L4, LLAMA, "bf16", answer())
    card, qwen = find_gpu("l4"), inventory_for(ModelRef(QWEN))
    plain = decode_speed(qwen, PRECISIONS["bf16"], card, 1, Workload(100, 1))
    measured = store.on(card, QWEN, "bf16")
    assert decode_speed(qwen, PRECISIONS["bf16"], card, 1, Workload(100, 1), measured=measured) == plain


def test_a_measurement_says_nothing_of_another_card(store):
    store.record(L4, LLAMA, "bf16", answer())
    assert store.on(find_gpu("t4"), LLAMA, "bf16") is None
    model, elsewhere = inventory_for(ModelRef(LLAMA)), store.on(find_gpu("l4"), LLAMA, "bf16")
    plain = decode_speed(model, PRECISIONS["bf16"], find_gpu("t4"), 1, Workload(100, 1))
    assert decode_speed(model, PRECISIONS["bf16"], find_gpu("t4"), 1, Workload(100, 1), measured=elsewhere) == plain


def test_a_processor_answers_only_for_the_very_model_it_ran(store):
    llama, qwen = inventory_for(ModelRef(LLAMA)), inventory_for(ModelRef(QWEN))
    card, bf16, work = find_gpu("cpu-upgrade"), PRECISIONS["bf16"], Workload(100, 1)
    store.expect(llama)
    store.record("CPU", LLAMA, "bf16", answer(2.0))
    assert store.on(card, QWEN, "bf16") is None
    measured = store.on(card, LLAMA, "bf16")
    assert decode_speed(llama, bf16, card, 1, work) is None
    speed = decode_speed(llama, bf16, card, 1, work, measured=measured)
    assert (speed.low, speed.high) == pytest.approx((1.9, 2.1))
    assert "this machine's processor" in speed.corrected
    assert decode_speed(qwen, bf16, card, 1, work, measured=measured) is None


def test_the_same_precision_is_likelier_than_the_same_model_in_another(store):
    store.record(L4, LLAMA, "nf4", answer(20.0))
    store.record(L4, QWEN, "bf16", answer(8.0))
    assert store.on(find_gpu("l4"), LLAMA, "bf16").model_id == QWEN


@pytest.mark.parametrize(
    ("name", "gpu_id"),
    [
        ("Tesla T4", "t4"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition MIG 2g.48gb", "zerogpu-rtx-pro-6000-half"),
        ("CPU", "cpu-basic"),
    ],
)
def test_names_that_pytorch_prints_are_found(name, gpu_id):
    assert device_of(name).id == gpu_id


def test_a_whole_card_of_zerogpu_is_known_by_its_own_name(store):
    store.record("NVIDIA RTX PRO 6000 Blackwell Server Edition", LLAMA, "bf16", answer(50.0))
    assert store.on(find_gpu("zerogpu xlarge"), LLAMA, "bf16").gpu_id == "zerogpu-rtx-pro-6000-full"


def test_the_store_stays_small_while_threads_fill_it(store):
    def fill(start):
        for number in range(start, start + 200):
            store.record(L4, f"someone/model-{number % 100}", "bf16", answer(float(number + 1)))

    threads = [threading.Thread(target=fill, args=(200 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [store.on(find_gpu("l4"), f"someone/model-{n}", "bf16") for n in range(100)]
    own = [m for n, m in enumerate(found) if m.model_id == f"someone/model-{n}"]
    assert len(own) == MODELS
    assert all(m.answers <= ANSWERS for m in own)
