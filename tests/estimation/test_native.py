"""Checkpoints that are stored quantized: what memory will hold of them, by their configs."""

import copy

import pytest
import torch

from quantspace.errors import ModelUnsupported
from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.native import native_method, outside_footprint, quantization_of
from quantspace.hub.catalogue import bundled_models, find_bundled
from tests.estimation.native_tensors import bytes_of, elements_of, tensors_of

STORED_QUANTIZED = [
    model_id for model_id in bundled_models() if quantization_of(find_bundled(model_id).config) is not None
]


def without(tensors, *endings):
    return [t for t in tensors if not t.name.endswith(endings)]


# --- every bundled checkpoint -----------------------------------------------------------------------------


_UNTOLD = "Which layers of this checkpoint are quantized, and how, is not told in the config given."
NOT_TOLD = {  # their bundled configs leave it out
    "nvidia/MiniMax-M3-NVFP4": "This checkpoint mixes formats layer by layer, and the list of its layers is not in the "
    "config given.",
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8": _UNTOLD,
    "nvidia/GLM-5-NVFP4": _UNTOLD,
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4": _UNTOLD,
    "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-FP8": _UNTOLD,
}


@pytest.mark.parametrize("model_id", STORED_QUANTIZED)
def test_every_bundled_checkpoint_gets_an_answer_or_a_reason(model_id):
    config = find_bundled(model_id).config
    try:
        tensors = tensors_of(config)
    except ModelUnsupported as refusal:
        assert refusal.message == NOT_TOLD[model_id] and refusal.hint
        return
    plain = copy.deepcopy(config)
    plain.pop("quantization_config", None)
    parsed = parse_config(plain)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in model_class(parsed)(parsed).parameters())
    held = bytes_of(tensors)
    print(f"{model_id}: {held:,} B, {8 * held / parameters:.2f} bits a parameter")
    assert len({t.name for t in tensors}) == len(tensors)
    assert all(t.rows == 0 for t in tensors)
    assert 4 < 8 * held / parameters < 12


def test_the_sentence_says_what_runs_it():
    sentence = {id_: native_method(find_bundled(id_).config).needs for id_ in STORED_QUANTIZED}
    assert "8.9" in sentence["Qwen/Qwen3-8B-FP8"]
    assert "triton" in sentence["openai/gpt-oss-20b"]
    assert "gptqmodel" in sentence["TheBloke/Llama-2-13B-chat-GPTQ"]
    assert "10.0" in sentence["nvidia/GLM-5.1-NVFP4"]
    assert "16-bit row" in sentence["moonshotai/Kimi-K2.5"]


# --- against what the Hub counts in the published files ---------------------------------------------------


@pytest.mark.parametrize("model_id", ["Qwen/Qwen3-8B-FP8", "Qwen/Qwen3-235B-A22B-FP8"])
def test_fp8_weights_and_scales_are_those_of_the_published_files(model_id):
    entry = find_bundled(model_id)
    stored = without(tensors_of(entry.config), "inv_freq")
    assert elements_of(stored) == entry.official_parameters


@pytest.mark.parametrize("model_id", ["deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3.2"])
def test_deepseek_files_hold_one_more_layer_which_transformers_drops(model_id):
    entry = find_bundled(model_id)
    layers = entry.config["num_hidden_layers"]
    tensors = without(tensors_of(entry.config), "inv_freq")
    longer = without(tensors_of({**entry.config, "num_hidden_layers": layers + 1}), "inv_freq")
    hidden, vocabulary = entry.config["hidden_size"], entry.config["vocab_size"]
    # Its embedding and head are copies; eh_proj joins two states; enorm, hnorm and the head's norm.
    beside_the_layer = 2 * vocabulary * hidden + 2 * hidden * hidden + 3 * hidden

    dropped = elements_of(longer) - elements_of(tensors) + beside_the_layer

    print(f"{model_id}: {elements_of(tensors):,} + {dropped:,} of the dropped layer")
    assert elements_of(tensors) + dropped == entry.official_parameters


# `total_size` of model.safetensors.index.json as openai publishes it.
@pytest.mark.parametrize(
    "model_id, total_size", [("openai/gpt-oss-20b", 13_761_264_768), ("openai/gpt-oss-120b", 65_248_815_744)]
)
def test_gpt_oss_is_its_files_and_biases_that_memory_holds_in_float32(model_id, total_size):
    entry = find_bundled(model_id)
    tensors = tensors_of(entry.config)
    rotary = bytes_of([t for t in tensors if "inv_freq" in t.name])
    biases = elements_of([t for t in tensors if t.name.endswith(("gate_up_proj_bias", "down_proj_bias"))])

    print(f"{model_id}: {total_size:,} in files + {2 * biases:,} of biases + {rotary:,} of rotary buffers")
    assert bytes_of(tensors) == total_size + 2 * biases + rotary
    # The Hub counts two weights for each packed byte.
    packed = elements_of([t for t in tensors if t.role == "experts"])
    assert elements_of(without(tensors, "inv_freq")) + packed == entry.official_parameters


