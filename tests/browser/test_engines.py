"""Chat through an engine elsewhere, from the page."""

import pytest
from playwright.sync_api import Page, expect

from quantspace.hub.demo import demo_folder
from tests.app_server import NOWHERE, running_app
from tests.runtime.test_remote import served as served

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("served")]


@pytest.fixture(scope="module")
def app(served, tmp_path_factory):
    engines = f"Cluster = {served} {demo_folder()}; Gone = {NOWHERE}/v1"
    with running_app(NOWHERE, tmp_path_factory.mktemp("engines") / "app.log", QUANTSPACE_ENGINES=engines) as url:
        yield url


def test_a_chat_with_an_engine_elsewhere(app: str, page: Page):
    page.goto(app)
    page.get_by_role("button", name="Chat through another engine").click()
    expect(page.get_by_label("Model", exact=True).last).to_have_value(str(demo_folder()))
    page.get_by_role("button", name="Chat there").click()
    expect(page.locator("#readout")).to_contain_text("is served by Cluster")
    page.locator("#message textarea").fill("What is NF4?")
    page.locator("#message textarea").press("Enter")
    expect(page.locator("#chatbot")).to_contain_text("NF4 is NormalFloat", timeout=60_000)
    expect(page.locator("#chatbot")).to_contain_text("tokens/s")


def test_an_engine_that_is_gone_is_named(app: str, page: Page):
    page.goto(app)
    page.get_by_role("button", name="Chat through another engine").click()
    page.get_by_label("Engine", exact=True).click()
    page.get_by_role("option", name="Gone").click()
    expect(page.locator("#engine-note")).to_contain_text("Gone can't be reached")
