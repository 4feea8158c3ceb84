"""The promise: what the estimate says is what a loaded model holds, to the byte."""

import json

import pytest

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


@pytest.mark.parametrize("precision_id", LOADABLE)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_estimated_bytes_are_the_measured_ones(name, precision_id, tiny_checkpoint, inventories):
    folder = tiny_checkpoint(name)
    inventory = inventory_of(name, folder, inventories)
    precision = LOADABLE[precision_id]
    expected = weight_bytes(inventory, precision)

    readout = load_tiny(name, folder, precision_id).readout

    off = readout.footprint_bytes - expected.footprint, readout.held_bytes - expected.held
    print(f"{name} at {precision_id}: footprint {readout.footprint_bytes:,} ({off[0]:+d}), held {off[1]:+d} B off")
    assert off == (0, 0)
    assert readout.architecture == inventory.architecture


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


def test_at_least_twenty_architectures_are_compared():
    assert len(ARCHITECTURES) >= 20