def test_kimi_packs_its_experts_and_leaves_the_vision_tower():
    entry = find_bundled("moonshotai/Kimi-K2.5")
    stored = without(tensors_of(entry.config), "inv_freq", "time_position_embeddings")
    # The Hub counts eight weights for each 32-bit word, be it a shape; files hold the shapes in 32 bits too.
    words = elements_of(stored, "int32", "int64")

    assert elements_of(stored) + 7 * words == entry.official_parameters
    assert not [t for t in stored if "vision" in t.name and t.fixed_dtype == "int32"]


def test_fbgemm_of_the_attention_left_alone_is_the_published_file():
    entry = find_bundled("meta-llama/Llama-3.1-405B-Instruct-FP8")
    config = copy.deepcopy(entry.config)
    # The bundled copy lists ten of the modules that were skipped; the files hold scales for the MLPs of 124 layers.
    config["quantization_config"]["modules_to_not_convert"] += ["lm_head", r"model.layers.\d+.self_attn"]

    stored = without(tensors_of(config), "inv_freq", "input_scale_ub")

    assert elements_of(stored) == entry.official_parameters


def test_bitsandbytes_packs_what_its_config_says():
    entry = find_bundled("aiplanet/LuxLlama")
    tensors = tensors_of(entry.config)
    packed = [t for t in tensors if t.role == "linear" and t.fixed_dtype == "uint8"]
    missed = outside_footprint(tensors)

    assert (
        elements_of(without([t for t in tensors if t.name not in missed], "inv_freq")) + elements_of(packed)
        == entry.official_parameters
    )
    assert {name.rpartition(".")[2] for name in missed} == {
        "absmax", "quant_map", "nested_absmax", "nested_quant_map", "nested_offset",
    }  # fmt: skip


def test_gptq_holds_words_scales_zeros_and_an_order_of_inputs():
    tensors = {t.name: t for t in tensors_of(find_bundled("TheBloke/Llama-2-13B-chat-GPTQ").config)}
    down = {leaf: tensors[f"model.layers.0.mlp.down_proj.{leaf}"] for leaf in ("qweight", "qzeros", "scales", "g_idx")}

    assert {leaf: (t.shape, t.fixed_dtype) for leaf, t in down.items()} == {
        "qweight": ((1728, 5120), "int32"),
        "qzeros": ((108, 640), "int32"),
        "scales": ((108, 5120), "float16"),
        "g_idx": ((13824,), "int32"),
    }
    assert bytes_of(tensors.values()) == 7_255_009_792
    assert tensors["lm_head.weight"].fixed_dtype is None


def test_gptq_rules_skip_layers_and_change_bits():
    config = copy.deepcopy(find_bundled("TheBloke/Llama-2-13B-chat-GPTQ").config)
    config["quantization_config"]["dynamic"] = {
        r"-:model\.layers\.0\..*": {},
        r"+:model\.layers\.1\..*": {"bits": 8, "group_size": 32},
    }
    tensors = {t.name: t for t in tensors_of(config)}

    assert tensors["model.layers.0.mlp.down_proj.weight"].shape == (5120, 13824)
    assert tensors["model.layers.1.mlp.down_proj.qweight"].shape == (3456, 5120)
    assert tensors["model.layers.1.mlp.down_proj.scales"].shape == (432, 5120)
    assert tensors["model.layers.2.mlp.down_proj.qweight"].shape == (1728, 5120)


def test_awq_packs_along_the_outputs():
    config = copy.deepcopy(find_bundled("meta-llama/Llama-2-7b-hf").config)
    config["quantization_config"] = {
        "quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True,
    }  # fmt: skip
    tensors = {t.name: t for t in tensors_of(config)}
    down = {leaf: tensors[f"model.layers.0.mlp.down_proj.{leaf}"] for leaf in ("qweight", "qzeros", "scales")}

    assert {leaf: (t.shape, t.fixed_dtype) for leaf, t in down.items()} == {
        "qweight": ((11008, 512), "int32"),
        "qzeros": ((86, 512), "int32"),
        "scales": ((86, 4096), "float16"),
    }
    assert tensors["lm_head.weight"].role == "head"


# --- modelopt ---------------------------------------------------------------------------------------------


def test_modelopt_settings_may_stand_in_a_file_of_their_own():
    config = without_quantization("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4")
    assert quantization_of(config) is None
    with pytest.raises(ModelUnsupported, match="hf_quant_config"):
        native_method(config)

    method = native_method(config, nemotron_settings(config))

    assert method.id == "modelopt" and not method.stays_packed


