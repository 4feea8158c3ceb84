"""Comparing precisions in a real browser: answers side by side, figures, a report to keep, and a way to stop."""

import json

import pytest
from playwright.sync_api import Page, expect

from tests.chromium import ARTIFACTS

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("app")]

WAIT_MS = 90_000
CARD = "#compare-result .qs-card"


@pytest.fixture
def compare_tab(page: Page, offline_app) -> Page:
    page.goto(offline_app)
    expect(page.locator(".qs-row").first).to_be_visible(timeout=WAIT_MS)
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator("#compare-precisions")).to_contain_text("NF4 + double quant · 2.61 MB", timeout=WAIT_MS)
    return page


def run(page: Page) -> None:
    page.click("#compare-run")
    expect(page.locator(".qs-comparison[data-ended=yes]")).to_be_visible(timeout=WAIT_MS)


def test_two_precisions_side_by_side_with_what_the_smaller_one_costs(compare_tab):
    run(compare_tab)
    expect(compare_tab.locator(CARD)).to_have_count(2)
    for precision in ("bf16", "nf4-dq"):
        card = compare_tab.locator(f"{CARD}[data-precision='{precision}']")
        expect(card.locator(".qs-said")).to_contain_text("Quantization stores the weights")
        expect(card).to_contain_text("tokens/s")
    expect(compare_tab.locator(f"{CARD}[data-precision='bf16'] .qs-best")).to_have_text("reference")
    expect(compare_tab.locator(".qs-found")).to_contain_text("37% of BF16’s memory; the same next token 9")
    row = compare_tab.locator(".qs-quality tr[data-precision='nf4-dq']")
    expect(row.locator("td[data-label='KL divergence'] small")).to_contain_text(" to ")
    expect(compare_tab.locator(".qs-meanings")).to_contain_text("lower is better")
    expect(compare_tab.locator("#compare-run")).to_be_visible()
    expect(compare_tab.locator("#compare-cancel")).to_be_hidden()


def test_the_report_can_be_kept_in_three_formats(compare_tab):
    run(compare_tab)
    for name, begins in (
        ("Report as Markdown", "# quantspace/demo"),
        ("Report as JSON", "{"),
        ("Table as CSV", "prec"),
    ):
        compare_tab.locator("#compare-result .qs-keep summary").click()
        with compare_tab.expect_download() as download:
            compare_tab.get_by_role("button", name=name).click()
        text = download.value.path().read_text(encoding="utf-8")
        assert download.value.suggested_filename.startswith("demo-bf16-nf4-dq.")
        assert text.startswith(begins)
        if begins == "{":
            assert [row["precision"] for row in json.loads(text)["rows"]] == ["bf16", "nf4-dq"]


def test_cancelling_gives_the_button_back_and_the_next_comparison_runs(compare_tab):
    compare_tab.click("#compare-run")
    compare_tab.click("#compare-cancel", timeout=WAIT_MS)
    expect(compare_tab.locator("#compare-cancel")).to_be_hidden()
    expect(compare_tab.locator("#compare-progress .qs-progress")).to_have_count(0)
    expect(compare_tab.locator("#compare-result")).not_to_contain_text("at work")
    run(compare_tab)


def test_a_cancelled_one_stays_so_and_can_be_kept(compare_tab):
    # Gradio's own way to stop an event is a request beside the others, which may come late.
    compare_tab.route("**/cancel", lambda route: route.abort())
    for label in ("FP32", "INT8", "NF4 ·"):
        compare_tab.locator("#compare-precisions label", has_text=label).first.click()
    compare_tab.click("#compare-run")
    compare_tab.locator(f"{CARD} p", has_text="held").first.wait_for(timeout=WAIT_MS)
    compare_tab.click("#compare-cancel")
    expect(compare_tab.locator("#compare-result")).to_contain_text("Cancelled before it was over")
    expect(compare_tab.locator(f"{CARD}[data-state=cancelled] > header").last).to_contain_text("cancelled")
    compare_tab.wait_for_timeout(3000)
    expect(compare_tab.locator("#compare-progress .qs-progress")).to_have_count(0)
    expect(compare_tab.locator("#compare-run")).to_be_visible()
    expect(compare_tab.locator("#compare-cancel")).to_be_hidden()
    expect(compare_tab.locator(f"{CARD}:is([data-state=running], [data-state=waiting])")).to_have_count(0)

    compare_tab.locator("#compare-result .qs-keep summary").click()
    with compare_tab.expect_download() as download:
        compare_tab.get_by_role("button", name="Report as JSON").click()
    told = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert download.value.suggested_filename.endswith("-cancelled.json")
    assert told["cancelled"] and told["ended"]
    assert told["rows"][0]["held_bytes"]
    assert told["rows"][-1]["state"] == "cancelled"


def test_a_text_of_ones_own_and_what_is_wrong_with_it(compare_tab):
    compare_tab.get_by_label("My own text").check()
    compare_tab.locator("#compare-own textarea").fill("Too short.")
    compare_tab.click("#compare-run")
    expect(compare_tab.locator("#compare-progress .qs-error")).to_contain_text("too few to measure quality on")
    expect(compare_tab.locator("#compare-run")).to_be_visible()

    compare_tab.locator("#compare-own textarea").fill("What is quantization? It stores weights in fewer bits. " * 40)
    run(compare_tab)
    expect(compare_tab.locator("#compare-result")).to_contain_text("scored tokens of “own text” (all of it)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_shows_cards_one_below_the_other_and_nothing_runs_over_its_edge(compare_tab, scheme):
    compare_tab.emulate_media(color_scheme=scheme)
    compare_tab.set_viewport_size({"width": 360, "height": 800})
    run(compare_tab)
    first, second = (compare_tab.locator(CARD).nth(at).bounding_box() for at in (0, 1))
    assert second["y"] >= first["y"] + first["height"]
    assert compare_tab.evaluate("document.documentElement.scrollWidth") <= 360
    compare_tab.screenshot(path=ARTIFACTS / f"compare_360_{scheme}.png", full_page=True)
