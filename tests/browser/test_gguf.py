"""A GGUF file from its row to an answer, in the page."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_flow import LOAD_MS
from tests.gguf_demo import demo_gguf

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("online")]
REPO = "acme/demo-files-GGUF"


def test_a_file_is_loaded_from_its_row_and_answers(hub, online_app: str, page: Page, tmp_path):
    hub.add_repo(REPO, {"demo-Q8_0.gguf": demo_gguf(tmp_path, "Q8_0").read_bytes()})
    page.goto(f"{online_app}/?model={REPO}&context=2048")
    row = page.locator('[data-row="gguf:demo-Q8_0.gguf"]')
    expect(row).to_contain_text("Q8_0")
    row.get_by_role("button", name="Load").click()
    expect(page.locator("#readout")).to_contain_text("0 B off", timeout=LOAD_MS)
    page.locator("#message textarea").fill("What is NF4?")
    page.locator("#message textarea").press("Enter")
    expect(page.locator("#chatbot")).to_contain_text("NF4 is NormalFloat", timeout=60_000)