def test_nvfp4_weights_and_scales_are_those_of_the_published_files():
    entry = find_bundled("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4")
    config = without_quantization(entry.id)

    tensors = tensors_of(config, nemotron_settings(config))

    stored = without(tensors, "inv_freq", "weight_scale_2", "input_scale")  # the Hub counts no scalars
    print(f"{elements_of(stored):,} of {entry.official_parameters:,}; {bytes_of(tensors):,} B")
    assert elements_of(stored) == entry.official_parameters


def without_quantization(model_id):
    """A config.json as NVIDIA publishes it, with the quantization in a file beside it."""
    return {key: value for key, value in find_bundled(model_id).config.items() if key != "quantization_config"}


def nemotron_settings(config):
    """As NVIDIA describes it: attention, and the Mamba layer before each, are left in 16 bits."""
    kinds = config["hybrid_override_pattern"]
    attention = [index for index, kind in enumerate(kinds) if kind == "*"]
    kept = {before for index in attention for before in (index, kinds.rindex("M", 0, index))}
    skipped = ["lm_head", *(f"backbone.layers.{index}.mixer.*" for index in sorted(kept))]
    return {
        "producer": {"name": "modelopt"},
        "quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": skipped},
    }


@pytest.mark.parametrize("model_id", ["nvidia/GLM-5.1-NVFP4", "nvidia/Kimi-K2.5-NVFP4", "nvidia/Gemma-4-31B-IT-NVFP4"])
def test_nvfp4_keeps_a_scale_for_sixteen_weights_and_leaves_what_is_ignored(model_id):
    tensors = tensors_of(find_bundled(model_id).config)
    scales = [t for t in tensors if t.name.endswith("weight_scale")]

    assert 8 * elements_of(scales) == elements_of(tensors, "uint8") > 0
    assert {t.fixed_dtype for t in scales} == {"float8_e4m3fn"}
    assert not [t for t in tensors if t.fixed_dtype == "uint8" and "self_attn" in t.name]


def test_mixed_modelopt_follows_its_list_of_layers():
    tensors = {t.name: t for t in tensors_of(find_bundled("nvidia/Qwen3.6-35B-A3B-NVFP4").config)}
    layer = "model.language_model.layers.0"

    assert tensors[f"{layer}.linear_attn.out_proj.weight"].fixed_dtype == "float8_e4m3fn"
    experts = tensors[f"{layer}.mlp.experts.down_proj.weight"]
    assert (experts.fixed_dtype, experts.role, len(experts.shape)) == ("uint8", "experts", 3)
    assert f"{layer}.mlp.experts.down_proj.input_scale" not in tensors  # weight-only


def test_only_the_routed_experts_of_deepseek_v4_nvfp4_are_nvfp4():
    tensors = tensors_of(find_bundled("nvidia/DeepSeek-V4-Flash-NVFP4").config)
    four_bit = [t for t in tensors if t.fixed_dtype == "uint8"]

    assert {t.role for t in four_bit} == {"experts"}
    assert {t.fixed_dtype for t in tensors if t.role == "linear" and "attn" in t.name} >= {"float8_e4m3fn"}
    scales = elements_of([t for t in tensors if t.name.endswith("weight_scale")])
    assert 8 * scales == elements_of(four_bit)


# --- what can't be told -----------------------------------------------------------------------------------


def test_an_unknown_format_is_named():
    config = {**find_bundled("Qwen/Qwen3-0.6B").config, "quantization_config": {"quant_method": "aqlm"}}
    with pytest.raises(ModelUnsupported, match="stored as aqlm"):
        tensors_of(config)


def test_an_unquantized_checkpoint_has_no_native_row():
    with pytest.raises(ModelUnsupported, match="Neither"):
        tensors_of(find_bundled("Qwen/Qwen3-0.6B").config)


def test_a_short_list_of_skipped_modules_skips_the_same():
    """The full list goes through transformers' own matching, pattern by pattern."""
    from quantspace.estimation.native import library

    config = copy.deepcopy(find_bundled("Qwen/Qwen3-30B-A3B-FP8").config)
    config["num_hidden_layers"] = 6
    config["quantization_config"]["modules_to_not_convert"] += ["model.layers.1.self_attn", "q_proj", r"layers.\d+.x"]
    short = tensors_of(config)
    parsed = parse_config(config)
    quantization = quantization_of(config)
    full = library.build(parsed, model_class(parsed), lambda model: library._preprocess(model, quantization))

    assert tuple(library.specs_of(full)) == short
    assert elements_of(short, "float8_e4m3fn") < elements_of(short)


def test_building_fp8_experts_leaves_the_class_as_it_was():
    from transformers.integrations.finegrained_fp8 import FP8Experts

    before = FP8Experts.__init__, FP8Experts.forward
    tensors_of({**find_bundled("Qwen/Qwen3-30B-A3B-FP8").config, "num_hidden_layers": 2})
    assert (FP8Experts.__init__, FP8Experts.forward) == before


# --- real loads -------------------------------------------------------------------------------------------
