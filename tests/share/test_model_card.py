"""The card of a quantized copy: what the Hub reads of it, what people read, and code that loads the copy."""

from __future__ import annotations

import ast
import re
from dataclasses import replace

import pytest
import yaml

from quantspace.hub.demo import DEMO_ID
from quantspace.precision import PRECISIONS
from quantspace.runtime.kept_rules import METHODS
from quantspace.runtime.quality.figures import Interval, Quality
from quantspace.share.model_card import CardFacts, model_card

FACTS = CardFacts(
    repo_id="ada/gemma-3-4b-it-nf4-dq",
    base_id="google/gemma-3-4b-it",
    base_sha="0123456789abcdef0123456789abcdef01234567",
    precision="nf4-dq",
    architecture="Gemma3ForConditionalGeneration",
    footprint_bytes=3_170_624_226,
    held_bytes=3_228_502_842,
    file_bytes=3_250_000_000,
    license={"license": "other", "license_name": "gemma", "license_link": "https://ai.google.dev/gemma/terms"},
    versions={"transformers": "5.23.0", "bitsandbytes": "0.50.2"},
)
QUALITY = Quality(
    tokens=4096,
    windows=8,
    window=512,
    read_tokens=4104,
    text_tokens=5000,
    seconds=3.0,
    perplexity=Interval(9.1234, 8.9, 9.35),
    ratio=Interval(1.0213, 1.01, 1.03),
    divergence=Interval(0.04321, 0.04, 0.05),
    agreement=Interval(0.9312, 0.92, 0.94),
)


def header(card):
    _, text, _ = re.split(r"^---$", card, maxsplit=2, flags=re.M)
    return yaml.safe_load(text)


def test_the_hub_learns_the_base_model_the_licence_and_the_library():
    told = header(model_card(FACTS))
    assert told["base_model"] == "google/gemma-3-4b-it"
    assert told["base_model_relation"] == "quantized"
    assert (told["license"], told["license_name"]) == ("other", "gemma")
    assert told["library_name"] == "transformers"
    assert {"bitsandbytes", "4-bit", "nf4-dq"} <= set(told["tags"])


def test_people_learn_the_method_and_the_measured_bytes():
    card = model_card(FACTS)
    for words in ("NF4 + double quant", "3,170,624,226 B", "3,228,502,842 B", "0123456", "transformers 5.23.0"):
        assert words in card
    assert "| Computes in | bfloat16 |" in card
    assert "Not measured." in card


def test_measured_quality_stands_with_its_interval_and_its_tokens():
    card = model_card(replace(FACTS, quality=QUALITY))
    assert "| Perplexity | 9.123 (8.900 to 9.350) |" in card
    assert "| Same most likely token | 93.12% (92.00% to 94.00%) |" in card
    assert "4,096 tokens" in card
    assert "Not measured" not in card


def test_figures_that_were_not_measured_are_left_out():
    alone = replace(QUALITY, ratio=None, divergence=None, agreement=None)
    card = model_card(replace(FACTS, quality=alone))
    assert "Perplexity |" in card
    assert "divergence" not in card


def test_options_of_the_load_are_told():
    card = model_card(replace(FACTS, compute_dtype="float16", double_quant=False, skip=("o_proj",)))
    assert "| Computes in | float16 |" in card
    assert "| Double quantization of the scales | no |" in card
    assert "| Left unquantized | o\\_proj |" in card


def test_its_python_parses_and_loads_the_copy_itself():
    code = re.search(r"```python\n(.*?)```", model_card(FACTS), re.S)[1]
    ast.parse(code)
    assert 'from_pretrained("ada/gemma-3-4b-it-nf4-dq"' in code
    assert "Gemma3ForConditionalGeneration" in code


def test_without_a_licence_the_card_says_whose_terms_hold():
    card = model_card(replace(FACTS, license={}))
    assert "license" not in header(card)
    assert "terms hold for this copy" in card


def test_the_demo_names_no_repository_that_is_not_there():
    card = model_card(replace(FACTS, base_id=DEMO_ID))
    assert "base_model" not in header(card)
    assert "huggingface.co/quantspace" not in card


@pytest.mark.parametrize("precision", [row.id for row in PRECISIONS.values() if row.method in METHODS])
def test_every_precision_that_can_be_kept_has_a_card(precision):
    assert PRECISIONS[precision].label in model_card(replace(FACTS, precision=precision))


@pytest.mark.parametrize("hostile", ["a\n---\nlicense: mit", "<script>alert(1)</script>", "x: [", "]( javascript:a)"])
def test_what_others_wrote_ends_neither_the_header_nor_the_text(hostile):
    card = model_card(replace(FACTS, license={"license": "other", "license_name": hostile}, skip=(hostile,)))
    assert header(card)["license_name"] == hostile
    body = card.split("\n---\n", 1)[1] if "\n---\n" not in hostile else card
    assert "<script>" not in body.split("---\n\n", 1)[-1]
    assert "\nlicense: mit" not in card.rpartition("## Licence")[2]
