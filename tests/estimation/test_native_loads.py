"""Checkpoints that are stored quantized, really loaded: what they hold against what was estimated."""

import json
import shutil
from importlib.util import find_spec
from itertools import cycle

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.here import Device
from quantspace.estimation.loadable import held_here, refusal_to_load
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.native import outside_footprint
from quantspace.estimation.native.library import fp8_model
from quantspace.estimation.weights import weight_bytes
from quantspace.hub.demo import demo_folder
from quantspace.precision import PRECISIONS
from quantspace.runtime.job import Job
from quantspace.runtime.loader import load
from quantspace.runtime.readout import held_tensors
from tests.estimation.native_tensors import bytes_of, elements_of, tensors_of
from tests.tiny_models import ARCHITECTURES

WRITABLE = ("nf4-dq", "int8", "nf4", "int8-ao", "fp4", "fp8-ao")
# They can't compute packed, torchao finds no layer, or transformers can't read back what it wrote with torchao.
UNWRITTEN = ("mamba-state", "falcon-multi-query", "gpt2-conv1d", "bart-two-sided")


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
    publish_compressed(tiny_checkpoint(name), tmp_path, scheme)

    model, measured, expected = loaded_and_expected(tmp_path)
    assert_no_byte_off(measured, expected)

    model(torch.tensor([[3, 4, 5]]))
    assert sum(t.held_bytes for t in held_tensors(model)) > sum(t.held_bytes for t in measured)


def publish_compressed(source, folder, scheme):
    """Write a checkpoint as llm-compressor would, of zeros."""
    layout, weights = COMPRESSED[scheme]
    config = json.loads((source / "config.json").read_text())
    group = {"targets": ["Linear"], "weights": {**weights, "symmetric": True, "dynamic": False}}
    if layout == "int-quantized":  # without activations that are quantized too, 8-bit integers are stored packed
        group["input_activations"] = {**weights, "strategy": "token", "symmetric": True, "dynamic": True}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": layout, "quantization_status": "compressed",
        "ignore": ["lm_head"], "config_groups": {"group_0": group},
    }  # fmt: skip
    publish_zeros(source, folder, config)


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


# Of each architecture one format that is written by quantizing it, so that all formats and twenty of them are met.
WRITTEN = dict(zip((name for name in ARCHITECTURES if name not in UNWRITTEN), cycle(WRITABLE)))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_stored_checkpoint_is_loaded_as_published_to_the_estimated_bytes(name, tiny_checkpoint, tmp_path):
    publish_quantized(tiny_checkpoint(name), tmp_path, WRITTEN[name])

    readout, expected, _ = loaded_as_published(tmp_path)

    assert (readout.footprint_bytes, readout.held_bytes) == (expected.footprint, expected.held)
    assert any(t.storage_dtype.startswith(("uint8", "int8", "float8")) for t in readout.tensors)


def test_twenty_architectures_are_loaded_as_published():
    assert len(WRITTEN) >= 20


@pytest.mark.parametrize("name", ["llama-untied", "qwen2-biases", "qwen3-moe-experts", "deepseek-v3-latent"])
def test_fp8_is_unpacked_on_a_cpu_to_the_bytes_of_bf16(name, tiny_checkpoint, tmp_path):
    publish_fp8(tiny_checkpoint(name), tmp_path, FP8)

    readout, expected, inventory = loaded_as_published(tmp_path, tiny_checkpoint(name))

    assert expected == weight_bytes(inventory, PRECISIONS["bf16"])
    assert (readout.footprint_bytes, readout.held_bytes) == (expected.footprint, expected.held)


@pytest.mark.parametrize("scheme", ["float-channel", "int4-groups", "int8-packed"])
def test_compressed_tensors_is_unpacked_while_it_is_loaded(scheme, tiny_checkpoint, tmp_path):
    publish_compressed(tiny_checkpoint("qwen2-biases"), tmp_path, scheme)

    readout, expected, _ = loaded_as_published(tmp_path, tiny_checkpoint("qwen2-biases"))

    assert (readout.footprint_bytes, readout.held_bytes) == (expected.footprint, expected.held)
    assert {t.storage_dtype for t in readout.tensors} <= {"bfloat16", "float32"}


def test_bitnet_is_loaded_as_published(tiny_checkpoint, tmp_path):
    source = tiny_checkpoint("llama-untied")
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitnet", "linear_class": "bitlinear"}
    publish_zeros(source, tmp_path, config)

    readout, expected, _ = loaded_as_published(tmp_path, source)

    assert (readout.footprint_bytes, readout.held_bytes) == (expected.footprint, expected.held)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "it needs optimum and gptqmodel"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "it needs gptqmodel"),
        ({"quant_method": "fbgemm_fp8"}, "a GPU of compute capability 9.0 or newer"),
    ],
    ids=["gptq", "awq", "fbgemm"],
)
def test_what_cannot_run_here_says_what_it_needs(settings, needed, tiny_checkpoint):
    config = json.loads((tiny_checkpoint("llama-untied") / "config.json").read_text())
    inventory = inventory_from_config({**config, "quantization_config": settings}, "x/y")

    told = refusal_to_load(inventory, PRECISIONS["native"], Device("cpu")).message

    if find_spec("gptqmodel") is None or "fbgemm" in settings["quant_method"]:
        assert needed in told


def loaded_as_published(folder, tokens=None):
    """The readout of a load at `native`, what was estimated, and the inventory."""
    for file in (tokens or demo_folder()).glob("*token*"):
        shutil.copy(file, folder)
    inventory = inventory_from_config(json.loads((folder / "config.json").read_text()), str(folder))
    assert refusal_to_load(inventory, PRECISIONS["native"], Device("cpu")) is None
    expected = weight_bytes(inventory, held_here(inventory, PRECISIONS["native"], Device("cpu")))
    *_, loaded = load(Job("x/y", "local", str(folder), "native", 0, 0), [])
    return loaded.readout, expected, inventory


def publish_quantized(source, folder, precision_id):
    """Write a checkpoint as transformers quantizes it."""
    cls = model_class(parse_config(json.loads((source / "config.json").read_text())))
    kwargs = PRECISIONS[precision_id].transformers_kwargs()
    cls.from_pretrained(source, **kwargs).save_pretrained(folder)
