"""How fast a model can be expected to answer."""

import json
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantspace.estimation.builder import inventory_for
from quantspace.estimation.fit import Workload
from quantspace.estimation.hardware import find_gpu, gpus
from quantspace.estimation.speed.expected import decode_speed, prefill_speed
from quantspace.estimation.speed.profiles import pcie
from quantspace.estimation.speed.reads import expert_share, reads
from quantspace.hub.reference import ModelRef
from quantspace.precision import PRECISIONS

BF16 = PRECISIONS["bf16"]
POINTS = json.loads(files("quantspace").joinpath("data/speeds.json").read_text(encoding="utf-8"))["points"]
WITH_BANDWIDTH = [gpu for gpu in gpus().values() if gpu.memory_bandwidth]
MODELS = ["meta-llama/Llama-3.1-8B", "Qwen/Qwen3-30B-A3B", "google/gemma-3-4b-it", "deepseek-ai/DeepSeek-V2-Lite"]

models = st.sampled_from(MODELS).map(lambda name: inventory_for(ModelRef(name)))
cards = st.sampled_from(WITH_BANDWIDTH)
methods = st.sampled_from([p for p in PRECISIONS.values() if p.method not in ("stored", "gguf")])
contexts = st.integers(1, 100_000)
batches = st.integers(1, 64)


def inventory(name):
    return inventory_for(ModelRef(name))


def _name(point):
    phase = point.get("phase", "decode")
    return f"{point['published_as']} {point['precision']} {point['gpu']} b{point['batch']} c{point['context']} {phase}"


@pytest.mark.parametrize("point", POINTS, ids=_name)
def test_published_measurements_lie_in_the_range(point):
    precision = PRECISIONS[point["precision"]]
    precision = replace(precision, dtype=point.get("dtype", precision.dtype))
    precision = replace(precision, engine=point.get("engine", precision.engine))
    gpu = find_gpu(point["gpu"])
    gpu = replace(gpu, memory_bandwidth=point.get("bandwidth", gpu.memory_bandwidth))
    expected = prefill_speed if point.get("phase") == "prefill" else decode_speed
    workload = Workload(point["context"], point["batch"])
    speed = expected(inventory(point["model"]), precision, gpu, point.get("count", 1), workload)
    assert speed.low <= point["tokens_per_s"] <= speed.high


@settings(max_examples=60, deadline=None)
@given(models, methods, cards, contexts, batches)
def test_a_range_goes_from_low_to_high_and_shows_the_arithmetic_that_gave_it(model, precision, gpu, context, batch):
    work = Workload(context, batch)
    for speed in (decode_speed(model, precision, gpu, 1, work), prefill_speed(model, precision, gpu, 1, work)):
        if speed is None:  # a prefill on a card whose TFLOPS aren't known
            continue
        assert 0 < speed.low < speed.high
        for one in (speed.slow, speed.fast):
            assert one.read_term.bytes == one.time["read"]
            assert f"{one.time['read']:,} B" in one.shown
            assert one.read_term.shown


@settings(max_examples=60, deadline=None)
@given(models, methods, cards, contexts, batches, st.floats(1.01, 10))
def test_more_bandwidth_is_never_slower(model, precision, gpu, context, batch, factor):
    faster = replace(gpu, memory_bandwidth=int(gpu.memory_bandwidth * factor))
    one, two = (decode_speed(model, precision, card, 1, Workload(context, batch)) for card in (gpu, faster))
    assert one.low <= two.low
    assert one.high <= two.high


@settings(max_examples=60, deadline=None)
@given(models, methods, cards, contexts, contexts, batches)
def test_a_longer_context_is_never_faster(model, precision, gpu, context, more, batch):
    short, long = (decode_speed(model, precision, gpu, 1, Workload(n, batch)) for n in (context, context + more))
    assert long.low <= short.low
    assert long.high <= short.high


@settings(max_examples=40, deadline=None)
@given(models, cards, contexts, batches)
def test_half_the_bits_are_never_slower_at_the_upper_end(model, gpu, context, batch):
    work = Workload(context, batch)
    wide, narrow = (decode_speed(model, PRECISIONS[p], gpu, 1, work) for p in ("fp32", "fp16"))
    assert narrow.high >= wide.high


@settings(max_examples=40, deadline=None)
@given(models, methods, cards, contexts, st.integers(1, 100_000_000_000))
def test_offloaded_layers_cost_their_way_over_pcie(model, precision, gpu, context, offloaded):
    if gpu.kind != "gpu":
        assert decode_speed(model, precision, gpu, 1, Workload(context, 1), offloaded_bytes=offloaded) is None
        return
    here = decode_speed(model, precision, gpu, 1, Workload(context, 1))
    away = decode_speed(model, precision, gpu, 1, Workload(context, 1), offloaded_bytes=offloaded)
    assert 1 / away.low - 1 / here.low == pytest.approx(offloaded / pcie(gpu)[0], rel=1e-6, abs=1e-9)
    assert 1 / away.high - 1 / here.high == pytest.approx(offloaded / pcie(gpu)[1], rel=1e-6, abs=1e-9)


