"""The arithmetic from an inventory to a verdict."""

import json

import pytest

from quantspace import estimate
from quantspace.estimation.builder import inventory_for
from quantspace.estimation.cache import cache_bytes
from quantspace.estimation.fit import Hardware, Workload, fit
from quantspace.estimation.hardware import find_gpu
from quantspace.hub.reference import ModelRef
from quantspace.precision import PRECISIONS

MODELS = [
    "google/gemma-3-4b-it",
    "meta-llama/Llama-3.1-8B-Instruct",
    "deepseek-ai/DeepSeek-V2-Lite",
    "Qwen/Qwen3-30B-A3B",
]


@pytest.fixture(scope="module", params=MODELS)
def inventory(request):
    return inventory_for(ModelRef(request.param))


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
@pytest.mark.parametrize("gpu", ["t4", "l4", "a100-80gb"])
def test_the_longest_context_fits_and_one_token_more_does_not(inventory, precision, gpu):
    card = Hardware(find_gpu(gpu))
    longest = fit(inventory, precision, card, Workload(1, 1)).max_context
    if longest == 0:
        assert fit(inventory, precision, card, Workload(1, 1)).verdict == "no"
        return
    assert fit(inventory, precision, card, Workload(longest, 1)).free_bytes >= 0
    if longest < inventory.max_context:
        assert fit(inventory, precision, card, Workload(longest + 1, 1)).verdict == "no"


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
def test_the_largest_batch_fits_and_one_more_does_not(inventory, precision):
    card = Hardware(find_gpu("a100-80gb"))
    largest = fit(inventory, precision, card, Workload(2048, 1)).max_batch
    assert (largest == 0) == (fit(inventory, precision, card, Workload(2048, 1)).verdict == "no")
    if largest:
        assert fit(inventory, precision, card, Workload(2048, largest)).free_bytes >= 0
        assert fit(inventory, precision, card, Workload(2048, largest + 1)).free_bytes < 0


def test_more_tokens_sequences_or_bits_never_take_less(inventory):
    card = Hardware(find_gpu("t4"))

    def total(precision, context, batch):
        return fit(inventory, PRECISIONS[precision], card, Workload(context, batch)).total_bytes

    by_context = [total("nf4", context, 1) for context in (1, 100, 1023, 1024, 5000, 100_000)]
    by_batch = [total("nf4", 1000, batch) for batch in (1, 2, 3, 10, 100)]
    by_bits = [total(precision, 1000, 1) for precision in ("nf4-dq", "nf4", "int8", "bf16", "fp32")]
    for totals in (by_context, by_batch, by_bits):
        assert totals == sorted(totals)


def test_a_verdict_is_tight_below_the_margin_and_says_so():
    inventory = inventory_for(ModelRef("meta-llama/Llama-3.1-8B-Instruct"))
    card = Hardware(find_gpu("t4"))
    longest = fit(inventory, PRECISIONS["int8"], card, Workload(1, 1)).max_context
    row = fit(inventory, PRECISIONS["int8"], card, Workload(longest, 1))
    assert row.verdict == "tight"
    assert "5% margin" in row.reason


def test_sliding_layers_stop_growing_at_their_window():
    inventory = inventory_for(ModelRef("google/gemma-3-4b-it"))
    # 29 layers hold at most 1,024 tokens and 5 hold all; 4 key-value heads of 256, keys and values, 2 bytes.
    a_token = 2 * 4 * 256 * 2
    assert cache_bytes(inventory, 8192, 1, "bfloat16") == (29 * 1024 + 5 * 8192) * a_token


def test_latent_attention_caches_the_latent():
    inventory = inventory_for(ModelRef("deepseek-ai/DeepSeek-V2-Lite"))
    assert cache_bytes(inventory, 1000, 2, "bfloat16") == 2 * 27 * 1000 * (512 + 64) * 2


def test_fused_experts_stay_in_16_bits_and_the_row_says_so():
    row = estimate("Qwen/Qwen3-30B-A3B", "h100").row("nf4-dq")
    assert 59.6e9 < row.weights.held < 59.8e9
    assert any("fused experts" in note for note in row.notes)


def test_a_checkpoint_stored_quantized_is_loaded_as_published_and_in_no_other_way():
    answer = estimate("deepseek-ai/DeepSeek-V3", "h200", gpu_count=8)
    assert [row.precision.id for row in answer.rows if row.loadable] == ["native"]
    assert any("fp8" in note for note in answer.notes)


def test_the_best_that_fits_is_recommended():
    assert estimate("google/gemma-3-4b-it", "t4").recommended == "bf16"
    assert estimate("meta-llama/Llama-3.1-8B-Instruct", "t4").recommended == "int8"
    assert estimate("meta-llama/Meta-Llama-3.1-405B", "t4").recommended is None


def test_several_cards_carry_what_one_cannot():
    one, four = (estimate("meta-llama/Llama-3.1-70B-Instruct", "a100-80gb", gpu_count=n).row("bf16") for n in (1, 4))
    assert one.verdict == "no" and four.verdict == "fits"
    context = {row.gpu_count: row.terms()["overhead"][0].bytes for row in (one, four)}
    assert context[4] == 4 * context[1]
    assert len(four.shares) == 4 and sum(len(share.cache_layers) for share in four.shares) == 80
    fullest = max(share.weights for share in four.shares)
    assert four.terms()["overhead"][-1].bytes >= 4 * fullest - four.weights.held - four.cache_bytes


def test_a_context_beyond_what_the_model_was_made_for_is_said():
    answer = estimate("openai-community/gpt2", "t4", context=8192)
    assert any("1,024" in note for note in answer.notes)
    assert answer.row("fp32").max_context == 1024


def test_the_answer_is_json():
    assert json.loads(json.dumps(estimate("google/gemma-3-4b-it").as_data()))["gpu"]["id"] == "t4"
