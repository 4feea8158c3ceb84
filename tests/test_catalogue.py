"""The bundled models: what is known of a model without the Hub."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from quantspace import estimate
from quantspace.estimation.builder import inventory_for
from quantspace.estimation.hardware import gpus
from quantspace.hub.catalogue import ALIASES, bundled_models, find_bundled
from quantspace.hub.reference import ModelRef

DATA = Path(str(files("quantspace").joinpath("data")))
UNREACHABLE = re.compile(r"idx:|stored (copy|page)|on disk|file://")  # sources that lead nowhere for others
EVERY_MODEL = pytest.mark.parametrize("model_id", bundled_models())


def test_a_hundred_models_and_more_are_bundled():
    assert len(bundled_models()) >= 100
    assert len(bundled_models()) == len(set(bundled_models()))


def test_the_families_asked_for_most_come_first():
    organizations = list(dict.fromkeys(model_id.split("/")[0] for model_id in bundled_models()))
    assert organizations[:4] == ["google", "meta-llama", "Qwen", "mistralai"]


@EVERY_MODEL
def test_an_entry_holds_the_config_of_the_model_it_is_named_for(model_id):
    entry = find_bundled(model_id)
    assert entry.id == model_id
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", model_id)
    assert isinstance(entry.config, dict)
    assert isinstance(entry.config["model_type"], str)


@EVERY_MODEL
def test_an_official_count_comes_with_its_source_and_a_difference_with_its_reason(model_id):
    entry = find_bundled(model_id)
    assert entry.source
    assert (entry.official_parameters is None) == (entry.official_source is None)
    assert (entry.match == "no-official") == (entry.official_parameters is None)
    assert (entry.match == "DIFF") == (entry.difference is not None)


@pytest.mark.parametrize(
    "model_id",
    [
        "google/gemma-3-4b-it",
        "meta-llama/Llama-3.1-8B-Instruct",
        "meta-llama/Llama-3.2-1B",
        "mistralai/Mistral-7B-Instruct-v0.3",
        "mistralai/Mixtral-8x7B-v0.1",
        "Qwen/Qwen3-30B-A3B",
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "deepseek-ai/DeepSeek-V3",
        "openai/gpt-oss-20b",
        "microsoft/phi-4",
        "HuggingFaceTB/SmolLM3-3B",
        "openai-community/gpt2",
        "facebook/opt-125m",
        "google-t5/t5-small",
    ],
)
def test_the_models_people_ask_for_are_bundled(model_id):
    assert find_bundled(model_id).id == model_id


def test_an_id_is_found_whatever_its_case_and_the_spaces_around_it():
    assert find_bundled(" GOOGLE/Gemma-3-4B-it\n").id == "google/gemma-3-4b-it"


@pytest.mark.parametrize(("alias", "model_id"), ALIASES.items())
def test_a_name_that_the_hub_redirects_leads_to_the_bundled_model(alias, model_id):
    assert model_id in bundled_models()
    assert alias not in bundled_models()
    assert find_bundled(alias).id == model_id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "google",
        "gemma-3-4b-it",
        "no/such",
        "../README",
        "google__gemma-3-4b-it",
        "x" * 10_000,
        "\x00",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_not_bundled_is_none(text):
    assert find_bundled(text) is None


def test_changing_an_entry_does_not_change_the_next_one():
    find_bundled("openai-community/gpt2").config["model_type"] = "changed"
    assert find_bundled("openai-community/gpt2").config["model_type"] == "gpt2"


def test_listing_the_names_opens_no_file(monkeypatch):
    monkeypatch.setattr("builtins.open", pytest.fail)
    monkeypatch.setattr("io.open", pytest.fail)
    assert bundled_models()


def test_neither_the_catalogue_nor_the_hardware_needs_torch():
    code = """
import sys
from quantspace.estimation.hardware import gpus
from quantspace.hub.catalogue import bundled_models
gpus(), bundled_models()
print({"torch", "transformers", "gradio"} & set(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_no_source_is_a_private_number_or_path():
    for file in [*DATA.glob("*.json"), *DATA.glob("models/*.json"), DATA / "README.md"]:
        found = UNREACHABLE.search(file.read_text(encoding="utf-8"))
        assert not found, (file.name, found)


def test_every_file_is_tidy_json():
    for file in DATA.glob("models/*.json"):
        text = file.read_text(encoding="utf-8")
        assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n", file.name


@pytest.mark.slow
@EVERY_MODEL
def test_the_class_that_transformers_builds_has_the_official_count(model_id):
    import torch

    from quantspace.estimation.architecture import model_class, parse_config

    entry = find_bundled(model_id)
    config = parse_config(entry.config)
    with torch.device("meta"):
        model = model_class(config)(config)
    model.tie_weights()
    built = sum(parameter.numel() for parameter in model.parameters())
    if entry.match == "MATCH":
        assert built == entry.official_parameters
    if entry.match == "DIFF":
        assert entry.difference.startswith(f"{built - entry.official_parameters:+d} parameters")


@pytest.mark.slow
@pytest.mark.parametrize("model_id", [m for m in bundled_models() if find_bundled(m).match == "MATCH"])
def test_the_inventory_has_the_official_count(model_id):
    assert inventory_for(ModelRef(model_id)).parameters == find_bundled(model_id).official_parameters


@pytest.mark.nightly
@pytest.mark.parametrize("model_id", bundled_models())
def test_every_bundled_model_has_an_answer_on_every_gpu(model_id):
    for gpu in gpus():
        answer = estimate(model_id, gpu, context=4096).as_data()
        assert len(answer["rows"]) == 7
        assert all(row["total_bytes"] > row["weights_bytes"] > 0 for row in answer["rows"])
