"""Where modules go: maps and limits as people write them, the split that a row promises, and real loads of it."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate import cpu_offload

from quantspace.errors import BadInput
from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.builder import demo_inventory, inventory_for
from quantspace.estimation.fit import fit
from quantspace.estimation.hardware import find_gpu
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.placement import layout
from quantspace.estimation.weights import weight_bytes
from quantspace.estimation.workload import Workload
from quantspace.hub.demo import DEMO_ID, demo_folder
from quantspace.hub.reference import ModelRef
from quantspace.precision import PRECISIONS
from quantspace.runtime.device_text import parse_limits, parse_map
from quantspace.runtime.job import Job, LoadOptions
from quantspace.runtime.machine import Machine
from quantspace.runtime.options import from_pretrained_options, settle
from quantspace.runtime.placement import (
    as_promised,
    by_hand,
    by_limits,
    held_by_device,
)
from quantspace.runtime.readout import device_bytes, held_tensors, placement_of

GB = 10**9
BF16 = PRECISIONS["bf16"]
PROCESSOR = Machine(host_bytes=64 * GB)


def cards(count=1, gpu="t4", host=64 * GB):
    return Machine(find_gpu(gpu), count, host)


def placed(text, inventory=None, here=PROCESSOR):
    return dict(by_hand(parse_map(text), inventory or demo_inventory(), BF16, here))


@pytest.fixture(scope="module")
def llama():
    return inventory_for(ModelRef("meta-llama/Llama-3.1-8B-Instruct"))


class TestWhatPeopleWrite:
    def test_a_map_has_a_module_and_a_device_a_line(self):
        assert parse_map("model.layers.0: cuda:1\n\n lm_head = cpu ") == (
            ("model.layers.0", "cuda:1"),
            ("lm_head", "cpu"),
        )

    def test_a_span_stands_for_each_block_and_the_last_word_counts(self):
        found = parse_map("model.layers.1-3: disk\nmodel.layers.2: 0")
        assert found == (("model.layers.1", "disk"), ("model.layers.2", "cuda:0"), ("model.layers.3", "disk"))

    @pytest.mark.parametrize("text", ["no colon", "a: b", "a: cuda:x", "*: meta", "model.layers.5-2: cpu", "a b: cpu"])
    def test_what_is_no_map_gets_a_sentence(self, text):
        with pytest.raises(BadInput) as error:
            parse_map(text)
        assert error.value.hint

    def test_a_map_of_a_million_lines_is_not_read(self):
        with pytest.raises(BadInput, match=r"at most 2,000|more than 2,000"):
            parse_map("model.layers.0-1999: cpu\n" * 1000 + "other.0-9: cpu")

    @pytest.mark.parametrize(
        ("text", "held"),
        [
            ("0: 10 GB", ("cuda:0", 10 * 10**9)),
            ("cuda:1: 1.5GiB", ("cuda:1", 3 * 2**29)),
            ("cpu: 800 mb", ("cpu", 800 * 10**6)),
            ("disk = 1,000,000", ("disk", 10**6)),
        ],
    )
    def test_a_limit_has_a_device_and_a_size(self, text, held):
        assert parse_limits(text) == (held,)

    @pytest.mark.parametrize("text", ["cpu", "cpu: many", "tpu: 1 GB", "cpu: 1..2 GB", "cpu: 1 parsec"])
    def test_what_is_no_limit_gets_a_sentence(self, text):
        with pytest.raises(BadInput):
            parse_limits(text)


class TestAMapByHand:
    def test_it_is_completed_block_by_block_for_transformers_matches_the_beginning_of_names(self):
        inventory = inventory_for(ModelRef("meta-llama/Llama-3.1-8B-Instruct"))
        found = placed("model.layers.1: disk\n*: cpu", inventory)
        assert [name for name, device in found.items() if device == "disk"] == ["model.layers.1"]
        assert set(found) == {unit.name for unit in layout(inventory).units}

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("model.layer.1: cpu\n*: cpu", "The nearest is model.layers"),
            ("model.layers.1.mlp: disk\n*: cpu", "kept whole"),
            ("model.layers.0-3: cpu", "has no device for 4 modules, such as model.embed_tokens"),
            ("*: cuda:0", "There is no cuda:0 on this machine"),
            ("*: disk", "nothing computes"),
            ("model.embed_tokens: disk\nlm_head: disk\n*: cpu", "first to see a prompt"),
            ("lm_head: disk\n*: cpu", "lm_head shares its weight with model.embed_tokens"),
        ],
    )
    def test_what_cannot_be_gets_a_sentence(self, text, words):
        """The demo on a machine without a card."""
        with pytest.raises(BadInput) as error:
            placed(text)
        assert words in str(error.value)


class TestLimits:
    def test_each_device_holds_no_more_than_it_may(self, llama):
        limits = (("cuda:0", 6 * GB), ("cuda:1", 4 * GB), ("cpu", 3 * GB), ("disk", 100 * GB))
        found = by_limits(limits, llama, BF16, cards(2))
        held = dict(held_by_device(llama, BF16, found))
        assert set(held) == {"cuda:0", "cuda:1", "cpu", "disk"}
        assert all(held[device] <= limit for device, limit in limits)
        assert sum(held.values()) == weight_bytes(llama, BF16).held

    def test_they_count_what_options_leave_unquantized(self, llama):
        skipping = PRECISIONS["nf4"].with_options("float32", None, ("mlp",))
        found = by_limits((("cuda:0", 8 * GB),), llama, skipping, cards())
        on_card = [name for name, device in found if device == "cuda:0"]
        by_default = by_limits((("cuda:0", 8 * GB),), llama, PRECISIONS["nf4"], cards())
        assert {device for _, device in by_default} == {"cuda:0"}
        assert 0 < len(on_card) < len(found)
        assert dict(held_by_device(llama, skipping, found))["cuda:0"] <= 8 * GB

    def test_the_disk_holds_nothing_unless_it_may(self, llama):
        with pytest.raises(BadInput, match="short"):
            by_limits((("cpu", 4 * GB),), llama, BF16, PROCESSOR)

    def test_too_little_for_one_block_gets_a_sentence(self, llama):
        with pytest.raises(BadInput, match="Not one block fits"):
            by_limits((("cpu", GB), ("disk", 100 * GB)), llama, BF16, PROCESSOR)


class TestTheRowsPromise:
    """The map that is loaded is the split of the fit table's row, whatever the machine."""

    @pytest.mark.parametrize("precision_id", ["bf16", "int8", "nf4"])
    @pytest.mark.parametrize("model", ["meta-llama/Llama-3.1-8B-Instruct", "google/gemma-3-27b-it", "Qwen/Qwen3-14B"])
    def test_what_the_row_leaves_in_system_memory_is_left_there(self, model, precision_id):
        inventory, here = inventory_for(ModelRef(model)), cards(1, "rtx-3060-12gb")
        row = fit(inventory, PRECISIONS[precision_id], here.hardware, Workload(8192))
        found = as_promised(inventory, PRECISIONS[precision_id], here)
        assert (row.verdict == "offload") == ("cpu" in dict(found).values())
        if row.split is not None:
            kin = {unit.name for unit in layout(inventory).units if unit.beside}  # they follow what they share
            on_card = {name for name, device in found if device == "cuda:0"}
            assert on_card - kin == set(row.split.cards[0].names) - kin

    def test_several_cards_share_it_as_the_row_says(self, llama):
        here = cards(2, "rtx-3060-12gb")
        row = fit(llama, BF16, here.hardware, Workload(8192))
        found = as_promised(llama, BF16, here)
        for number, share in enumerate(row.shares):
            assert tuple(name for name, device in found if device == f"cuda:{number}") == share.names

    def test_what_fits_one_card_stays_on_it(self, llama):
        assert as_promised(llama, PRECISIONS["nf4"], cards(2, "t4")) == ()
        assert as_promised(llama, BF16, PROCESSOR) == ()


