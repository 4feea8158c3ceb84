"""Adapters by arithmetic against those that PEFT makes."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from quantspace.errors import BadWorkload
from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.meta.reader import build_on_meta, inventory_from_config
from quantspace.estimation.training.lora import _FUSED_FAMILIES, _model_type, adapters
from tests.tiny_models import ARCHITECTURES

# What PEFT is told where it has no default of its own for the model type.
QUERY_VALUE = {
    "gemma3-vision": ["q_proj", "v_proj"],
    "phi3-fused-linears": ["qkv_proj"],
    "qwen3-moe-experts": ["q_proj", "v_proj"],
    "gpt-oss-experts": ["q_proj", "v_proj"],
    "mixtral-experts": ["q_proj", "v_proj"],
    "deepseek-v3-latent": ["q_b_proj", "kv_b_proj"],
}
FEW = ["llama-untied", "gpt2-conv1d", "qwen3-moe-experts", "gemma3-vision", "phi3-fused-linears"]
MORE = ["mixtral-experts", "deepseek-v3-latent", "gpt-oss-experts", "qwen2-biases", "bloom-alibi", "opt-biases"]


def raw(name):
    return json.loads(ARCHITECTURES[name]().to_json_string(use_diff=False))


@pytest.fixture(scope="module")
def inventories():
    return {name: inventory_from_config(raw(name), name) for name in (*FEW, *MORE)}


def with_peft(name, targets, rank):
    config = parse_config(raw(name))
    model = build_on_meta(config, model_class(config), torch.bfloat16)
    return get_peft_model(model, LoraConfig(r=rank, target_modules=targets), low_cpu_mem_usage=True)


@pytest.mark.parametrize("rank", [4, 16, 64])
@pytest.mark.parametrize("targets", ["attention", "all-linear"])
@pytest.mark.parametrize("name", [*FEW, *MORE])
def test_parameters_are_those_that_peft_counts(name, targets, rank, inventories):
    told = QUERY_VALUE.get(name) if targets == "attention" else targets
    trainable, _ = with_peft(name, told, rank).get_nb_trainable_parameters()

    assert sum(adapter.parameters for adapter in adapters(inventories[name], targets, rank)) == trainable


@pytest.mark.parametrize("name", ["llama-untied", "gpt2-conv1d", "qwen3-moe-experts"])
def test_factors_have_the_sizes_of_pefts(name, inventories):
    model = with_peft(name, "all-linear", 8)
    sizes = sorted(p.numel() for n, p in model.named_parameters() if "lora_" in n)

    assert sorted(size for a in adapters(inventories[name], "all-linear", 8) for size in a.tensors) == sizes


@pytest.mark.parametrize(
    "targets", [("q_proj",), ("o_proj", "down_proj"), ("layers.0.mlp.up_proj",), ("embed_tokens",)]
)
def test_named_modules_are_matched_as_peft_matches_them(targets, inventories):
    trainable, _ = with_peft("llama-untied", list(targets), 8).get_nb_trainable_parameters()

    assert sum(adapter.parameters for adapter in adapters(inventories["llama-untied"], targets, 8)) == trainable


def test_experts_by_their_old_names_become_adapters_on_the_fused_ones(inventories):
    targets = ("q_proj", "gate_proj", "up_proj", "down_proj")
    trainable, _ = with_peft("qwen3-moe-experts", list(targets), 8).get_nb_trainable_parameters()

    found = adapters(inventories["qwen3-moe-experts"], targets, 8)

    assert sum(adapter.parameters for adapter in found) == trainable
    assert any(adapter.merged for adapter in found)


def test_half_of_a_fused_tensor_is_refused_as_peft_refuses_it(inventories):
    with pytest.raises(ValueError, match="fused"):
        with_peft("qwen3-moe-experts", ["gate_proj"], 8)
    with pytest.raises(BadWorkload, match="one tensor"):
        adapters(inventories["qwen3-moe-experts"], ("gate_proj",), 8)


def test_a_name_that_no_layer_has_is_told_with_the_names_there_are(inventories):
    with pytest.raises(BadWorkload, match="c_attn") as caught:
        adapters(inventories["llama-untied"], ("c_attn",), 8)
    assert "q_proj" in caught.value.hint


def test_families_with_fused_experts_are_those_of_the_installed_library():
    expected = {
        kind.replace("_", ""): _MOE_TARGET_MODULE_MAPPING[base]
        for kind, base in _MODEL_TO_CONVERSION_PATTERN.items()
        if base in _MOE_TARGET_MODULE_MAPPING and kind.islower()
    }
    assert expected == {kind: _FUSED_FAMILIES.get(kind) for kind in expected}


def test_the_model_type_is_read_from_the_name_of_the_class():
    families = {kind for kind, base in _MODEL_TO_CONVERSION_PATTERN.items() if base in _MOE_TARGET_MODULE_MAPPING}
    kinds = [kind for kind in (*families, "phi", "nemotron_h", "gemma4") if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]

    read = {kind: _model_type(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]) for kind in kinds}

    assert read.pop("hunyuan_v1_moe") == "hunyuanmoev1"  # in the table under both of its names
    assert read == {kind: kind.replace("_", "") for kind in read}
