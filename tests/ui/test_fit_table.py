"""What the table says: formulas that give the figure beside them, and text that is never markup."""

from dataclasses import replace

import pytest

from quantspace import estimate
from quantspace.ui.fit_table import headline, table_html
from tests.shown import evaluated

MODELS = [
    "google/gemma-3-4b-it",
    "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen3.5-9B",
    "openai/gpt-oss-20b",
    "deepseek-ai/DeepSeek-V2-Lite",
    "Qwen/Qwen3-30B-A3B",
]


@pytest.mark.parametrize("gpu_count", [1, 4])
@pytest.mark.parametrize("model", MODELS)
def test_every_formula_gives_the_figure_beside_it_and_they_add_up(model, gpu_count):
    answer = estimate(model, "a100", gpu_count=gpu_count, context=5000, batch=3)
    for row in answer.rows:
        sums = {}
        for part, terms in row.terms().items():
            for term in terms:
                assert evaluated(term.shown) == term.bytes, (row.precision.id, term.name, term.shown)
            sums[part] = sum(term.bytes for term in terms)
        assert sums == {
            "weights": row.weights.held,
            "cache": row.cache_bytes,
            "activations": row.activation_bytes,
            "overhead": row.overhead_bytes,
        }
        assert sum(sums.values()) == row.total_bytes


@pytest.mark.parametrize("model", MODELS)
def test_every_opinion_of_another_engine_gives_its_figure(model):
    for opinion in estimate(model, context=5000, batch=3).opinions():
        assert sum(evaluated(term.shown) for term in opinion.terms) == opinion.cache_bytes


def test_a_formula_on_the_page_is_the_one_that_was_counted():
    answer = estimate("google/gemma-3-4b-it", "t4")
    html = table_html(answer)
    for row in answer.rows:
        for terms in row.terms().values():
            assert all(term.shown in html for term in terms)


def test_markup_in_a_models_name_is_text():
    answer = estimate("google/gemma-3-4b-it")
    hostile = replace(answer, inventory=replace(answer.inventory, model_id="<img src=x onerror=alert(1)>"))
    assert "<img" not in table_html(hostile)
    assert "&lt;img" in table_html(hostile)


def test_the_headline_says_what_to_take_or_how_far_one_could_go():
    assert headline(estimate("google/gemma-3-4b-it", "t4")).startswith("Take BF16: it fits, with ")
    far = headline(estimate("meta-llama/Llama-3.1-8B-Instruct", "rtx-3060-12gb", context=32768))
    assert far.startswith("Nothing fits at 32,768 tokens × 1 on the card alone. NF4 + double quant fits up to ")
    assert "runs with layers in system memory" in far and "llama.cpp would fit" in far
    none = headline(estimate("meta-llama/Meta-Llama-3.1-405B", "t4"))
    assert none.startswith("Nothing fits on the card alone, even for one token.") and "system memory" not in none
    assert headline(estimate("Qwen/Qwen3-30B-A3B", "rtx-4090")).startswith("Take NF4, experts too: it ")


def test_a_card_without_bfloat16_is_given_float16_where_the_model_bears_it():
    assert estimate("Qwen/Qwen3-4B", "t4").recommended == "fp16"
    assert estimate("Qwen/Qwen3-4B", "l4").recommended == "bf16"
    gemma = estimate("google/gemma-3-4b-it", "t4")
    assert gemma.recommended == "bf16" and any("overflow" in note for note in gemma.row("fp16").notes)


def test_every_verdict_is_said_in_words():
    answer = estimate("google/gemma-3-4b-it", "t4", gpu_count=1, context=20_000)
    html = table_html(answer)
    words = {"fits": "✓ Fits<", "tight": "! Tight<", "offload": "⇄ Offload<", "no": "✕ Does not fit<"}
    verdicts = [row.verdict for row in answer.rows]
    assert {"fits", "offload"} <= set(verdicts)
    assert {verdict: html.count(word) for verdict, word in words.items()} == {v: verdicts.count(v) for v in words}


def test_a_row_that_cannot_be_loaded_is_greyed_and_says_why():
    answer = estimate("deepseek-ai/DeepSeek-V3", "h200")
    html = table_html(answer)
    loadable = [row.precision.id for row in answer.rows if row.loadable]
    assert loadable == ["native"]
    assert html.count('class="qs-load"') == 1 and 'data-precision="native"' in html
    assert html.count(">not loaded here<") == len(answer.rows) - 1
    assert "the checkpoint is stored quantized already (fp8). Load it as published" in html