def load(folder, devices, precision=BF16):
    """The real thing, as the loader does it."""
    options = LoadOptions(device_map=devices)
    job = Job("tiny", "0", str(folder), precision.id, 0, 0, options=options)
    kwargs = precision.transformers_kwargs()
    kwargs |= from_pretrained_options(job, kwargs.get("quantization_config"))
    config = parse_config(json.loads((folder / "config.json").read_text()))
    return model_class(config).from_pretrained(folder, **kwargs)


ARCHITECTURES = ("llama-untied", "llama-tied", "gemma3-vision", "gpt2-conv1d", "qwen3-moe-experts", "opt-biases")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_memory_and_disk_hold_the_promised_bytes_and_the_answer_is_the_same(name, tiny_checkpoint):
    folder = tiny_checkpoint(name)
    inventory = inventory_from_config(json.loads((folder / "config.json").read_text()), name)
    block = inventory.blocks[-1]
    devices = by_hand(((block, "disk"), ("*", "cpu")), inventory, BF16, PROCESSOR)

    model = load(folder, devices)
    assert dict(placement_of(model)) == dict(devices)
    promised = held_by_device(inventory, BF16, devices)
    assert dict(promised)["disk"] > 0
    assert device_bytes(model) == promised
    assert sum(tensor.held_bytes for tensor in held_tensors(model)) == weight_bytes(inventory, BF16).held
    assert model.get_memory_footprint() == weight_bytes(inventory, BF16).footprint

    whole = load(folder, ())
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.equal(model(input_ids=tokens).logits, whole(input_ids=tokens).logits)


