"""What vLLM and llama.cpp keep of a context, against what they log themselves."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantspace.estimation.builder import inventory_for
from quantspace.estimation.cache import cache_bytes
from quantspace.estimation.engines import (
    llama_cpp_compute_bytes,
    llama_cpp_opinion,
    second_opinions,
    vllm_opinion,
)
from quantspace.estimation.inventory import CacheLayer
from quantspace.hub.reference import ModelRef
from quantspace.units import GIB

MIB = 1 << 20
MODELS = [
    "meta-llama/Llama-3.1-8B",
    "google/gemma-3-27b-it",
    "google/gemma-4-26B-A4B",
    "openai/gpt-oss-20b",
    "mistralai/Mistral-7B-v0.1",
    "deepseek-ai/DeepSeek-V2-Lite",
    "deepseek-ai/DeepSeek-V3.2",
    "Qwen/Qwen3.5-27B",
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "LiquidAI/LFM2-1.2B",
    "RandomNameAnd6/DharMamba",
]


def inventory(model):
    return inventory_for(ModelRef(model))


def gemma_3_270m():
    """15 layers with windows of 512 and 3 without, one key-value head of 256 each."""
    rows = (
        CacheLayer("DynamicSlidingWindowLayer", tuple(range(15)), 512, 512),
        CacheLayer("DynamicLayer", (15, 16, 17), None, 512),
    )
    return replace(inventory("google/gemma-3-1b-it"), cache=rows)


# Read back from a running llama-server: https://github.com/unslothai/unsloth/pull/5225 and /7530.
@pytest.mark.parametrize(
    ("total", "slots", "mebibytes"),
    [(4096, 1, 27), (4096, 2, 42), (4096, 4, 72), (4096, 8, 72), (8192, 1, 39), (8192, 2, 54), (1024, 4, 18)],
)
def test_llama_cpp_keeps_as_many_cells_as_its_server_reports(total, slots, mebibytes):
    opinion = llama_cpp_opinion(gemma_3_270m(), total // slots, slots, "float16")
    assert opinion.cache_bytes == mebibytes * MIB


def test_llama_cpp_rounds_each_sequence_up_to_256_cells():
    # 1,024 cells shared by three slots become 3 × 512 (the same measurements).
    assert llama_cpp_opinion(gemma_3_270m(), 1024 // 3, 3, "float16").cache_bytes == 27 * MIB


# `llama_memory_recurrent: size = …` of llama.cpp's own logs; 598.50 also in
# https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/1862
@pytest.mark.parametrize(
    ("model", "sequences", "mebibytes"),
    [
        ("Qwen/Qwen3.5-27B", 4, 598.50),  # R 22.50 + S 576.00
        ("Qwen/Qwen3.5-9B", 2, 100.50),
        ("Qwen/Qwen3.5-35B-A3B", 1, 62.8125),  # logged as 62.81: R 2.81 + S 60.00
    ],
)
def test_llama_cpp_holds_recurrent_states_as_it_logs_them(model, sequences, mebibytes):
    terms = llama_cpp_opinion(inventory(model), 8192, sequences, "float16").terms
    assert sum(term.bytes for term in terms if "states" in term.name) == mebibytes * MIB


def test_an_eight_bit_cache_of_llama_cpp_has_its_scales():
    # 32,768 cells, 8 layers, Q8_0: 272.00 MiB of keys and as many of values in llama.cpp's log of this model.
    terms = llama_cpp_opinion(inventory("Qwen/Qwen3.5-9B"), 32768, 1, "float8_e4m3fn").terms
    assert [term.bytes for term in terms if "Q8_0" in term.name] == [544 * MIB]


def test_a_window_of_llama_cpp_has_room_for_a_step():
    opinion = llama_cpp_opinion(inventory("google/gemma-3-27b-it"), 131072, 1, "float16")
    # 10 layers hold 131,072 tokens, 52 hold 1,024 + 512; keys and values of 16 heads of 128 in 2 bytes.
    assert opinion.cache_bytes == (10 * 131072 + 52 * 1536) * 2 * 16 * 128 * 2
    # 10.41 GiB is what is left without the room for a step, which is what transformers holds.
    assert round(cache_bytes(inventory("google/gemma-3-27b-it"), 131072, 1, "float16") / GIB, 2) == 10.41
    assert opinion.differs


def test_a_latent_is_cached_alone_by_all():
    for opinion in second_opinions(inventory("deepseek-ai/DeepSeek-V3"), 8192, 2, "bfloat16"):
        assert opinion.cache_bytes == 2 * 61 * 8192 * (512 + 64) * 2
        assert not opinion.differs


# `CUDA0 compute buffer size` in logs, e.g. https://github.com/SciSharp/LLamaSharp/issues/1099 (300.75).
@pytest.mark.parametrize(
    ("vocabulary", "hidden", "mebibytes"),
    [(128256, 4096, 258.50), (151936, 2048, 300.75), (151936, 5120, 306.75), (262144, 2560, 517.00)],
)
def test_llama_cpp_reserves_the_logits_of_a_step(vocabulary, hidden, mebibytes):
    model = replace(inventory("meta-llama/Llama-3.1-8B"), vocab_size=vocabulary, hidden_size=hidden)
    term = llama_cpp_compute_bytes(model, 8192, 1)
    assert term.bytes == mebibytes * MIB
    assert term.note


def test_a_short_context_reserves_less():
    model = inventory("meta-llama/Llama-3.1-8B")
    assert llama_cpp_compute_bytes(model, 100, 1).bytes == (128256 + 4096) * 256 * 4
    assert llama_cpp_compute_bytes(replace(model, vocab_size=None), 100, 1) is None


# `Setting attention block size to 784 tokens … Padding mamba page size by 0.13%` in vLLM's logs of Qwen3.5-27B,
# 1056 and 0.76% in those of Qwen3.5-35B-A3B and Qwen3.5-9B.
@pytest.mark.parametrize(
    ("model", "block", "padding"),
    [("Qwen/Qwen3.5-27B", 784, 0.13), ("Qwen/Qwen3.5-35B-A3B", 1056, 0.76)],
)
def test_vllm_makes_an_attention_block_that_holds_a_state(model, block, padding):
    terms = vllm_opinion(inventory(model), 8192, 1, "bfloat16").terms
    (attention,) = (term for term in terms if "attention" in term.name)
    (state,) = (term for term in terms if "states" in term.name)
    row = inventory(model).cache[0]
    unpadded = row.state_elements // 4 * 3 * 2 + row.state_bytes
    assert attention.operands["block"] == block
    assert round(100 * (state.operands["page"] / unpadded - 1), 2) == padding


def test_vllm_pads_windows_to_groups_as_large_as_the_other_layers():
    opinion = vllm_opinion(inventory("google/gemma-3-27b-it"), 131072, 1, "bfloat16")
    # 52 layers with windows become 6 groups of 10; a request may hold 1,023 + 2,048 tokens of each, and a block more.
    blocks = 10 * (131072 // 16) + 60 * (192 + 1)
    assert opinion.cache_bytes == blocks * 16 * 2 * 16 * 128 * 2
    assert "padded to 60" in opinion.terms[0].note


def test_vllm_pads_almost_equal_kinds_to_the_larger():
    rows = (CacheLayer("DynamicSlidingWindowLayer", tuple(range(12)), 128, 1024),
            CacheLayer("DynamicLayer", tuple(range(12, 25)), None, 1024))  # fmt: skip
    opinion = vllm_opinion(replace(inventory("openai/gpt-oss-20b"), cache=rows), 8192, 1, "bfloat16")
    assert [term.operands["layers"] for term in opinion.terms] == [13, 13]


def test_vllm_gives_smaller_heads_longer_blocks():
    opinion = vllm_opinion(inventory("google/gemma-4-26B-A4B"), 8192, 1, "bfloat16")
    pages = {term.operands["block"] * term.operands["token"] for term in opinion.terms}
    assert [term.operands["block"] for term in opinion.terms] == [16, 32]
    assert pages == {16 * 8192}


def test_vllm_holds_chunked_windows_whole():
    model = inventory("meta-llama/Llama-4-Scout-17B-16E-Instruct")
    rows = tuple(replace(row, kind="chunked_attention") if row.window else row for row in model.cache)
    opinion = vllm_opinion(replace(model, cache=rows), 65536, 1, "bfloat16")
    assert opinion.cache_bytes == 48 * 65536 * 2 * 8 * 128 * 2
    assert any("Chunked" in note for note in opinion.notes)
    # llama.cpp keeps a chunk and the room for a step.
    kept = llama_cpp_opinion(replace(model, cache=rows), 65536, 1, "bfloat16").cache_bytes
    assert kept == (12 * 65536 + 36 * (8192 + 512)) * 2 * 8 * 128 * 2


def test_sparse_attention_keeps_its_index_in_eight_bits_in_vllm():
    model = inventory("deepseek-ai/DeepSeek-V3.2")
    # 128 values of an index key and one float32 scale beside the latent.
    assert vllm_opinion(model, 8192, 1, "bfloat16").cache_bytes == 61 * 8192 * (576 * 2 + 132)
    assert vllm_opinion(model, 8192, 1, "float8_e4m3fn").cache_bytes == 61 * 8192 * (656 + 132)


def test_windows_everywhere_are_no_windows_in_a_gguf_file():
    opinion = llama_cpp_opinion(inventory("mistralai/Mistral-7B-v0.1"), 32768, 1, "float16")
    assert opinion.cache_bytes == 32 * 32768 * 2 * 8 * 128 * 2
    assert opinion.notes


@pytest.mark.parametrize("model", ["google-t5/t5-small", "deepseek-ai/DeepSeek-V4-Pro"])
def test_no_opinion_where_the_rule_is_not_known(model):
    assert second_opinions(inventory(model), 8192, 1, "bfloat16") == ()


@pytest.mark.parametrize("model", MODELS)
def test_terms_add_up_and_say_where_they_are_from(model):
    opinions = second_opinions(inventory(model), 5000, 3, "bfloat16")
    assert [opinion.engine for opinion in opinions] == ["vLLM", "llama.cpp"]
    for opinion in opinions:
        assert sum(term.bytes for term in opinion.terms) == opinion.cache_bytes
        assert all(term.note.startswith("https://github.com/") and term.shown for term in opinion.terms)
        assert opinion.differs == (opinion.cache_bytes != cache_bytes(inventory(model), 5000, 3, "bfloat16"))


@settings(max_examples=40, deadline=None)
@given(
    model=st.sampled_from(MODELS), context=st.integers(1, 200_000), batch=st.integers(1, 8), more=st.integers(1, 900)
)
def test_more_tokens_or_sequences_never_take_less(model, context, batch, more):
    model = inventory(model)
    for engine in (vllm_opinion, llama_cpp_opinion):
        least = engine(model, context, batch, "bfloat16").cache_bytes
        assert engine(model, context + more, batch, "bfloat16").cache_bytes >= least
        assert engine(model, context, batch + 1, "bfloat16").cache_bytes > least
        assert engine(model, context, batch, "float32").cache_bytes >= least
