"""The promise: what the estimate says is what a loaded model holds, to the byte."""

import json

import pytest
import torch

from quantspace.estimation.here import Device
from quantspace.estimation.loadable import held_here, refusal_to_load
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.stored import layer_table
from quantspace.estimation.weights import stored_tensors, weight_bytes
from quantspace.precision import LOADABLE
from quantspace.runtime.job import Job
from quantspace.runtime.loader import LoadedModel, load
from tests.tiny_models import ARCHITECTURES


@pytest.fixture(scope="module")
def inventories():
    return {}


def inventory_of(name, folder, inventories):
    if name not in inventories:
        inventories[name] = inventory_from_config(json.loads((folder / "config.json").read_text()), name)
    return inventories[name]


def load_tiny(name, folder, precision_id) -> LoadedModel:
    *_, loaded = load(Job(name, "local", str(folder), precision_id, 0, 0), [])
    return loaded


CPU = Device("cpu")
QUANTIZED_WHILE_LOADING = [precision_id for precision_id in LOADABLE if precision_id != "native"]


EVERYWHERE = ("bf16", "int8", "nf4-dq", "nf4-moe", "int8-ao")  # one of each way to quantize
FIRST = tuple(name for place, name in enumerate(ARCHITECTURES) if place % 3 < 2)


def loads():
    """Each architecture at each precision; a third of those that only repeat a way is left to the night."""
    for name in ARCHITECTURES:
        for precision_id in QUANTIZED_WHILE_LOADING:
            daily = precision_id in EVERYWHERE or name in FIRST
            yield pytest.param(
                name, precision_id, marks=() if daily else pytest.mark.nightly, id=f"{name}-{precision_id}"
            )


@pytest.mark.parametrize(("name", "precision_id"), loads())
def test_estimated_bytes_are_the_measured_ones(name, precision_id, tiny_checkpoint, inventories):
    folder = tiny_checkpoint(name)
    inventory = inventory_of(name, folder, inventories)
    precision = held_here(inventory, LOADABLE[precision_id], CPU)
    if (refusal := refusal_to_load(inventory, precision, CPU)) is not None:
        assert "is not loaded here: " in refusal.message and refusal.hint
        return
    expected = weight_bytes(inventory, precision)

    loaded = load_tiny(name, folder, precision_id)
    readout = loaded.readout

    off = readout.footprint_bytes - expected.footprint, readout.held_bytes - expected.held
    print(f"{name} at {precision_id}: footprint {readout.footprint_bytes:,} ({off[0]:+d}), held {off[1]:+d} B off")
    assert off == (0, 0)
    assert readout.architecture == inventory.architecture
    if precision_id != "fp16":  # in which the tiny Mamba-2 can't: its `time_step_limit` overflows
        assert answers(loaded.model)


def answers(model) -> bool:
    """Whether it computes at all."""
    tokens = {"input_ids": torch.tensor([[3, 4, 5, 6]])}
    if model.config.is_encoder_decoder:
        tokens["decoder_input_ids"] = torch.tensor([[2]])
    with torch.no_grad():
        return model(**tokens).logits.shape[-1] > 0


@pytest.mark.parametrize("precision_id", ["bf16", "int8", "nf4-dq"])
@pytest.mark.parametrize("name", ["llama-tied", "gpt2-conv1d", "gemma3-vision", "qwen3-moe-experts"])
def test_the_layer_table_before_loading_is_the_one_after(name, precision_id, tiny_checkpoint, inventories):
    folder = tiny_checkpoint(name)
    inventory = inventory_of(name, folder, inventories)

    before = stored_tensors(inventory, LOADABLE[precision_id])
    after = load_tiny(name, folder, precision_id).readout.tensors

    assert _dtypes(before) == _dtypes(after)


def _dtypes(tensors):
    return {row.layer: {k: v for k, v in row.bytes_by_dtype.items() if v} for row in layer_table(tensors)}


@pytest.mark.parametrize("precision_id", QUANTIZED_WHILE_LOADING)
def test_at_least_twenty_architectures_are_compared(precision_id, tiny_checkpoint, inventories):
    compared, with_experts = 0, 0
    for name in ARCHITECTURES:
        inventory = inventory_of(name, tiny_checkpoint(name), inventories)
        compared += refusal_to_load(inventory, LOADABLE[precision_id], CPU) is None
        with_experts += bool(inventory.expert_elements)
    assert compared == with_experts if precision_id == "nf4-moe" else compared >= 20
