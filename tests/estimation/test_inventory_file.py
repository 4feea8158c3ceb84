"""Inventories as files: nothing is lost, like things stand there once, and those that come with the app are true."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, make_dataclass
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantspace.estimation import builder, bundled, inventory_file
from quantspace.estimation.bundled import REGENERATE, build_bundled, bundled_inventory, write_all
from quantspace.estimation.inventory import Inventory, PeakTerm, TensorSpec
from quantspace.estimation.inventory_file import dump, load
from quantspace.hub.catalogue import bundled_models
from quantspace.hub.reference import ModelRef

FOLDER = Path(str(files("quantspace").joinpath("data/inventories")))
SIX = (
    "google/gemma-3-4b-it",
    "Qwen/Qwen3.5-9B",
    "Qwen/Qwen3-30B-A3B-FP8",
    "openai/gpt-oss-20b",
    "openai-community/gpt2",
    "google-t5/t5-small",
)


def every_field(cls, **given_ones):
    """A strategy that gives each field of a dataclass a value of its type, defaults or not."""
    return st.builds(cls, **{field.name: ... for field in fields(cls)} | given_ones)


names = st.lists(st.sampled_from(["model", "h", "weight", "0", "1", "2", "10", "007", ""]), min_size=1, max_size=5).map(
    ".".join
)
specs = st.lists(every_field(TensorSpec, name=names)).map(tuple)
st.register_type_strategy(PeakTerm, every_field(PeakTerm, square=st.floats(allow_nan=False)))
inventories = every_field(Inventory, tensors=specs, native=specs, blocks=st.lists(names).map(tuple))


def differences(one: Inventory, other: Inventory) -> list[str]:
    """Names of the fields that differ."""
    return [field.name for field in fields(Inventory) if getattr(one, field.name) != getattr(other, field.name)]


@given(inventories)
def test_every_field_comes_back_as_it_was(inventory):
    assert differences(load(dump(inventory)), inventory) == []


def layer(number: int, *leaves: str) -> list[TensorSpec]:
    return [TensorSpec(f"layers.{number}.{leaf}", (8, 8), "linear", rows=8) for leaf in leaves]


def model_of(*tensors: TensorSpec) -> Inventory:
    return Inventory("a/b", "Some", tensors, (), (), "a test")


def test_like_layers_are_written_once():
    model = model_of(*(spec for number in range(100) for spec in layer(number, "up", "down")))
    content = json.loads(dump(model))
    assert content["layers"] == [[["up", 0], ["down", 0]]]
    assert content["kinds"] == [{"shape": [8, 8], "role": "linear", "rows": 8}]
    assert content["tensors"] == [["layers", 0, [[0, 100]]]]


def test_alternating_layers_are_two_of_which_the_file_tells_the_order():
    model = model_of(*(spec for number in range(6) for spec in layer(number, "up" if number % 3 else "down")))
    assert json.loads(dump(model))["tensors"] == [["layers", 0, [[0, 1], [1, 2], [0, 1], [1, 2]]]]


def test_layers_inside_layers_are_written_once_too():
    leaves = [f"experts.{expert}.up" for expert in range(64)]
    model = model_of(*(spec for number in range(4) for spec in layer(number, *leaves)))
    content = json.loads(dump(model))
    assert content["layers"] == [[["up", 0]], [["experts", 0, [[0, 64]]]]]
    assert content["tensors"] == [["layers", 0, [[1, 4]]]]


def test_tensors_of_a_layer_that_stand_apart_stay_apart():
    model = model_of(*layer(0, "up"), *layer(1, "up"), *layer(0, "scale"), *layer(1, "scale"), *layer(7, "up"))
    assert load(dump(model)).tensors == model.tensors


@pytest.mark.parametrize("field", ["format", "fields", "transformers"])
def test_a_file_for_another_version_is_not_read(field):
    content = json.loads(dump(model_of(*layer(0, "up"))))
    assert load(json.dumps(content)) is not None
    assert load(json.dumps(content | {field: "0.1"})) is None


def test_a_new_field_makes_older_files_unread(monkeypatch):
    text = dump(model_of(*layer(0, "up")))
    wider = make_dataclass("Inventory", [("colour", str, "red")], bases=(Inventory,), frozen=True)
    monkeypatch.setattr(inventory_file, "Inventory", wider)
    monkeypatch.setattr(inventory_file, "fields_digest", inventory_file.fields_digest.__wrapped__)
    assert load(text) is None


@pytest.mark.parametrize(
    "change", [{"kinds": []}, {"tensors": [["a"]]}, {"surprise": 1}, {"peak": [{"speed": 1}]}], ids=str
)
def test_a_broken_file_says_so(change):
    content = json.loads(dump(model_of(*layer(0, "up")))) | change
    with pytest.raises(ValueError, match="broken"):
        load(json.dumps(content))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null"])
def test_what_is_no_inventory_file_is_refused(text):
    with pytest.raises(ValueError):
        load(text)


def test_every_bundled_model_has_its_inventory_and_all_take_less_than_a_megabyte():
    stored = list(FOLDER.glob("*.json"))
    assert sorted(file.stem.replace("__", "/", 1) for file in stored) == sorted(bundled_models()), f"run {REGENERATE}"
    assert sum(file.stat().st_size for file in stored) <= 10**6


def expect_what_the_class_gives_today(model_id: str) -> None:
    stored = bundled_inventory(model_id)
    assert stored is not None, f"made with another transformers or other fields; run {REGENERATE}"
    assert differences(stored, build_bundled(model_id)) == [], f"out of date; run {REGENERATE}"


@pytest.mark.slow
@pytest.mark.parametrize("model_id", SIX)
def test_a_stored_inventory_is_what_the_class_gives_today(model_id):
    expect_what_the_class_gives_today(model_id)


@pytest.mark.nightly
@pytest.mark.parametrize("model_id", [model_id for model_id in bundled_models() if model_id not in SIX])
def test_all_others_are_what_their_class_gives_today(model_id):
    expect_what_the_class_gives_today(model_id)


@pytest.mark.slow
def test_writing_them_anew_takes_away_what_is_not_bundled(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "bundled_models", lambda: ("openai-community/gpt2",))
    (tmp_path / "gone__away.json").write_text("{}")
    write_all(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["openai-community__gpt2.json"]
    assert load((tmp_path / "openai-community__gpt2.json").read_text()).parameters == 124_439_808


def test_a_bundled_model_is_answered_from_its_file():
    assert builder.inventory_for(ModelRef("openai-community/gpt2")) is bundled_inventory("openai-community/gpt2")


def test_with_another_transformers_the_class_is_asked(monkeypatch):
    monkeypatch.setattr(inventory_file, "transformers_version", lambda: "0.1")
    monkeypatch.setattr(builder, "bundled_inventory", bundled_inventory.__wrapped__)
    built = builder.inventory_for(ModelRef("openai-community/gpt2"))
    assert built is not bundled_inventory("openai-community/gpt2")
    assert built.parameters == 124_439_808
    assert built.source == bundled.SOURCE


def test_an_answer_for_a_bundled_model_imports_no_torch():
    code = """
import sys
from quantspace import estimate
print(estimate("google/gemma-3-4b-it", gpu="t4").row("nf4-dq").weights.held)
print({"torch", "transformers", "bitsandbytes", "gradio"} & set(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["3228502842", "set()"]
