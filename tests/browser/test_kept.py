"""Keeping a quantized copy as a person does it: keep, see it listed, download it, load from it, push it, delete it."""

from __future__ import annotations

import os
import re
import tarfile

import pytest
from playwright.sync_api import Page, expect

from tests.app_server import running_app
from tests.chromium import ARTIFACTS

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("app")]

LOAD_MS = 60_000
TOKEN = "hf_pusherOfCopies"


@pytest.fixture(scope="module")
def app(hub, tmp_path_factory):
    """An app with a folder of copies of its own, whose Hub is the local one."""
    folder = tmp_path_factory.mktemp("kept")
    environment = {"QUANTSPACE_KEPT_FOLDER": str(folder / "copies")}
    with running_app(os.environ["HF_ENDPOINT"], folder / "app.log", **environment) as url:
        yield url


def load(page: Page, precision: str = "nf4-dq") -> None:
    page.click(f"#fit-table button[data-precision='{precision}']")
    expect(page.locator(f".qs-readout[data-precision='{precision}']")).to_be_visible(timeout=LOAD_MS)


def opened(page: Page, app: str) -> Page:
    page.goto(f"{app}/?model=quantspace/demo")
    expect(page.locator(".qs-fit .qs-model")).to_have_text("quantspace/demo", timeout=LOAD_MS)
    return page


def test_from_the_offer_to_a_copy_that_is_downloaded_pushed_and_deleted(page, app, hub):
    hub.add_account(TOKEN, "ada", role="write")
    opened(page, app)
    load(page)
    expect(page.locator("#kept-offer")).to_contain_text("Keep this quantized copy on disk")
    page.click("#keep-copy")
    row = page.locator("[data-kept]")
    expect(row).to_have_count(1, timeout=LOAD_MS)
    expect(row).to_contain_text("quantspace/demo")
    expect(row).to_contain_text("NF4 + double quant")
    expect(page.locator("#kept-offer")).to_contain_text("Kept on this disk")
    expect(page.locator("#keep-copy")).to_be_hidden()

    with page.expect_download() as download:
        row.get_by_role("link", name="Download").click()
    with tarfile.open(download.value.path()) as archive:
        names = archive.getnames()
    assert {name.split("/")[1] for name in names} >= {"config.json", "model.safetensors", "tokenizer.json"}

    load(page)
    expect(page.locator(".qs-off")).to_have_text(["0 B off", "0 B off"])

    row.get_by_role("button", name="Push").click()
    expect(page.locator("#push-name input, #push-name textarea")).to_have_value("demo-nf4-dq", timeout=LOAD_MS)
    page.fill("#push-token input", TOKEN)
    page.click("#push")
    expect(page.locator("#pushed")).to_contain_text("ada/demo-nf4-dq", timeout=LOAD_MS)
    expect(page.locator("#push-token input")).to_have_value("")
    pushed = hub.repos["ada/demo-nf4-dq"]
    assert pushed.private
    assert {"README.md", "model.safetensors", "tokenizer.json"} <= pushed.head.files.keys()

    page.fill("#push-token input", TOKEN)
    page.click("#push")
    expect(page.locator("#pushed .qs-error")).to_contain_text("is there already", timeout=LOAD_MS)

    page.once("dialog", lambda dialog: dialog.accept())
    row.get_by_role("button", name="Delete").click()
    expect(row).to_have_count(0, timeout=LOAD_MS)
    expect(page.locator("#kept-list")).to_contain_text("0 copies")
    expect(page.locator("#keep-copy")).to_be_visible(timeout=LOAD_MS)


def test_a_token_that_may_only_read_gets_a_sentence(page, app, hub):
    hub.add_account("hf_readerOfCopies", "grace", role="read")
    opened(page, app)
    load(page, "nf4")
    page.click("#keep-copy")
    page.locator("[data-kept]").get_by_role("button", name="Push").click()
    page.fill("#push-token input", "hf_readerOfCopies")
    page.click("#push")
    expect(page.locator("#pushed .qs-error")).to_contain_text(
        re.compile("may not create a repository of grace"), timeout=LOAD_MS
    )
    assert "grace/demo-nf4" not in hub.repos


def test_what_gains_nothing_is_not_offered(page, app):
    opened(page, app)
    load(page, "fp32")
    expect(page.locator("#keep-copy")).to_be_hidden()
    expect(page.locator(".qs-kept-offer")).to_have_count(0)


@pytest.mark.parametrize(("width", "scheme", "precision"), [(360, "dark", "int8"), (1440, "light", "fp4")])
def test_it_fits_its_window(browser, app, width, scheme, precision):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = opened(context.new_page(), app)
    load(page, precision)
    page.click("#keep-copy")
    expect(page.locator("[data-kept]").first).to_be_visible(timeout=LOAD_MS)
    page.locator("[data-action=push]").first.click()
    expect(page.locator("#push-form")).to_be_visible(timeout=LOAD_MS)
    ARTIFACTS.mkdir(exist_ok=True)
    page.locator("#kept").screenshot(path=ARTIFACTS / f"kept-{width}-{scheme}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
