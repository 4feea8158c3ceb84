"""Checkpoints that are stored quantized, really loaded: what they hold against what was estimated."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.native import outside_footprint
from quantspace.estimation.native.library import fp8_model
from quantspace.runtime.readout import held_tensors
from tests.estimation.native_tensors import bytes_of, elements_of, tensors_of


def loaded_and_expected(folder):
    config = json.loads((folder / "config.json").read_text())
    cls = model_class(parse_config(config))
    model = cls.from_pretrained(folder, dtype=torch.bfloat16)
    return model, held_tensors(model), tensors_of(config)


def assert_no_byte_off(measured, expected):
    held = sum(t.held_bytes for t in measured)
    off = held - bytes_of(expected)
    print(f"held {held:,} B, {off:+d} B off")
    missed = outside_footprint(expected)
    assert off == 0
    assert sum(t.data_bytes for t in measured) == bytes_of([t for t in expected if t.name not in missed])
    assert {t.name for t in measured} == {t.name for t in expected} - missed


@pytest.mark.parametrize(
    "settings",
    [
        {"load_in_8bit": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "llm_int8_skip_modules": ["lm_head", "o_proj"]},
    ],
    ids=["int8", "nf4", "nf4-dq", "fp4-skip"],
)
@pytest.mark.parametrize("name", ["llama-untied", "llama-tied", "qwen2-biases", "gpt-neox-biases", "qwen3-moe-experts"])
def test_a_stored_bitsandbytes_checkpoint_loads_to_the_estimated_bytes(name, settings, tiny_checkpoint, tmp_path):
    from transformers import BitsAndBytesConfig

    source = tiny_checkpoint(name)
    cls = model_class(parse_config(json.loads((source / "config.json").read_text())))
    cls.from_pretrained(
        source, dtype=torch.bfloat16, quantization_config=BitsAndBytesConfig(**settings)
    ).save_pretrained(tmp_path)

    _, measured, expected = loaded_and_expected(tmp_path)

    assert_no_byte_off(measured, expected)


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32], "fmt": "e4m3"}


@pytest.mark.parametrize(
    "settings",
    [FP8, {**FP8, "scale_fmt": "ue8m0"}, {**FP8, "weight_block_size": None, "activation_scheme": "static"}],
    ids=["blocks", "ue8m0", "per-tensor-static"],
)
@pytest.mark.parametrize("name", ["llama-untied", "qwen2-biases", "qwen3-moe-experts", "deepseek-v3-latent"])
def test_a_stored_fp8_checkpoint_loads_to_the_estimated_bytes(name, settings, tiny_checkpoint, tmp_path, monkeypatch):
    """With the check for a GPU left out, which would unpack it: the layers and the loading are transformers' own."""
    from transformers.quantizers.quantizer_finegrained_fp8 import FineGrainedFP8HfQuantizer

    monkeypatch.setattr(FineGrainedFP8HfQuantizer, "validate_environment", lambda self, **kwargs: None)
    publish_fp8(tiny_checkpoint(name), tmp_path, settings)

    model, measured, expected = loaded_and_expected(tmp_path)

    assert "float8_e4m3fn" in {t.storage_dtype for t in measured}
    assert_no_byte_off(measured, expected)
    del model


def test_without_a_gpu_transformers_unpacks_fp8(tiny_checkpoint, tmp_path):
    publish_fp8(tiny_checkpoint("llama-untied"), tmp_path, FP8)

    _, measured, expected = loaded_and_expected(tmp_path)

    assert "float8_e4m3fn" not in {t.storage_dtype for t in measured}
    assert sum(t.held_bytes for t in measured) > bytes_of(expected)


