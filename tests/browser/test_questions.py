"""What the page answers beside the fit table: why, where layers go, other engines, fine-tuning, what to choose."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_flow import LOAD_MS, ROWS, choose
from tests.chromium import ARTIFACTS

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("app")]

GEMMA = "google/gemma-3-4b-it"


@pytest.fixture
def opened(page: Page, offline_app) -> Page:
    page.goto(f"{offline_app}/?model={GEMMA}&gpu=t4")
    expect(page.locator(".qs-fit .qs-model")).to_have_text(GEMMA, timeout=LOAD_MS)
    return page


def show(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def test_a_row_opens_to_its_terms(opened):
    row = opened.locator("[data-row='nf4-dq']")
    row.locator(".qs-why > summary").click()
    expect(row).to_contain_text("1 sequence × 5 layers × 8,192 tokens × 2,048 values × 2 B = 167,772,160 B")
    expect(row).to_contain_text(re.compile(r"Speed to expect: [\d.]+–[\d.]+ tokens/s"))


def test_other_formats_open_on_demand(opened):
    row = opened.locator("[data-row='q4_k_m']")
    expect(row).to_be_hidden()
    opened.get_by_text("Other formats:").click()
    expect(row).to_be_visible()
    expect(row).to_contain_text("Fits")
    expect(row.locator("button")).to_have_count(0)  # it can't be loaded, and has nothing to press


def test_several_cards_show_what_each_holds(opened):
    opened.locator("#count input").fill("2")
    opened.locator("#count input").press("Enter")
    row = opened.locator("[data-row='bf16']")
    expect(opened.locator(".qs-fit")).to_contain_text("2 × NVIDIA T4")
    row.locator(".qs-why > summary").click()
    expect(row.locator(".qs-places tr")).to_have_count(2)
    expect(row).to_contain_text("As vLLM would divide it")


def test_other_engines_tell_another_cache(opened):
    opened.locator("#engines > summary").click()
    expect(opened.locator("#engines")).to_contain_text("vLLM")
    expect(opened.locator("#engines")).to_contain_text("llama.cpp")


def test_the_smallest_hardware_is_told(opened):
    opened.locator("#advice > summary").click()
    expect(opened.locator("#advice tbody tr")).to_have_count(3)
    expect(opened.locator("#advice")).to_contain_text("t4-small")


def test_fine_tuning_is_assumed_at_once_and_then_watched(opened):
    show(opened, "Fine-tune")
    answer = opened.locator("#finetune-answer")
    expect(answer).to_contain_text("parameters are trained", timeout=LOAD_MS)
    expect(answer.locator(".qs-waiting")).to_have_count(0, timeout=90_000)
    opened.screenshot(path=ARTIFACTS / "finetune.png", full_page=True)
    before = answer.locator(".qs-headline").inner_text()

    opened.get_by_label("Sequence").fill("4096")
    opened.get_by_label("Sequence").press("Enter")
    expect(answer.locator(".qs-headline")).not_to_have_text(before, timeout=LOAD_MS)


@pytest.mark.parametrize(
    ("label", "value", "words"), [("Rank", "0", "Rank is “0”"), ("Sequence", "-1", "Sequence is “-1”")]
)
def test_a_bad_number_of_fine_tuning_gets_a_sentence(opened, label, value, words):
    show(opened, "Fine-tune")
    expect(opened.locator("#finetune-answer")).to_contain_text("parameters are trained", timeout=LOAD_MS)
    opened.get_by_label(label).fill(value)
    opened.get_by_label(label).press("Enter")
    expect(opened.locator("#finetune-answer .qs-error")).to_contain_text(words, timeout=LOAD_MS)


def test_what_fits_a_card_leads_to_its_table(opened):
    show(opened, "What fits?")
    expect(opened.locator(".qs-ranking tbody tr").first).to_be_visible(timeout=LOAD_MS)
    assert opened.locator(".qs-ranking tbody tr").count() > 20
    opened.screenshot(path=ARTIFACTS / "ranking.png", full_page=True)
    opened.locator(".qs-ranking button[data-model='Qwen/Qwen3-8B']").click()
    expect(opened.locator(".qs-fit .qs-model")).to_have_text("Qwen/Qwen3-8B", timeout=LOAD_MS)
    expect(opened.locator(ROWS).first).to_be_visible()


def test_a_quantized_cache_is_counted_where_transformers_has_one(opened):
    choose(opened, "meta-llama/Llama-3.1-8B-Instruct")
    row = opened.locator("[data-row='nf4']")
    expect(opened.locator(".qs-fit .qs-model")).to_have_text("meta-llama/Llama-3.1-8B-Instruct", timeout=LOAD_MS)
    opened.locator("#kv input").fill("int4")
    opened.locator("#kv input").press("Enter")
    row.locator(".qs-why > summary").click()
    expect(row).to_contain_text("4-bit keys and values")
