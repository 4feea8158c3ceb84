"""What to buy or choose: advice says nothing that the fit table would not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantspace.errors import BadInput
from quantspace.estimation import advice
from quantspace.estimation.advice import active_parameters, smallest_gpus, what_fits
from quantspace.estimation.builder import inventory_for
from quantspace.estimation.fit import Hardware, Workload, applies, fit, recommend
from quantspace.estimation.hardware import find_gpu, gpus
from quantspace.estimation.offers import COUNTS, cards, flavors
from quantspace.hub.catalogue import bundled_models
from quantspace.hub.reference import ModelRef
from quantspace.precision import PRECISIONS

MODELS = (
    "google/gemma-3-4b-it",
    "meta-llama/Llama-3.1-70B",
    "Qwen/Qwen3-30B-A3B",
    "openai-community/gpt2",
    "deepseek-ai/DeepSeek-V3",
)
CARDS = tuple(gpu for gpu in gpus().values() if gpu.kind == "gpu")


@pytest.fixture(params=MODELS)
def inventory(request):
    return inventory_for(ModelRef(request.param))


def verdict(inventory, precision, gpu, count, workload):
    return fit(inventory, precision, Hardware(gpu, count), workload).verdict


def recommended(inventory, gpu, count, workload):
    rows = [
        fit(inventory, precision, Hardware(gpu, count), workload)
        for precision in PRECISIONS.values()
        if precision.method != "gguf" and applies(precision, inventory)
    ]
    return recommend(rows)


@pytest.mark.parametrize("context", [2048, 100_000])
def test_the_smallest_card_fits_and_no_smaller_one_does(inventory, context):
    workload = Workload(context)
    for row in smallest_gpus(inventory, workload):
        chosen = row.card.offer if row.card else None
        assert chosen is None or row.card.row.verdict == "fits"
        for offer in cards():
            if chosen and (offer.count, offer.gpu.usable_bytes) >= (chosen.count, chosen.gpu.usable_bytes):
                continue
            assert verdict(inventory, row.precision, offer.gpu, offer.count, workload) != "fits", offer


def test_the_space_is_the_cheapest_flavor_that_fits(inventory):
    workload = Workload(8192)
    for row in smallest_gpus(inventory, workload):
        for choice, floor in ((row.space, 0), (row.dedicated, 0.01)):
            price = choice.offer.usd_per_hour if choice else float("inf")
            assert choice is None or (choice.row.verdict == "fits" and price >= floor)
            for offer in flavors():
                if floor <= offer.usd_per_hour < price:
                    assert verdict(inventory, row.precision, offer.gpu, offer.count, workload) != "fits", offer


def test_zerogpu_is_free_and_says_what_that_means():
    (row,) = smallest_gpus(inventory_for(ModelRef("google/gemma-3-4b-it")), Workload(8192), ["bf16"])
    assert row.space.offer.flavor.name == "zero-a10g"
    assert row.space.offer.usd_per_hour == 0
    assert "quota" in row.space.offer.note
    assert row.dedicated.offer.flavor.name == "t4-small"
    assert not row.dedicated.offer.note


def test_cards_are_cards_and_machines_without_one_stand_beside_them():
    (row,) = smallest_gpus(inventory_for(ModelRef("openai-community/gpt2")), Workload(1024), ["bf16"])
    assert [choice.offer.gpu.id for choice in row.also] == ["apple-m-16gb", "cpu-basic"]
    assert {offer.gpu.kind for offer in cards()} == {"gpu"}
    assert {offer.count for offer in cards()} == set(COUNTS)
    assert not any("zerogpu" in offer.gpu.id for offer in cards())


def test_where_eight_of_the_largest_are_too_few_it_says_by_how_much():
    (row,) = smallest_gpus(inventory_for(ModelRef("deepseek-ai/DeepSeek-V4-Pro")), Workload(8192), ["fp32"])
    assert row.card is row.space is row.dedicated is None
    assert "8 ×" in row.reason and "short" in row.reason


def test_rows_are_those_that_mean_something_for_the_model():
    def ids(name):
        return [row.precision.id for row in smallest_gpus(inventory_for(ModelRef(name)), Workload(2048))]

    assert "nf4-moe" not in ids("google/gemma-3-4b-it")
    assert "nf4-moe" in ids("Qwen/Qwen3-30B-A3B")
    with pytest.raises(BadInput):
        smallest_gpus(inventory_for(ModelRef("openai-community/gpt2")), Workload(), ["int3"])


@pytest.mark.parametrize(("card", "count"), [("t4", 1), ("rtx-4090", 2), ("h200", 8)])
def test_every_bundled_model_is_ranked_or_counted(card, count):
    found = what_fits(find_gpu(card), count, Workload(8192))
    named = [name for row in found.ranked for name in (row.model_id, *row.also)]
    assert len(named) == len(set(named))
    assert set(named) <= set(bundled_models())
    assert len(named) + found.too_large + found.unread == len(bundled_models())


def test_models_whose_inventory_is_not_stored_are_counted_and_not_built(monkeypatch):
    monkeypatch.setattr(advice, "bundled_inventory", lambda model_id: None)
    found = what_fits(find_gpu("t4"), 1, Workload(8192))
    assert (found.ranked, found.too_large, found.unread) == ((), 0, len(bundled_models()))


@pytest.mark.slow
def test_the_ranking_of_a_card_is_what_the_fit_tables_recommend():
    gpu, workload = find_gpu("t4"), Workload(8192)
    found = what_fits(gpu, 1, workload)
    ranked = {name: row.precision.id for row in found.ranked for name in (row.model_id, *row.also)}
    tables = {name: recommended(inventory_for(ModelRef(name)), gpu, 1, workload) for name in bundled_models()}
    assert ranked == {name: best for name, best in tables.items() if best is not None}


def test_the_most_capable_come_first_and_of_equals_the_more_faithful():
    rows = what_fits(find_gpu("h200"), 1, Workload(8192)).ranked
    faithful = ["native", "bf16", "fp16", "int8", "nf4", "nf4-dq", "nf4-moe", "fp4", "fp32"]
    order = [(-row.parameters, faithful.index(row.precision.id)) for row in rows]
    assert order == sorted(order)


@settings(deadline=None, max_examples=25)
@given(
    gpu=st.sampled_from(CARDS),
    count=st.sampled_from(COUNTS),
    workload=st.builds(Workload, st.integers(1, 200_000), st.integers(1, 8), st.sampled_from(["auto", "float32"])),
)
def test_a_ranked_row_has_the_figures_of_the_fit_table(gpu, count, workload):
    inventories = [inventory_for(ModelRef(name)) for name in MODELS]
    found = what_fits(gpu, count, workload, inventories)
    assert len(found.ranked) + found.too_large == len(MODELS)
    for row in found.ranked:
        same = fit(row.inventory, row.precision, Hardware(gpu, count), workload)
        assert row.verdict == same.verdict and row.verdict in ("fits", "tight")
        assert (row.reason, row.needed_bytes, row.free_bytes) == (same.reason, same.total_bytes, same.free_bytes)
        assert row.max_context == same.max_context
        assert row.precision.id == recommended(row.inventory, gpu, count, workload)


def test_where_all_are_tight_the_most_faithful_is_taken():
    inventory, workload = inventory_for(ModelRef("google/gemma-3-4b-it")), Workload(131_072, 64)  # mostly cache
    card = find_gpu("h200")
    needed = fit(inventory, PRECISIONS["bf16"], Hardware(card), workload).total_bytes
    barely = replace(card, usable_bytes=needed * 101 // 100)
    assert verdict(inventory, PRECISIONS["nf4-dq"], barely, 1, workload) == "tight"
    (row,) = what_fits(barely, 1, workload, [inventory]).ranked
    assert (row.precision.id, row.verdict) == ("bf16", "tight")


def test_a_longer_context_leaves_fewer_models():
    gpu = find_gpu("l4")
    sets = [
        {name for row in what_fits(gpu, 1, Workload(context)).ranked for name in (row.model_id, *row.also)}
        for context in (1024, 16_384, 262_144)
    ]
    assert sets[0] > sets[1] > sets[2]


def test_a_context_beyond_what_a_model_was_made_for_is_said():
    (row,) = what_fits(find_gpu("t4"), 1, Workload(8192), [inventory_for(ModelRef("openai-community/gpt2"))]).ranked
    assert row.max_context == 1024
    assert row.notes == ("Made for at most 1,024 tokens.",)


def test_copies_of_a_model_share_a_row():
    rows = what_fits(find_gpu("l40s"), 1, Workload(8192)).ranked
    (row,) = [row for row in rows if row.model_id == "meta-llama/Llama-3.1-8B"]
    assert "meta-llama/Llama-3.1-8B-Instruct" in row.also


@pytest.mark.parametrize(
    ("model_id", "published"),
    [
        ("mistralai/Mixtral-8x7B-v0.1", 12.9e9),  # arXiv:2401.04088
        ("deepseek-ai/DeepSeek-V3", 37e9),  # arXiv:2412.19437
        ("Qwen/Qwen3-30B-A3B", 3.3e9),  # its model card
        ("google/gemma-3-4b-it", 4.3e9),  # dense: all of them
    ],
)
def test_active_parameters_are_those_that_were_published(model_id, published):
    assert active_parameters(inventory_for(ModelRef(model_id))) == pytest.approx(published, rel=0.02)  # two digits


def test_advice_and_ranking_are_json():
    inventory = inventory_for(ModelRef("Qwen/Qwen3-30B-A3B"))
    rows = json.loads(json.dumps([row.as_data() for row in smallest_gpus(inventory, Workload(8192))]))
    card = rows[0]["card"]
    assert card["free_bytes"] == card["usable_bytes"] - card["needed_bytes"]
    ranking = json.loads(json.dumps(what_fits(find_gpu("t4"), 1, Workload(8192)).as_data()))
    assert {row["verdict"] for row in ranking["models"]} <= {"fits", "tight"}
    assert all(row["active_parameters"] <= row["parameters"] for row in ranking["models"])


def test_neither_needs_torch():
    code = """
import sys
from quantspace.estimation.advice import smallest_gpus, what_fits
from quantspace.estimation.bundled import bundled_inventory
from quantspace.estimation.fit import Workload
from quantspace.estimation.hardware import find_gpu
what_fits(find_gpu("t4"), 1, Workload())
smallest_gpus(bundled_inventory("google/gemma-3-4b-it"), Workload())
print({"torch", "transformers", "gradio"} & set(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
