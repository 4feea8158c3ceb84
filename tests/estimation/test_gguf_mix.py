"""GGUF mixes against files that llama.cpp made: what its tools print for them, to the digits they print."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import gguf
import pytest

from quantspace.estimation.builder import inventory_for
from quantspace.estimation.gguf.mix import DEFAULT_TYPES, gguf_weights, tensor_type
from quantspace.estimation.gguf.model import GgufModel, LikeTensors, gguf_model
from quantspace.estimation.gguf.names import gguf_tensors, in_tower
from quantspace.estimation.gguf.types import BLOCKS, fitting_type
from quantspace.estimation.inventory import Inventory, TensorSpec
from quantspace.hub.catalogue import bundled_models
from quantspace.hub.reference import ModelRef

GIB, MIB = 2**30, 2**20

# Bits per weight in tools/quantize/README.md of llama.cpp.
LLAMA_8B = {"q2_k": 3.1593, "q4_k_m": 4.8944, "q5_k_m": 5.7036, "q6_k": 6.5633, "q8_0": 8.5008}
# The same page of 2024 (examples/quantize/README.md). Its Q2_K, 3.35, is of a mix since given up.
LLAMA_2_7B = {"q3_k_m": 3.91, "q4_k_m": 4.84, "q5_k_m": 5.68, "q6_k": 6.56}

# `model_size` of llama-bench, in bytes: tools/llama-bench/README.md of llama.cpp for the first two; the
# third as reported for lmstudio-community/Qwen3.6-35B-A3B-GGUF, which has the shapes of 3.5.
ROPE_TABLE = 32 * 4  # frequencies of Llama 3's scaled rotary embedding: in its file, but no weight of the class
BYTES = [
    ("Qwen/Qwen2.5-7B-Instruct", "q4_k_m", 4_677_120_000),
    ("meta-llama/Llama-3.2-1B", "q4_k_m", 799_862_912 - ROPE_TABLE),
    ("Qwen/Qwen3.5-35B-A3B", "q4_k_m", 21_155_768_832),
]

# The `size` column of llama-bench, as printed for files converted and quantized by llama.cpp itself.
SIZES = [
    ("meta-llama/Llama-3.1-70B", "q4_k_m", 39.59, GIB),
    ("meta-llama/Llama-3.1-70B", "q2_k", 24.56, GIB),
    ("meta-llama/Llama-2-7b-hf", "q4_k_m", 3.80, GIB),
    ("mistralai/Mistral-7B-Instruct-v0.2", "q4_k_m", 4.07, GIB),
    ("mistralai/Mixtral-8x7B-v0.1", "q4_k_m", 26.49, GIB),
    ("Qwen/Qwen2.5-0.5B", "q4_k_m", 373.71, MIB),
    ("Qwen/Qwen3-8B", "q4_k_m", 4.68, GIB),
    ("Qwen/Qwen3-8B", "q2_k", 3.05, GIB),
    ("Qwen/Qwen3-14B", "q4_k_m", 8.38, GIB),
    ("Qwen/Qwen3-30B-A3B", "q4_k_m", 17.28, GIB),
    ("Qwen/Qwen3-30B-A3B", "q3_k_m", 13.70, GIB),
    ("Qwen/Qwen3.5-9B", "q4_k_m", 5.23, GIB),
    ("google/gemma-2-2b-it", "q5_k_m", 1.79, GIB),
    ("google/gemma-3-1b-it", "q4_k_m", 762.49, MIB),
    ("google/gemma-3-4b-it", "q4_k_m", 2.31, GIB),
    ("google/gemma-3-27b-it", "q4_k_m", 15.40, GIB),
    ("google/gemma-4-26B-A4B", "q4_k_m", 15.63, GIB),
    ("deepseek-ai/DeepSeek-V2-Lite", "q4_k_m", 9.65, GIB),
    ("microsoft/Phi-3-mini-128k-instruct", "q4_k_m", 2.23, GIB),
    ("microsoft/phi-4", "q4_k_m", 8.43, GIB),
    ("openai/gpt-oss-20b", "q4_k_m", 10.81, GIB),
    ("LiquidAI/LFM2-1.2B", "q4_k_m", 694.76, MIB),
    ("HuggingFaceTB/SmolLM3-3B", "q4_k_m", 1.78, GIB),
]


@cache
def inventory_of(model_id: str) -> Inventory:
    return inventory_for(ModelRef(model_id))


def size(inventory: Inventory, mix: str) -> int:
    return sum(group.bytes for group in gguf_weights(inventory, mix))


@pytest.mark.parametrize(("model_id", "mix", "expected"), BYTES)
def test_a_file_is_met_to_the_byte(model_id, mix, expected):
    assert size(inventory_of(model_id), mix) == expected


@pytest.mark.parametrize(("model_id", "mix", "printed", "unit"), SIZES)
def test_a_file_is_met_to_the_digits_that_llama_bench_prints(model_id, mix, printed, unit):
    assert size(inventory_of(model_id), mix) / unit == pytest.approx(printed, abs=0.005)


@pytest.mark.parametrize(("mix", "printed"), LLAMA_8B.items())
def test_bits_per_weight_are_those_of_the_quantizers_readme(mix, printed):
    inventory = inventory_of("meta-llama/Llama-3.1-8B")
    assert 8 * size(inventory, mix) / inventory.parameters == pytest.approx(printed, abs=0.00005 + 1e-6)


@pytest.mark.parametrize(("mix", "printed"), LLAMA_2_7B.items())
def test_bits_per_weight_without_shared_values_are_those_of_the_readme_too(mix, printed):
    inventory = inventory_of("meta-llama/Llama-2-7b-hf")
    assert 8 * size(inventory, mix) / inventory.parameters == pytest.approx(printed, abs=0.005)


def test_blocks_are_as_large_as_the_gguf_package_says():
    sizes = {kind.name: size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {name: sizes[name] for name in BLOCKS} == BLOCKS


@pytest.mark.parametrize(
    ("architecture", "model_id"),
    [
        (gguf.MODEL_ARCH.LLAMA, "meta-llama/Llama-3.1-8B"),
        (gguf.MODEL_ARCH.PHI3, "microsoft/phi-4"),
        (gguf.MODEL_ARCH.GPT2, "openai-community/gpt2"),
        (gguf.MODEL_ARCH.BLOOM, "bigscience/bloom"),
        (gguf.MODEL_ARCH.MPT, "mosaicml/mpt-7b"),
        (gguf.MODEL_ARCH.STARCODER2, "TokenBender/starcoder2_15B_OCI"),
        (gguf.MODEL_ARCH.LFM2, "LiquidAI/LFM2-1.2B"),
        (gguf.MODEL_ARCH.DEEPSEEK2, "deepseek-ai/DeepSeek-V3"),
        (gguf.MODEL_ARCH.GLM_DSA, "zai-org/GLM-5.1"),
        (gguf.MODEL_ARCH.QWEN3NEXT, "QuantTrio/Qwen3-Coder-Next-E336"),
        (gguf.MODEL_ARCH.MAMBA, "RandomNameAnd6/DharMamba"),
        (gguf.MODEL_ARCH.NEMOTRON_H_MOE, "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"),
        (gguf.MODEL_ARCH.GPT_OSS, "openai/gpt-oss-20b"),
        (gguf.MODEL_ARCH.T5, "google-t5/t5-small"),
    ],
)
def test_tensors_are_named_as_the_gguf_package_names_them(architecture, model_id):
    inventory = inventory_of(model_id)
    names = gguf.get_tensor_name_map(architecture, 200)
    theirs = {
        names.get_name(spec.name, try_suffixes=(".weight",)): spec.name
        for spec in inventory.tensors
        if spec.role in ("linear", "embedding", "head") and spec.tied_to is None
    }
    theirs.pop(None, None)  # fused or split on the way: the package is told of the parts only
    ours = {_full_name(tensor) for tensor in gguf_tensors(inventory)}
    missing = {theirs[name]: name for name in theirs if name not in ours}
    assert {name for name in missing if not name.endswith(("kv_b_proj.weight", "in_proj_qkvz.weight"))} == set()


def _full_name(tensor) -> str:
    stack, _, name = tensor.order.partition(".")
    if stack == "-1":
        return name
    prefix = f"{stack[:3]}.blk.{stack[3:]}" if stack[:3] in ("enc", "dec") else f"blk.{stack}"
    return f"{prefix}.{name}"


@pytest.mark.parametrize("model_id", bundled_models())
def test_every_weight_of_the_language_model_is_in_the_file_once(model_id):
    inventory = inventory_of(model_id)
    in_file = sum(group.count * group.elements for group in gguf_weights(inventory, "q4_k_m"))
    text = sum(t.elements for t in inventory.tensors if _is_weight(t))
    assert in_file == text


def _is_weight(spec: TensorSpec) -> bool:
    if spec.tied_to is not None or in_tower(spec):
        return False
    return spec.role != "buffer" or spec.name.endswith(("e_score_correction_bias", "layer_scalar"))


@pytest.mark.parametrize("model_id", bundled_models())
def test_a_larger_mix_is_a_larger_file(model_id):
    sizes = [size(inventory_of(model_id), mix) for mix in DEFAULT_TYPES]
    assert sizes == sorted(sizes, reverse=True)


def test_a_group_shows_how_its_bytes_come_about():
    groups = gguf_weights(inventory_of("meta-llama/Llama-3.1-8B"), "q4_k_m")
    group = next(group for group in groups if group.what == "attn_q")

    assert (group.type, group.count, group.elements) == ("Q4_K", 32, 16_777_216)
    assert group.term.shown == "32 × ⌈16,777,216 weights / 256⌉ × 144 B"
    assert group.term.bytes == group.bytes == 32 * 65_536 * 144


def test_half_of_the_values_and_down_projections_get_six_bits_in_q4_k_m():
    groups = gguf_weights(inventory_of("meta-llama/Llama-3.1-8B"), "q4_k_m")
    assert {(g.what, g.type, g.count) for g in groups if g.what in ("attn_v", "ffn_down")} == {
        ("attn_v", "Q6_K", 16),
        ("attn_v", "Q4_K", 16),
        ("ffn_down", "Q6_K", 16),
        ("ffn_down", "Q4_K", 16),
    }


def test_tied_embeddings_are_quantized_as_the_output():
    types = {g.what: g.type for g in gguf_weights(inventory_of("meta-llama/Llama-3.2-1B"), "q2_k")}
    assert types["token_embd"] == "Q6_K"
    assert "output" not in types


def test_eight_experts_get_eight_bits_for_keys_and_values():
    types = {g.what: g.type for g in gguf_weights(inventory_of("mistralai/Mixtral-8x7B-v0.1"), "q4_k_m")}
    assert (types["attn_k"], types["attn_v"], types["attn_output"]) == ("Q8_0", "Q8_0", "Q5_K")
    assert types["ffn_gate_inp"] == "F32"


def test_experts_published_as_mxfp4_stay_so():
    inventory = inventory_of("openai/gpt-oss-20b")
    kept = {g.type for g in gguf_weights(inventory, "q2_k") if g.what.endswith("_exps")}
    assert kept == {"MXFP4"}
    assert any("MXFP4" in note for note in gguf_model(inventory).notes)


def test_a_latent_cache_has_its_key_and_value_projections_apart():
    latent = {g.what: g for g in gguf_weights(inventory_of("deepseek-ai/DeepSeek-V2-Lite"), "q4_k_m")}
    assert latent["attn_k_b"].type == "Q5_0"  # rows of 128
    assert latent["attn_v_b"].type == "Q4_K"  # rows of 512
    assert latent["attn_k_b"].elements == latent["attn_v_b"].elements == 16 * 128 * 512


def test_deepseek_v3_is_met_as_it_was_converted_before_that_split():
    """llama-bench printed 376.65 GiB for files with one `attn_kv_b`, which the rules of then left in Q4_K."""
    groups = gguf_weights(inventory_of("deepseek-ai/DeepSeek-V3"), "q4_k_m")
    apart = [group for group in groups if group.what in ("attn_k_b", "attn_v_b")]
    whole = sum(group.count * group.elements for group in apart) // 256 * 144

    before = sum(group.bytes for group in groups) - sum(group.bytes for group in apart) + whole
    assert before / GIB == pytest.approx(376.65, abs=0.005)


@pytest.mark.parametrize(
    ("asked", "row", "stored"),
    [
        ("Q4_K", 4096, "Q4_K"),
        ("Q2_K", 896, "Q4_0"),
        ("Q3_K", 896, "Q4_0"),
        ("Q4_K", 896, "Q5_0"),
        ("Q5_K", 896, "Q5_1"),
        ("Q6_K", 896, "Q8_0"),
        ("Q6_K", 100, "F16"),
        ("Q8_0", 100, "F16"),
    ],
)
def test_rows_that_do_not_fit_fall_back(asked, row, stored):
    assert fitting_type(asked, row) == stored


def test_falcon_has_rules_of_its_own():
    falcon = GgufModel({}, tied=False, gqa=71, experts=0, seventy_b=False, falcon=True, exact=True, notes=())
    down = LikeTensors("ffn_down", "ffn_down", 4096, 4096, None, first=False, favoured=True)
    assert tensor_type(down, "q4_k_m", falcon) == "Q5_K"
    assert tensor_type(replace(down, first=True), "q4_k_m", falcon) == "Q6_K"
    assert tensor_type(replace(down, category="output"), "q4_k_m", falcon) == "Q8_0"
    assert tensor_type(replace(down, category="attn_output"), "q3_k_m", falcon) == "Q3_K"


def test_a_vision_tower_is_left_to_its_own_file():
    inventory = inventory_of("google/gemma-3-4b-it")
    assert gguf_model(inventory).exact
    assert any("mmproj" in note for note in gguf_model(inventory).notes)
    assert any(in_tower(spec) for spec in inventory.tensors)


def test_names_that_are_not_known_count_as_ordinary_weights_and_say_so():
    specs = tuple(TensorSpec(f"model.layers.{n}.mixture.heart.weight", (512, 512), "linear") for n in range(4))
    strange = Inventory("a/b", "StrangeForCausalLM", specs, cache=(), peak=(), source="")
    (group,) = gguf_weights(strange, "q4_k_m")

    assert (group.type, group.count, group.bytes) == ("Q4_K", 4, 4 * 1024 * 144)
    assert not gguf_model(strange).exact
    assert "mixture.heart" in gguf_model(strange).notes[0]


def test_a_family_that_splits_nothing_of_what_it_is_named_for_is_counted_whole():
    names = ("mlp.experts.bank", "mlp.shared_experts.up_proj.weight", "self_attn.kv_b_proj.weight",
             "linear_attn.in_proj_qkvz.weight")  # fmt: skip
    specs = tuple(TensorSpec(f"model.layers.0.{name}", (512, 512), "other") for name in names)
    strange = Inventory("a/b", "StrangeForCausalLM", specs, cache=(), peak=(), source="", attention_heads=4)

    assert sum(group.count * group.elements for group in gguf_weights(strange, "q4_k_m")) == 4 * 512 * 512
    assert not gguf_model(strange).exact


@pytest.mark.parametrize("model_id", ["facebook/opt-125m", "meta-llama/Llama-3.2-11B-Vision-Instruct"])
def test_what_llama_cpp_does_not_convert_is_said(model_id):
    model = gguf_model(inventory_of(model_id))
    assert not model.exact
    assert "does not convert" in model.notes[0]


@pytest.mark.parametrize("model_id", ["zai-org/GLM-4.5", "Qwen/Qwen3.5-9B", "google/gemma-4-E2B-it"])
def test_what_a_file_holds_beyond_the_class_is_said(model_id):
    model = gguf_model(inventory_of(model_id))
    assert not model.exact
    assert "also holds" in model.notes[0]


def test_a_model_is_classified_once():
    inventory = inventory_of("meta-llama/Llama-3.1-8B")
    assert gguf_model(inventory) is gguf_model(inventory)
