"""Where layers go, against what transformers itself decides for the same class on `meta`."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.integrations.accelerate import get_balanced_memory, infer_auto_device_map
from transformers.quantizers import AutoHfQuantizer

from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.builder import inventory_for
from quantspace.estimation.cache import cache_bytes
from quantspace.estimation.demand import Demand
from quantspace.estimation.fit import Hardware, Workload, fit
from quantspace.estimation.hardware import find_gpu
from quantspace.estimation.meta.reader import build_on_meta
from quantspace.estimation.placement import layout, offload, over_cards, unit_bytes
from quantspace.hub.catalogue import find_bundled
from quantspace.hub.reference import ModelRef
from quantspace.precision import PRECISIONS

MODELS = (
    "meta-llama/Llama-3.1-8B-Instruct",
    "google/gemma-3-4b-it",
    "Qwen/Qwen3-30B-A3B",
    "openai-community/gpt2",
    "Qwen/Qwen2.5-0.5B",
    "deepseek-ai/DeepSeek-V2-Lite",
)
ROOMY = 10**12


def device_map(model_id, precision_id, cards):
    """What `device_map="auto"` gives on cards that are each large enough: module → card."""
    config = parse_config(find_bundled(model_id).config)
    told = PRECISIONS[precision_id].transformers_kwargs()
    quantization = told.get("quantization_config")
    model = build_on_meta(config, model_class(config), told["dtype"], quantization)
    quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False) if quantization else None
    whole = {"no_split_module_classes": model._no_split_modules, "hf_quantizer": quantizer}
    balanced = get_balanced_memory(model, dict.fromkeys(range(cards), ROOMY), **whole)
    return infer_auto_device_map(model, balanced, **whole)


@pytest.mark.parametrize("cards", [2, 3, 4, 8])
@pytest.mark.parametrize("precision_id", ["bf16", "nf4"])
@pytest.mark.parametrize("model_id", MODELS)
def test_layers_go_where_device_map_auto_puts_them(model_id, precision_id, cards):
    inventory = inventory_for(ModelRef(model_id))
    theirs = device_map(model_id, precision_id, cards)
    units = layout(inventory).units
    ours = {}
    for card, share in enumerate(over_cards(inventory, precision_id, cards)):
        ours |= {unit: card for unit in share.names}
    assert len(ours) == len(units)
    assert {name: card_of(name, theirs) for name in ours} == ours


def card_of(name, found):
    while name not in found:
        name = name.rpartition(".")[0]
    return found[name]


@pytest.fixture(scope="module")
def inventory():
    return inventory_for(ModelRef("google/gemma-3-4b-it"))


@pytest.mark.parametrize("precision", [p for p in PRECISIONS.values() if p.id != "native"], ids=lambda p: p.id)
def test_shares_of_cards_add_up_to_the_whole(precision, inventory):
    demand = Demand(inventory, precision, find_gpu("t4"), 4, "bfloat16")
    assert sum(share.weights for share in demand.shares) == demand.weights.held
    assert sorted(place for share in demand.shares for place in share.cache_layers) == list(range(34))


@given(st.lists(st.integers(0, 12 * 10**9), min_size=1, max_size=4), st.integers(1, 30_000), st.integers(1, 64))
@settings(deadline=None, max_examples=100)
def test_a_split_adds_up_and_keeps_within_every_room(inventory, rooms, context, batch):
    demand = Demand(inventory, PRECISIONS["bf16"], find_gpu("t4"), 1, "bfloat16")
    caches = demand.cache_by_layer(context, batch)
    assert sum(caches) == cache_bytes(inventory, context, batch, "bfloat16")
    split = offload(inventory, PRECISIONS["bf16"], rooms, caches)
    if split is None:
        return
    parts = [*split.cards, split.host]
    assert sum(part.weights for part in parts) == demand.weights.held
    assert sum(len(part.names) for part in parts) == len(layout(inventory).units)
    for card, share in enumerate(split.cards):
        held = share.weights + sum(caches[place] for place in share.cache_layers)
        if card == 0:
            held += split.in_flight + sum(caches[place] for place in split.host.cache_layers)
        assert held <= rooms[card]


def test_bitsandbytes_leaves_what_system_memory_holds_in_16_bits(inventory):
    sizes = dict(zip((u.name for u in layout(inventory).units), unit_bytes(inventory, "bf16"), strict=True))
    split = offload(inventory, PRECISIONS["nf4"], [2_500_000_000], [0] * 34)
    last = sizes["model.language_model.layers.33"][1]
    assert split.host.weights == pytest.approx(len(split.host.names) * last, rel=0.15)
    assert split.in_flight == last


def test_an_offload_says_how_much_stays_where():
    model = inventory_for(ModelRef("meta-llama/Llama-3.1-8B-Instruct"))
    row = fit(model, PRECISIONS["bf16"], Hardware(find_gpu("t4"), 1, 32 * 10**9), Workload(8192))
    assert row.verdict == "offload"
    kept = len(row.split.cards[0].cache_layers)
    assert f"{kept} of 32 layers" in row.reason and 16 < kept < 32
    assert row.split.cards[0].weights + row.split.host.weights == row.weights.held
    assert fit(model, PRECISIONS["bf16"], Hardware(find_gpu("t4"), 1, 0), Workload(8192)).verdict == "no"
    tiny = fit(model, PRECISIONS["bf16"], Hardware(find_gpu("t4"), 1, 4 * 10**9), Workload(8192))
    assert tiny.verdict == "no" and "system memory" in tiny.reason


def test_an_offload_leaves_something_in_system_memory():
    model = inventory_for(ModelRef("google/gemma-3-27b-it"))
    row = fit(model, PRECISIONS["nf4-dq"], Hardware(find_gpu("t4"), 2, 32 * 10**9), Workload(8192))
    assert row.verdict == "no" and "max_memory" in row.reason


def test_both_caches_of_an_encoder_decoder_lie_on_its_cards():
    model = inventory_for(ModelRef("google-t5/t5-small"))
    row = fit(model, PRECISIONS["bf16"], Hardware(find_gpu("t4"), 2), Workload(512, 375))
    assert all(term.bytes >= 0 for terms in row.terms().values() for term in terms)
    assert row.verdict == "no"
