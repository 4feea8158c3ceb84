"""Models that generate no text: encoders of text, images and sound, reward models, speech recognition."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import CONFIG_MAPPING

from quantspace.errors import ModelUnsupported
from quantspace.estimation.activations import PROMPT
from quantspace.estimation.architecture import (
    generates_text,
    generating_class,
    model_class,
    parse_config,
    with_base_class,
)
from quantspace.estimation.fit import fit
from quantspace.estimation.hardware import find_gpu
from quantspace.estimation.meta.peak import FusedAttention, LiveBytes
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.weights import weight_bytes
from quantspace.estimation.workload import Hardware, Workload
from quantspace.hub.catalogue import bundled_models, find_bundled
from quantspace.precision import PRECISIONS
from quantspace.runtime.readout import held_tensors
from tests.tiny_models import TEXT, VISION

ENCODER = {**TEXT, "max_position_embeddings": 256}
IMAGES = {**VISION, "image_size": 28, "patch_size": 14}
TOWERS = {
    "text_config": {**VISION, "vocab_size": 512, "max_position_embeddings": 64},
    "vision_config": IMAGES,
    "projection_dim": 64,
}
SOUND = {"conv_dim": [64, 64], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_feat_extract_layers": 2}
WHISPER = {
    "vocab_size": 512, "d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 192, "decoder_ffn_dim": 192, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
T5 = {"vocab_size": 512, "d_model": 128, "d_kv": 32, "d_ff": 192, "num_layers": 2, "num_heads": 4}

# Class that config.json names → model type and values.
KINDS = {
    "BertModel": ("bert", ENCODER),
    "BertForMaskedLM": ("bert", ENCODER),
    "XLMRobertaForSequenceClassification": ("xlm-roberta", ENCODER),
    "ModernBertModel": ("modernbert", ENCODER),
    "AlbertForMaskedLM": ("albert", {**ENCODER, "embedding_size": 64}),
    "Qwen3Model": ("qwen3", TEXT),
    "LlamaForSequenceClassification": ("llama", TEXT),
    "T5EncoderModel": ("t5", T5),
    "CLIPTextModel": ("clip_text_model", {**TOWERS["text_config"], "projection_dim": 64}),
    "CLIPTextModelWithProjection": ("clip_text_model", {**TOWERS["text_config"], "projection_dim": 64}),
    "CLIPModel": ("clip", TOWERS),
    "SiglipModel": ("siglip", {key: TOWERS[key] for key in ("text_config", "vision_config")}),
    "ViTModel": ("vit", IMAGES),
    "ViTForImageClassification": ("vit", IMAGES),
    "Dinov2Model": ("dinov2", {**VISION, "image_size": 28, "patch_size": 14, "mlp_ratio": 2}),
    "WhisperForConditionalGeneration": ("whisper", WHISPER),
    "Wav2Vec2ForCTC": (
        "wav2vec2",
        {**VISION, **SOUND, "vocab_size": 64, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2},
    ),
}
READ_TEXT = ("BertModel", "BertForMaskedLM", "ModernBertModel", "Qwen3Model", "T5EncoderModel", "CLIPTextModel")


def config_of(name: str) -> dict:
    model_type, values = KINDS[name]
    config = CONFIG_MAPPING[model_type](**values)
    return {**json.loads(config.to_json_string(use_diff=False)), "architectures": [name]}


def loaded(name: str, folder, precision: str):
    """The class, really loaded from weights of its own."""
    raw = config_of(name)
    torch.manual_seed(0)
    cls = model_class(parse_config(raw))
    if not folder.exists():
        cls(parse_config(raw)).to(torch.bfloat16).save_pretrained(folder)
    return cls.from_pretrained(folder, device_map={"": "cpu"}, **PRECISIONS[precision].transformers_kwargs())


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_weights_are_those_that_a_load_holds_to_the_byte(name, tmp_path):
    inventory = inventory_from_config(config_of(name), name)
    assert inventory.architecture == name
    for precision in ("fp32", "bf16", "int8", "nf4-dq"):
        model = loaded(name, tmp_path / "weights", precision)
        expected = weight_bytes(inventory, PRECISIONS[precision])
        assert model.get_memory_footprint() == expected.footprint, precision
        assert sum(tensor.held_bytes for tensor in held_tensors(model)) == expected.held, precision


@pytest.mark.parametrize("name", KINDS)
def test_there_is_no_cache_and_the_source_names_the_class(name):
    inventory = inventory_from_config(config_of(name), name)
    assert inventory.exact
    assert inventory.cache == ()
    assert inventory.source.startswith(name)
    assert any("generates no text" in note for note in inventory.notes)


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("ViTModel", "images"),
        ("Dinov2Model", "images"),
        ("CLIPModel", "images"),
        ("SiglipModel", "images"),
        ("Wav2Vec2ForCTC", "sound"),
        ("WhisperForConditionalGeneration", "sound, and the cache of its decoder"),
    ],
)
def test_an_answer_says_what_it_leaves_out(name, left_out):
    sentence = inventory_from_config(config_of(name), name).weights_only
    assert left_out in sentence
    assert sentence.startswith("Weights only: ")
    assert sentence.endswith(("is not counted.", "are not counted."))


@pytest.mark.parametrize("name", READ_TEXT)
def test_a_pass_over_a_text_is_counted_and_nothing_left_out(name, tmp_path):
    inventory = inventory_from_config(config_of(name), name)
    assert inventory.peak_measured
    assert inventory.weights_only == ""
    model = loaded(name, tmp_path / "weights", "bf16")
    for length in (20, 60):
        tokens = torch.zeros(1, length, dtype=torch.long)
        alive = LiveBytes(model)
        with torch.no_grad(), FusedAttention(alive), alive:
            model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
        expected = max(term.at(length, 1) for term in inventory.peak)
        assert expected <= max(alive.timeline) <= expected + PROMPT(batch=1, tokens=length)  # ids and mask


@pytest.mark.parametrize("name", ["ViTModel", "BertModel", "WhisperForConditionalGeneration"])
def test_every_precision_has_an_answer_on_a_card(name):
    inventory = inventory_from_config(config_of(name), name)
    for precision in ("fp32", "bf16", "int8", "nf4-dq"):
        row = fit(inventory, PRECISIONS[precision], Hardware(find_gpu("t4")), Workload(64, 1))
        assert row.verdict == "fits"
        assert row.weights.held > 0


@pytest.mark.parametrize("name", KINDS)
def test_they_are_not_loaded_into_a_chat(name):
    config = parse_config(config_of(name))
    assert not generates_text(model_class(config), config)
    with pytest.raises(ModelUnsupported, match=f"{name} does not generate text") as caught:
        generating_class(config)
    assert caught.value.hint


@pytest.mark.parametrize("model_id", bundled_models())
def test_a_bundled_model_is_held_by_its_generating_class(model_id):
    config = parse_config(find_bundled(model_id).config)
    assert generates_text(model_class(config), config)
    assert generating_class(config) is model_class(config)


def test_a_text_encoder_that_names_no_class_is_taken_without_a_head():
    raw = config_of("BertModel")
    del raw["architectures"]
    assert model_class(parse_config(raw)).__name__ == "BertModel"
    assert model_class(parse_config({**raw, "is_decoder": True})).__name__ == "BertLMHeadModel"


def test_the_base_class_can_be_asked_for():
    raw = with_base_class(config_of("LlamaForSequenceClassification"))
    assert model_class(parse_config(raw)).__name__ == "LlamaModel"
    assert "score.weight" not in {tensor.name for tensor in inventory_from_config(raw, "base").tensors}


@pytest.mark.parametrize(
    "name",
    ["", "os", "__class__", "no.such", "BertPreTrainedModel", "BertConfig", "LlamaForCausalLM", "models", None, 7, {}],
    ids=repr,
)
def test_a_name_that_is_no_class_for_this_config_is_passed_over(name):
    raw = {**config_of("BertModel"), "architectures": [name]}
    config = CONFIG_MAPPING["bert"](**KINDS["BertModel"][1])
    config.architectures = raw["architectures"]
    assert model_class(config).__name__ == "BertModel"


def test_a_part_of_a_larger_model_is_refused_with_a_sentence():
    with pytest.raises(ModelUnsupported, match="blip_text_model") as caught:
        inventory_from_config(json.loads(CONFIG_MAPPING["blip_text_model"]().to_json_string(use_diff=False)), "part")
    assert caught.value.hint
