"""What each GPU holds when vLLM divides a model, against what vLLM logs."""

from dataclasses import replace

import pytest

from quantspace.estimation.builder import inventory_for
from quantspace.estimation.engines.tensor_parallel import tensor_parallel, weight_shard_bytes
from quantspace.estimation.hardware import find_gpu
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.weights import weight_bytes
from quantspace.hub.catalogue import find_bundled
from quantspace.hub.reference import ModelRef
from quantspace.precision import PRECISIONS
from quantspace.units import GIB

BF16 = PRECISIONS["bf16"]
MODELS = [
    "meta-llama/Llama-3.1-8B",
    "google/gemma-3-27b-it",
    "google/gemma-4-26B-A4B",
    "deepseek-ai/DeepSeek-V2-Lite",
    "Qwen/Qwen3-30B-A3B",
    "Qwen/Qwen3.5-35B-A3B",
    "openai/gpt-oss-20b",
]


def inventory(model, **changes):
    if not changes:
        return inventory_for(ModelRef(model))
    return inventory_from_config({**find_bundled(model).config, **changes}, model)


def on_h100s(model, count, precision=BF16, context=8192, batch=1):
    return tensor_parallel(inventory(model), precision, find_gpu("h100"), count, context, batch, "bfloat16")


# GiB of weights on each GPU, to as many digits as vLLM printed.
@pytest.mark.parametrize(
    ("model", "changes", "count", "logged", "digits"),
    [
        # https://github.com/vllm-project/vllm/issues/10517
        ("meta-llama/Llama-3.1-8B", {}, 1, 14.9888, 4),
        # https://github.com/EleutherAI/lm-evaluation-harness/issues/2431
        ("meta-llama/Llama-3.1-70B-Instruct", {}, 2, 65.7407, 4),
        # https://github.com/vllm-project/vllm/pull/10511, Llama 3 with its 8,192 positions
        ("meta-llama/Llama-3.1-8B", {"max_position_embeddings": 8192}, 1, 14.96, 2),
        ("meta-llama/Llama-3.1-8B", {"max_position_embeddings": 8192}, 2, 7.48, 2),
        # https://github.com/vllm-project/vllm/issues/4344, the Instruct model with its 32,768 tokens
        ("mistralai/Mixtral-8x22B-v0.1", {"vocab_size": 32768}, 8, 32.7642, 4),
    ],
)
def test_a_gpu_holds_the_weights_that_vllm_logs(model, changes, count, logged, digits):
    assert round(weight_shard_bytes(inventory(model, **changes), BF16, count) / GIB, digits) == logged


def test_every_byte_of_a_divided_layer_by_hand():
    held = {term.name: term.bytes for term in on_h100s("meta-llama/Llama-3.1-70B", 4).terms}
    assert held["vocabulary, padded and divided"] == 2 * 128256 * 8192 // 4 * 2
    a_layer = (2 * 8192 * 8192 + 2 * 1024 * 8192 + 3 * 28672 * 8192) // 4 * 2
    assert held["weights divided over the GPUs"] == 80 * a_layer
    assert held["weights that every GPU holds whole"] == (2 * 80 + 1) * 8192 * 2
    assert held["rotary tables"] == 131072 * 128 * 2
    assert held["attention over all tokens"] == 80 * 8192 * 2 * (8 // 4) * 128 * 2


def test_key_value_heads_are_repeated_where_there_are_fewer_than_gpus():
    four, eight = (on_h100s("Qwen/Qwen3-30B-A3B", count) for count in (4, 8))  # it has four
    cache = [next(t.bytes for t in split.terms if "attention" in t.name) for split in (four, eight)]
    assert cache == [48 * 8192 * 2 * 128 * 2] * 2
    heads = next(term.bytes for term in eight.terms if "a head a GPU" in term.name)
    assert heads == 48 * 2 * 128 * 2048 * 2


def test_a_latent_and_its_down_projections_are_on_every_gpu():
    one, four = (on_h100s("deepseek-ai/DeepSeek-V2-Lite", count) for count in (1, 4))
    latent = [next(t.bytes for t in split.terms if "attention" in t.name) for split in (one, four)]
    assert latent == [27 * 8192 * 576 * 2] * 2
    whole = next(term.bytes for term in four.terms if "holds whole" in term.name)
    norms = 27 * (2 * 2048 + 512) + 2048
    routers = 26 * 64 * 2048
    assert whole == 2 * (27 * 576 * 2048 + routers + norms)


def test_heads_that_do_not_divide_are_said_so():
    split = on_h100s("Qwen/Qwen2.5-7B-Instruct", 8)
    assert "28 attention heads" in split.reason
    assert not split.divisible and not split.fits and split.terms == ()
    assert on_h100s("Qwen/Qwen2.5-7B-Instruct", 4).fits


def test_key_value_heads_that_neither_divide_nor_repeat_are_said_so():
    model = replace(inventory("meta-llama/Llama-3.1-8B"), attention_heads=36, key_value_heads=8)
    split = tensor_parallel(model, BF16, find_gpu("h100"), 6, 8192, 1, "bfloat16")
    assert split.reason == "Its 8 key-value heads can neither be divided nor repeated over 6 GPUs."


def test_a_vocabulary_is_padded_as_vllm_pads_it():
    held = {term.name: term.bytes for term in on_h100s("openai-community/gpt2", 2).terms}
    assert held["vocabulary, padded and divided"] == 50304 // 2 * 768 * 2


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4-dq"])
def test_more_gpus_hold_less_each_and_no_less_together(model, precision):
    whole = weight_bytes(inventory(model), PRECISIONS[precision]).held
    shards = [weight_shard_bytes(inventory(model), PRECISIONS[precision], count) for count in (1, 2, 4, 8)]
    assert shards == sorted(shards, reverse=True)
    for count, shard in zip((1, 2, 4, 8), shards, strict=True):
        assert count * shard >= whole * 0.999  # buffers of rotary embeddings are tables in vLLM


@pytest.mark.parametrize("model", MODELS)
def test_terms_add_up_and_what_is_left_follows(model):
    split = on_h100s(model, 2)
    assert sum(term.bytes for term in split.terms) == split.total_bytes
    assert split.free_bytes == split.budget_bytes - split.total_bytes
    assert split.budget_bytes == find_gpu("h100").usable_bytes * 90 // 100
    assert split.fits == (split.free_bytes >= 0)
    assert all(term.shown in split.formula_text for term in split.terms)


@pytest.mark.parametrize("model", MODELS)
def test_more_tokens_or_sequences_never_take_less(model):
    totals = [on_h100s(model, 2, context=context, batch=batch).total_bytes
              for context, batch in ((1, 1), (500, 1), (5000, 1), (5000, 3), (100_000, 3))]  # fmt: skip
    assert totals == sorted(totals)


def test_what_vllm_does_not_run_has_no_split():
    model = inventory("meta-llama/Llama-3.1-8B")
    assert tensor_parallel(model, PRECISIONS["q4_k_m"], find_gpu("h100"), 2, 8192, 1, "bfloat16") is None
    assert tensor_parallel(model, BF16, find_gpu("cpu"), 2, 8192, 1, "bfloat16") is None


def test_bitsandbytes_rows_say_what_vllm_divides():
    notes = on_h100s("meta-llama/Llama-3.1-8B", 2, PRECISIONS["nf4"]).notes
    assert any("refuses a checkpoint that is stored so" in note for note in notes)