def test_what_accelerate_keeps_in_system_memory_for_a_card_counts_there(tiny_checkpoint):
    """Its hooks leave tensors on `meta` and keep the real ones beside; here with the processor as the card."""
    folder = tiny_checkpoint("llama-untied")
    model = load(folder, ())
    before = held_tensors(model)
    cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)
    assert model.lm_head.weight.device.type == "meta"
    assert [(t.name, t.held_bytes) for t in held_tensors(model)] == [(t.name, t.held_bytes) for t in before]
    assert device_bytes(model) == (("cpu", sum(tensor.held_bytes for tensor in before)),)


def test_buffers_of_what_is_on_the_disk_stay_where_it_is_computed():
    devices = by_hand(
        parse_map("model.layers.2-3: disk\nmodel.rotary_emb: disk\n*: cpu"), demo_inventory(), BF16, PROCESSOR
    )
    model = load(demo_folder(), devices)
    assert model.model.rotary_emb.inv_freq.device.type == "cpu"
    assert device_bytes(model) == held_by_device(demo_inventory(), BF16, devices)


def test_limits_that_people_give_are_kept_by_a_real_load():
    inventory = demo_inventory()
    asked = LoadOptions(max_memory=parse_limits("cpu: 5.5 MB\ndisk: 1 GB"))
    options = settle(asked, inventory, BF16, PROCESSOR)
    model = load(demo_folder(), options.device_map)
    held = dict(device_bytes(model))
    assert device_bytes(model) == held_by_device(inventory, BF16, options.device_map)
    assert 0 < held["cpu"] <= 5_500_000
    assert held["cpu"] + held["disk"] == weight_bytes(inventory, BF16).held


def test_one_device_for_all_is_told_as_one(llama):
    here = cards()
    assert settle(LoadOptions(device_map=(("*", "cpu"),)), llama, BF16, here).device_map == (("", "cpu"),)
    assert settle(LoadOptions(device_map=(("*", "cuda:0"),)), llama, BF16, here).device_map == ()


def test_bitsandbytes_is_told_that_some_modules_are_not_on_a_card(llama):
    nf4 = PRECISIONS["nf4"]
    options = settle(LoadOptions(device_map=parse_map("model.layers.9: cpu\n*: 0")), llama, nf4, cards())
    told = nf4.transformers_kwargs()["quantization_config"]
    kwargs = from_pretrained_options(Job(DEMO_ID, "0", "", "nf4", 0, 0, options=options), told)
    assert set(kwargs["device_map"].values()) == {0, "cpu"}
    assert told.llm_int8_enable_fp32_cpu_offload
    variant = nf4.with_options(skip=("model.layers.9",))
    held = dict(held_by_device(llama, variant, options.device_map))
    block = sum(spec.elements for spec in llama.tensors if spec.name.startswith("model.layers.9."))
    assert held["cpu"] == 2 * block  # in 16 bits, as bitsandbytes leaves it


def test_a_quantized_model_is_not_put_on_the_disk_where_there_is_no_card(llama):
    asked = LoadOptions(device_map=parse_map("model.layers.9: disk\n*: cpu"))
    with pytest.raises(BadInput, match="no GPU"):
        settle(asked, llama, PRECISIONS["int8"], replace(PROCESSOR))