def publish_fp8(source, folder, settings):
    """Write a checkpoint as it would be published: experts one by one, scales in bfloat16."""
    config = {**json.loads((source / "config.json").read_text()), "quantization_config": settings}
    parsed = parse_config(config)
    fp8 = fp8_model(settings, parsed, model_class(parsed)).state_dict()
    weights = {}
    for name, tensor in fp8.items():
        kept = torch.bfloat16 if tensor.dtype == torch.float32 and "scale" in name else tensor.dtype
        weights.update(one_by_one(name, torch.zeros(tensor.shape).to(kept)))
    save_file({name: tensor.clone() for name, tensor in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def one_by_one(name, tensor):
    """Fused experts as they are published: `experts.3.gate_proj.weight`."""
    stem, _, leaf = name.rpartition(".experts.")
    if not stem:
        return {name: tensor}
    projection, _, suffix = leaf.partition("_proj")
    parts = {"gate_up": ("gate", "up"), "down": ("down",)}[projection]
    stored = suffix.removeprefix("_") if suffix == "_activation_scale" else f"weight{suffix}"
    published = {}
    for expert, fused in enumerate(tensor):
        halves = fused.chunk(len(parts)) if fused.dim() else [fused] * len(parts)
        for part, half in zip(parts, halves, strict=True):
            published[f"{stem}.experts.{expert}.{part}_proj.{stored}"] = half
    return published


def test_a_stored_bitnet_checkpoint_loads_to_the_estimated_bytes(tiny_checkpoint, tmp_path):
    source = tiny_checkpoint("llama-untied")
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitnet", "linear_class": "bitlinear"}
    publish_zeros(source, tmp_path, config)

    _, measured, expected = loaded_and_expected(tmp_path)

    assert "uint8" in {t.storage_dtype for t in measured}
    assert_no_byte_off(measured, expected)


@pytest.mark.parametrize("kind", ["Int8WeightOnlyConfig", "Float8WeightOnlyConfig"])
@pytest.mark.parametrize("name", ["llama-tied", "qwen2-biases", "qwen3-moe-experts"])
def test_a_stored_torchao_checkpoint_loads_to_the_estimated_bytes(name, kind, tiny_checkpoint, tmp_path):
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    source = tiny_checkpoint(name)
    cls = model_class(parse_config(json.loads((source / "config.json").read_text())))
    settings = TorchAoConfig(getattr(quantization, kind)(version=2))
    cls.from_pretrained(source, dtype=torch.bfloat16, quantization_config=settings).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    expected = tensors_of(config)

    model = cls.from_pretrained(tmp_path, dtype=torch.bfloat16)

    held = sum(part.untyped_storage().nbytes() for tensor in model.parameters() for part in inside(tensor))
    held += sum(buffer.untyped_storage().nbytes() for buffer in model.buffers())
    print(f"held {held:,} B, {held - bytes_of(expected):+d} B off")
    assert held == bytes_of(expected)
    assert elements_of(expected, "int8", "float8_e4m3fn")


def inside(tensor):
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    return [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]


COMPRESSED = {
    "float-channel": ("float-quantized", {"type": "float", "num_bits": 8, "strategy": "channel"}),
    "int8-channel": ("int-quantized", {"type": "int", "num_bits": 8, "strategy": "channel"}),
    "int4-groups": ("pack-quantized", {"type": "int", "num_bits": 4, "strategy": "group", "group_size": 32}),
    "int8-packed": ("pack-quantized", {"type": "int", "num_bits": 8, "strategy": "channel"}),
    "nvfp4": ("nvfp4-pack-quantized", {"type": "float", "num_bits": 4, "strategy": "tensor_group", "group_size": 16}),
}


@pytest.mark.parametrize("scheme", COMPRESSED)
@pytest.mark.parametrize("name", ["llama-untied", "qwen2-biases"])
def test_compressed_tensors_loads_to_the_estimated_bytes_until_it_runs(name, scheme, tiny_checkpoint, tmp_path):
    pytest.importorskip("compressed_tensors")
    layout, weights = COMPRESSED[scheme]
    source = tiny_checkpoint(name)
    config = json.loads((source / "config.json").read_text())
    group = {"targets": ["Linear"], "weights": {**weights, "symmetric": True, "dynamic": False}}
    if layout == "int-quantized":  # without activations that are quantized too, 8-bit integers are stored packed
        group["input_activations"] = {**weights, "strategy": "token", "symmetric": True, "dynamic": True}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": layout, "quantization_status": "compressed",
        "ignore": ["lm_head"], "config_groups": {"group_0": group},
    }  # fmt: skip
    publish_zeros(source, tmp_path, config)

    model, measured, expected = loaded_and_expected(tmp_path)
    assert_no_byte_off(measured, expected)

    model(torch.tensor([[3, 4, 5]]))
    assert sum(t.held_bytes for t in held_tensors(model)) > sum(t.held_bytes for t in measured)


def publish_zeros(source, folder, config):
    """Write a checkpoint whose packed layers hold zeros, and the rest what `source` holds."""
    original = load_file(source / "model.safetensors")
    weights = {}
    for spec in tensors_of(config):
        if spec.tied_to is None and spec.name in original and spec.fixed_dtype is None:
            weights[spec.name] = original[spec.name]
        elif spec.tied_to is None and spec.role != "norm" and "inv_freq" not in spec.name:
            dtype = getattr(torch, spec.dtype_under("bfloat16"))
            weights[spec.name] = torch.zeros(spec.shape).to(dtype)
    for name in [name for name in weights if name.endswith("weight_shape")]:
        weights[name] = torch.tensor(original[f"{name.removesuffix('_shape')}"].shape)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
