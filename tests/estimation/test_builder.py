"""Inventories on demand: shared among those who ask, apart from the server where one runs."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest

from quantspace.errors import ModelUnsupported
from quantspace.estimation import builder
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.hub.catalogue import find_bundled
from quantspace.hub.reference import ModelRef

SMALL = "HuggingFaceTB/SmolLM2-135M"


@pytest.fixture
def builds(monkeypatch):
    """Names of the models that were built, in order; the cache is empty before and after."""
    names = []
    real = builder.run_apart

    def noted(seconds, work, config, about):
        names.append(about["model_id"])
        return real(seconds, work, config, about)

    monkeypatch.setattr(builder, "run_apart", noted)
    monkeypatch.setattr(builder, "bundled_inventory", lambda model_id: None)
    builder.built.cache_clear()
    yield names
    builder.built.cache_clear()


def test_those_who_ask_at_once_share_one_build(builds):
    with ThreadPoolExecutor(8) as people:
        answers = list(people.map(lambda _: builder.inventory_for(ModelRef(SMALL)), range(8)))
    assert builds == [SMALL]
    assert all(answer is answers[0] for answer in answers)


def test_a_model_that_cannot_be_built_does_not_stand_in_the_way(builds, monkeypatch):
    broken = dataclasses.replace(find_bundled(SMALL), config={"model_type": "llama", "num_hidden_layers": "many"})
    with monkeypatch.context() as patch:
        patch.setattr(builder, "find_bundled", lambda _: broken)
        with pytest.raises(ModelUnsupported):
            builder.inventory_for(ModelRef(SMALL))
    assert builder.inventory_for(ModelRef(SMALL)).parameters == 134_515_008


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 10**10},
        {"num_hidden_layers": -1},
        {"hidden_size": "wide"},
        {"hidden_size": -64},
        {"vocab_size": None},
        {"num_attention_heads": 0},
    ],
    ids=str,
)
def test_a_config_that_makes_no_sense_is_refused_with_a_sentence(changes):
    config = {**find_bundled(SMALL).config, **changes}
    with pytest.raises(ModelUnsupported) as caught:
        inventory_from_config(config, "strange")
    assert caught.value.message and caught.value.hint


def test_a_vision_tower_of_ten_million_layers_is_refused_before_it_is_built():
    config = find_bundled("llava-hf/llava-1.5-7b-hf").config
    config = {**config, "vision_config": {**config["vision_config"], "num_hidden_layers": 10**7}}
    with pytest.raises(ModelUnsupported, match="10,000,000"):
        inventory_from_config(config, "tower")
