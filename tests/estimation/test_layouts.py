"""Formats beyond those that the app loads: real tensors of real libraries against their layouts."""

import json

import bitsandbytes.nn.parametrize as bnb_parametrize
import pytest
import torch
from transformers import TorchAoConfig

from quantspace.estimation.activations import Prefill, activation_total
from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.cache import cache_bytes
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.weights import weight_bytes, weight_terms
from quantspace.precision import LAYOUTS, PRECISIONS
from quantspace.runtime.readout import held_tensors
from tests.estimation.test_peak import measured_bytes
from tests.tiny_models import ARCHITECTURES

EXPERTS = ["mixtral-experts", "qwen3-moe-experts", "gpt-oss-experts", "deepseek-v3-latent"]


def opened(folder, **kwargs):
    raw = json.loads((folder / "config.json").read_text())
    model = model_class(parse_config(raw)).from_pretrained(folder, dtype=torch.bfloat16, **kwargs)
    return inventory_from_config(raw, folder.name), model


def with_quantized_experts(folder):
    """A model in NF4 + double quant whose fused experts are quantized too."""
    told = PRECISIONS["nf4-dq"].transformers_kwargs()
    inventory, model = opened(folder, quantization_config=told["quantization_config"])
    for module in list(model.modules()):
        for leaf, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dim() == 3 and parameter.dtype == torch.bfloat16 and "bias" not in leaf:
                bnb_parametrize.replace_parameter_4bit(module, leaf, compress_statistics=True, quant_type="nf4")
    return inventory, model


@pytest.mark.parametrize("precision_id", ["int8-ao", "fp8-ao"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_torchao_holds_what_was_estimated(name, precision_id, tiny_checkpoint):
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    config = {"int8-ao": Int8WeightOnlyConfig, "fp8-ao": Float8WeightOnlyConfig}[precision_id]()
    inventory, model = opened(tiny_checkpoint(name), quantization_config=TorchAoConfig(config))
    held = sum(tensor.held_bytes for tensor in held_tensors(model))
    assert held == weight_bytes(inventory, PRECISIONS[precision_id]).held


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_in_nf4_hold_what_was_estimated(name, tiny_checkpoint):
    inventory, model = with_quantized_experts(tiny_checkpoint(name))

    tensors = held_tensors(model)

    expected = weight_bytes(inventory, PRECISIONS["nf4-moe"])
    assert sum(tensor.held_bytes for tensor in tensors) == expected.held
    assert model.get_memory_footprint() == expected.footprint
    assert expected.held < weight_bytes(inventory, PRECISIONS["nf4-dq"]).held


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", ["mixtral-experts", "qwen3-moe-experts", "gpt-oss-experts"])
def test_experts_in_nf4_are_unpacked_within_what_was_estimated(name, batch, tiny_checkpoint):
    inventory, model = with_quantized_experts(tiny_checkpoint(name))
    measured_bytes(model, torch.full((1, 8), 3), False)  # the first pass packs the weights anew

    measured = measured_bytes(model, torch.randint(3, 500, (batch, 200)), False)

    how = Prefill("bfloat16", on_cpu=True)
    predicted = cache_bytes(inventory, 200, batch, "bfloat16")
    predicted += activation_total(inventory, PRECISIONS["nf4-moe"], 200, batch, how)
    print(f"{name} × {batch}: measured {measured:,} B, predicted {predicted:,} ({predicted / measured - 1:+.1%})")
    assert 1 <= predicted / measured <= 1.1


@pytest.mark.parametrize("precision", [p for p in PRECISIONS.values() if p.layout], ids=lambda p: p.id)
def test_a_layout_takes_the_bits_that_its_format_is_known_for(precision):
    known = {
        "int8": 8.008, "nf4": 4.5, "fp4": 4.5, "nf4-dq": 4.127, "nf4-moe": 4.127, "int8-ao": 8.010, "fp8-ao": 8.008,
        "int4-ao": 4.25, "awq-4bit": 4.156, "gptq-4bit": 4.164, "mxfp4": 4.25,
    }  # fmt: skip
    data, constants = precision.layout.bytes(4096 * 4096, 4096, 4096)
    assert 8 * (data + constants) / 4096**2 == pytest.approx(known[precision.id], abs=0.001)


def test_terms_of_the_weights_add_up_to_them(tiny_checkpoint):
    for name in ("llama-tied", "gpt-oss-experts", "gemma3-vision"):
        inventory = inventory_from_config(json.loads((tiny_checkpoint(name) / "config.json").read_text()), name)
        for precision in PRECISIONS.values():
            if precision.method != "stored":
                total = sum(term.bytes for term in weight_terms(inventory, precision))
                assert total == weight_bytes(inventory, precision).held, precision.id


def test_every_layout_names_its_source():
    assert all(layout.source for layout in LAYOUTS.values())