def test_one_token_visits_8_of_128_experts():
    """Qwen3-30B-A3B: 48 layers of 128 experts of 3 × 2048 × 768: 3.0 billion active parameters, embedding aside."""
    found = reads(inventory("Qwen/Qwen3-30B-A3B"), BF16)
    assert found.expert_elements == 48 * 128 * 3 * 2048 * 768
    assert found.experts == 57_982_058_496
    assert expert_share(128, 8, 1) == 1 / 16
    assert found.experts // 16 == 3_623_878_656
    assert found.layer_elements + found.head_elements + found.expert_elements // 16 == 3_041_867_776


def test_tokens_together_visit_more_experts_but_share_some():
    assert expert_share(128, 8, 2) == pytest.approx(1 - (15 / 16) ** 2)
    assert expert_share(128, 8, 32) == pytest.approx(0.8732, abs=1e-4)
    assert expert_share(8, 8, 1) == 1
    assert expert_share(0, 0, 5) == 0


def test_a_dense_model_is_read_whole_but_for_its_embedding():
    found = reads(inventory("meta-llama/Llama-3.1-8B"), BF16)
    assert found.layers + found.head == 2 * (8_030_261_248 - 128_256 * 4096)
    assert found.row == 2 * 4096


def test_a_tied_embedding_is_read_whole_as_the_head():
    found = reads(inventory("google/gemma-3-4b-it"), BF16)
    assert found.head == 2 * 262_208 * 2560
    assert found.row == 2 * 2560


def test_a_vision_tower_takes_no_part_in_an_answer():
    whole = inventory("google/gemma-3-4b-it")
    tower = sum(t.elements for t in whole.tensors if t.name.startswith("model.vision_tower") and t.role != "buffer")
    projector = sum(t.elements for t in whole.tensors if "multi_modal_projector" in t.name)
    found = reads(whole, BF16)
    assert found.layer_elements + found.head_elements + tower + projector == whole.parameters
    assert found.blocks == 34


def test_an_encoder_reads_the_prompt_only():
    found = reads(inventory("google-t5/t5-small"), PRECISIONS["fp32"])
    assert found.blocks == 6
    assert found.encoder_elements == 18_881_280  # 6 blocks of 3,146,752 and a norm


def test_quantization_constants_are_read_with_the_weights():
    found = reads(inventory("meta-llama/Llama-3.1-8B"), PRECISIONS["nf4"])
    linears = 6_979_321_856
    assert found.linears == 7 * 32
    assert found.linear_copies == 2 * linears
    norms = 2 * (2 * 32 + 1) * 4096
    assert found.layers == linears // 2 + 4 * linears // 64 + 7 * 32 * 64 + norms


def test_quantized_experts_are_dequantized_whole_at_each_use():
    model, work = inventory("Qwen/Qwen3-30B-A3B"), Workload(1024, 1)
    packed = reads(model, PRECISIONS["nf4-moe"])
    assert packed.expert_copies == 57_982_058_496
    assert packed.experts < packed.expert_copies / 3.8
    moe = decode_speed(model, PRECISIONS["nf4-moe"], find_gpu("l4"), 1, work)
    plain = decode_speed(model, PRECISIONS["nf4-dq"], find_gpu("l4"), 1, work)
    assert moe.fast.read["copies"] == packed.experts + packed.expert_copies
    assert moe.high < plain.high / 5


def test_cards_in_a_row_add_no_speed():
    model, work = inventory("meta-llama/Llama-3.1-8B"), Workload(1024, 1)
    one, four = (decode_speed(model, BF16, find_gpu("l4"), count, work) for count in (1, 4))
    assert (one.low, one.high) == (four.low, four.high)
    assert "4 cards one after the other" in four.assumption


def test_tokens_a_second_are_those_of_all_sequences():
    speed = decode_speed(inventory("meta-llama/Llama-3.1-8B"), BF16, find_gpu("l4"), 1, Workload(256, 8))
    assert speed.low == 8 / speed.slow.seconds
    assert speed.high == 8 / speed.fast.seconds


def test_nothing_is_said_of_a_device_whose_memory_speed_is_not_known():
    model = inventory("meta-llama/Llama-3.1-8B")
    assert decode_speed(model, BF16, find_gpu("cpu-basic"), 1, Workload()) is None
    assert prefill_speed(model, BF16, find_gpu("cpu-basic"), 1, Workload()) is None


def test_a_prompt_is_read_slowly_where_the_dtype_is_emulated():
    model, work = inventory("meta-llama/Llama-3.1-8B"), Workload(4096, 1)
    emulated, native = (prefill_speed(model, PRECISIONS[p], find_gpu("t4"), 1, work) for p in ("bf16", "fp16"))
    assert emulated.high < native.high
    assert "bfloat16 is emulated" in emulated.assumption


def test_a_checkpoint_that_is_not_stored_quantized_has_no_speed_as_stored():
    model = inventory("meta-llama/Llama-3.1-8B")
    assert decode_speed(model, PRECISIONS["native"], find_gpu("l4"), 1, Workload()) is None
