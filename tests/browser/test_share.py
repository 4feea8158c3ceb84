"""What is taken along: code of a row, files of the table, pictures of the chart. And whether everybody can use it."""

import csv
import json
from importlib.resources import files
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from quantspace import estimate
from quantspace.share.snippets import snippets
from tests.browser.test_flow import LOAD_MS, ROWS, load
from tests.chromium import ARTIFACTS

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("app")]

GEMMA = "google/gemma-3-4b-it"


@pytest.fixture
def opened(page: Page, offline_app) -> Page:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{offline_app}/?model={GEMMA}&gpu=l4&context=4096")
    expect(page.locator(".qs-fit .qs-model")).to_have_text(GEMMA, timeout=LOAD_MS)
    return page


def open_code(page: Page, row: str):
    page.locator(f"[data-row='{row}'] > .qs-why > summary").click()
    page.locator(f"[data-row='{row}'] .qs-code > summary").click()
    code = page.locator(f"[data-row='{row}'] .qs-code")
    expect(code.locator(".qs-snippet").first).to_be_visible(timeout=LOAD_MS)
    return code


class TestCode:
    def test_every_snippet_that_is_copied_is_the_builders_own(self, opened):
        answer = estimate(GEMMA, "l4", context=4096)
        code = open_code(opened, "nf4-dq")
        expected = snippets(answer, answer.row("nf4-dq"))
        assert len(expected) > 1
        for one in expected:
            code.get_by_role("button", name=f"Copy the code for {one.title}").click()
            expect(opened.locator("[role=status]", has_text=f"Copied: {one.title}")).to_have_count(1)
            assert opened.evaluate("navigator.clipboard.readText()") == one.code

    def test_it_comes_when_it_is_asked_for(self, opened):
        assert "from_pretrained" not in opened.content()
        open_code(opened, "bf16")
        assert "from_pretrained" in opened.content()

    def test_a_row_has_a_link_of_its_own(self, opened):
        open_code(opened, "int8").get_by_role("button", name="Copy link to this row").click()
        expect(opened.locator("[role=status]", has_text="Link to this row copied.")).to_have_count(1)
        opened.goto(opened.evaluate("navigator.clipboard.readText()"))
        expect(opened.locator(".qs-asked")).to_have_attribute("data-row", "int8", timeout=LOAD_MS)

    def test_without_a_clipboard_it_is_copied_by_selection(self, opened):
        opened.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed')); }")
        opened.get_by_role("button", name="Copy link").click()
        expect(opened.locator("[role=status]", has_text="Link copied.")).to_have_count(1)
        assert opened.evaluate("navigator.clipboard.readText()") == opened.url


class TestFiles:
    def keep(self, page: Page, label: str) -> tuple[str, bytes]:
        page.locator(".qs-keep > summary").click()
        with page.expect_download(timeout=LOAD_MS) as download:
            page.get_by_role("button", name=label).click()
        expect(page.locator(".qs-keep")).not_to_have_attribute("open", "")
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    def test_the_table_is_kept_as_it_is_shown(self, opened):
        answer = estimate(GEMMA, "l4", context=4096)
        name, content = self.keep(opened, "Table as CSV")
        assert name == "gemma-3-4b-it-on-l4-4096-tokens.csv"
        rows = list(csv.DictReader(content.decode().splitlines()))
        assert [int(row["total_bytes"]) for row in rows] == [row.total_bytes for row in answer.rows]
        name, content = self.keep(opened, "Table as JSON")
        assert name.endswith(".json") and json.loads(content)["recommended"] == answer.recommended
        name, content = self.keep(opened, "Table as Markdown")
        assert name.endswith(".md") and content.decode().startswith("**google/gemma-3-4b-it** on NVIDIA L4")

    def test_the_chart_is_kept_as_a_picture(self, opened):
        name, content = self.keep(opened, "Chart as PNG")
        assert name.endswith(".png")
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert [int.from_bytes(content[at : at + 4]) for at in (16, 20)] == [1200, 630]
        name, content = self.keep(opened, "Chart as SVG")
        assert name.endswith(".svg") and GEMMA in content.decode()

    def test_keys_alone_open_and_close_the_menu(self, opened):
        menu = opened.locator(".qs-keep > summary")
        menu.focus()
        opened.keyboard.press("Enter")
        expect(opened.get_by_role("button", name="Table as CSV")).to_be_visible()
        opened.keyboard.press("Escape")
        expect(opened.get_by_role("button", name="Table as CSV")).to_be_hidden()
        expect(menu).to_be_focused()


AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
# A colour is judged once it is there, not on its way; what goes round for ever can't be brought to an end.
_AT_REST = "() => document.getAnimations().forEach((one) => { try { one.finish(); } catch {} })"
_WORST = """async () => (await axe.run()).violations
  .filter(({impact}) => impact === 'serious' || impact === 'critical')
  .map(({id, nodes}) => [id, nodes.map(({target}) => target.join(' '))])"""


def finds_nothing_bad(page: Page) -> None:
    page.evaluate(AXE)
    page.evaluate(_AT_REST)
    assert page.evaluate(_WORST) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
class TestAccessibility:
    @pytest.fixture
    def shown(self, browser, offline_app, scheme):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.goto(f"{offline_app}/?model={GEMMA}&__theme={scheme}")
        expect(page.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
        yield page
        context.close()

    def test_before_an_estimate(self, browser, offline_app, scheme):
        page = browser.new_context(color_scheme=scheme).new_page()
        page.goto(f"{offline_app}/?model=nobody/nothing-is-here&__theme={scheme}")
        expect(page.locator("#complaint .qs-error")).to_be_visible(timeout=LOAD_MS)
        finds_nothing_bad(page)
        page.context.close()

    def test_after_an_estimate_with_everything_open(self, shown):
        shown.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        expect(shown.locator(".qs-code[data-state=shown]").last).to_be_visible(timeout=LOAD_MS)
        expect(shown.locator(".qs-code[data-state=asked]")).to_have_count(0, timeout=LOAD_MS)
        finds_nothing_bad(shown)

    def test_with_suggestions_and_sections_open(self, shown):
        shown.locator("#access button").first.click()
        shown.locator("#chat-settings button").first.click()
        shown.locator("#model input").click()
        expect(shown.locator("#model-suggestions [role=option]").first).to_be_visible(timeout=LOAD_MS)
        finds_nothing_bad(shown)

    def test_the_other_tabs(self, shown):
        for name, place in (("Fine-tune", "#finetune-answer"), ("What fits?", "#ranking")):
            shown.get_by_role("tab", name=name).click()
            expect(shown.locator(f"{place} .qs-headline")).to_be_visible(timeout=LOAD_MS)
            finds_nothing_bad(shown)

    def test_a_stale_table_after_an_error(self, shown):
        shown.locator("#model input").fill("nobody/nothing-is-here")
        shown.locator("#model input").press("Enter")
        expect(shown.locator("#complaint .qs-error")).to_be_visible(timeout=LOAD_MS)
        finds_nothing_bad(shown)

    def test_a_loaded_model(self, shown, scheme):
        shown.locator("#model-chips button").first.click()
        expect(shown.locator(".qs-fit .qs-model")).to_have_text("quantspace/demo", timeout=LOAD_MS)
        load(shown, "nf4-dq")
        finds_nothing_bad(shown)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_row_of_buttons_and_the_code_fit_the_window(browser, offline_app, width, scheme):
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    page.goto(f"{offline_app}/?model={GEMMA}&__theme={scheme}")
    expect(page.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
    open_code(page, "nf4-dq")
    page.locator(".qs-keep > summary").click()
    box = page.locator(".qs-keep > div").bounding_box()
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"share-{width}-{scheme}.png", full_page=True)
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.context.close()
