"""What the table says: formulas that give the figure beside them, and text that is never markup."""

import re
from dataclasses import replace

import pytest

from quantspace import estimate
from quantspace.ui.fit_table import _whys, headline, table_html

MODELS = [
    "google/gemma-3-4b-it",
    "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen3.5-9B",
    "openai/gpt-oss-20b",
    "deepseek-ai/DeepSeek-V2-Lite",
]


def evaluated(formula: str) -> int:
    """The value of what stands before the equals sign, with its words taken out."""
    left = formula.partition("=")[0]
    signs = {"×": "*", "[": "(", "]": ")", ",": "", "²": "**2"}
    for sign, meaning in signs.items():
        left = left.replace(sign, meaning)
    return eval(re.sub(r"[a-zA-Z]+", "", left))


@pytest.mark.parametrize("gpu_count", [1, 4])
@pytest.mark.parametrize("model", MODELS)
def test_a_formula_gives_the_figure_beside_it(model, gpu_count):
    answer = estimate(model, "a100", gpu_count=gpu_count, context=5000, batch=3)
    for row in answer.rows:
        cache = next(why for why in _whys(row, answer) if why.name == "cache")
        assert evaluated(cache.formula) == cache.bytes == row.cache_bytes


@pytest.mark.parametrize("model", MODELS)
def test_terms_of_a_formula_add_up_to_its_figure(model):
    answer = estimate(model, "t4", context=5000)
    for row in answer.rows:
        overhead = next(why for why in _whys(row, answer) if why.name == "overhead")
        assert (
            sum(int(n.replace(",", "")) for n in re.findall(r"([\d,]+) B(?! each)", overhead.formula)) == overhead.bytes
        )


def test_markup_in_a_models_name_is_text():
    answer = estimate("google/gemma-3-4b-it")
    hostile = replace(answer, inventory=replace(answer.inventory, model_id="<img src=x onerror=alert(1)>"))
    assert "<img" not in table_html(hostile)
    assert "&lt;img" in table_html(hostile)


def test_the_headline_says_what_to_take_or_how_far_one_could_go():
    assert headline(estimate("google/gemma-3-4b-it", "t4")).startswith("Take BF16: it fits, with ")
    far = headline(estimate("meta-llama/Llama-3.1-8B-Instruct", "rtx-3060-12gb", context=32768))
    assert far.startswith("Nothing fits at 32,768 tokens × 1. NF4 + double quant fits up to ")
    assert headline(estimate("meta-llama/Meta-Llama-3.1-405B", "t4")).startswith("Nothing fits, even for one token.")


def test_every_verdict_is_said_in_words():
    html = table_html(estimate("google/gemma-3-4b-it", "t4"))
    assert html.count("Fits") == 6
    assert html.count("Does not fit") == 1


def test_a_checkpoint_that_cannot_be_loaded_says_so_in_its_row():
    html = table_html(estimate("deepseek-ai/DeepSeek-V3", "h200"))
    assert html.count("be loaded yet") == 7
    assert html.count("disabled") == 7
