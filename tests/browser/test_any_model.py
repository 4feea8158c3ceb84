"""Naming a model: suggestions while typing, recent ones, links, and models that not everybody may see."""

import json
import os
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Error, Page, Request, expect

from quantspace.hub.demo import demo_folder
from tests.browser.test_flow import LOAD_MS, ROWS, choose, load
from tests.hub import LocalHub

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("app")]

TOKEN = "hf_" + "pageToken" * 4
FOREIGN = "hf_" + "otherToken" * 4  # of an account that was not let in
OPTIONS = "#model-suggestions [role=option]"


@pytest.fixture(scope="module")
def repos(hub: LocalHub) -> LocalHub:
    """Open models, one that is gated and not counted by the Hub, and a private one."""
    text = {"pipeline_tag": "text-generation"}
    hub.add_repo("typed/small", folder=demo_folder(), downloads=7, **text)
    hub.add_repo("typed/small-and-popular", folder=demo_folder(), downloads=1_234_567, **text)
    hub.add_repo("typed/other", folder=demo_folder(), downloads=5, gated="auto", **text)
    hub.add_repo("typed/gated", folder=demo_folder(), gated="manual", safetensors=None)
    hub.add_repo("typed/private", folder=demo_folder(), private=True)
    hub.add_account(TOKEN, "reader", accepted={"typed/gated"}, orgs=("typed",))
    hub.add_account(FOREIGN, "stranger")
    return hub


@pytest.fixture
def opened(page: Page, online_app: str, repos: LocalHub) -> Page:
    page.goto(online_app)
    expect(page.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
    return page


# From inside the page: a busy machine's driver may take longer from key to key than the field waits.
_TYPE_FAST = """(text) => {
  const field = document.querySelector('#model input');
  for (let end = 1; end <= text.length; end++) {
    field.value = text.slice(0, end);
    field.dispatchEvent(new Event('input', {bubbles: true}));
  }
}"""


def type_in(page: Page, text: str) -> None:
    page.locator("#model input").fill("")
    page.locator("#model input").press_sequentially(text, delay=40)


def expect_estimated(page: Page, model: str) -> None:
    expect(page.locator(".qs-fit .qs-model")).to_have_text(model, timeout=LOAD_MS)


def expect_refused(page: Page, code: str) -> None:
    expect(page.locator(f"#complaint .qs-error[data-code={code}]")).to_be_visible(timeout=LOAD_MS)


def give_token(page: Page, token: str) -> None:
    page.locator("#complaint [data-opens=access]").click()
    field = page.locator("#token input")
    expect(field).to_be_focused(timeout=LOAD_MS)
    page.wait_for_timeout(300)  # nobody pastes within the moment in which the section opens
    field.fill(token)
    expect(field).to_have_value(token)
    field.press("Enter")


class TestSuggestions:
    def test_they_come_while_one_types_with_one_question_to_the_hub(self, opened, repos):
        asked = len(repos.requests.of("search"))
        opened.locator("#model input").focus()
        opened.evaluate(_TYPE_FAST, "typed/sma")
        expect(opened.locator(OPTIONS)).to_have_count(2, timeout=LOAD_MS)
        expect(opened.locator(OPTIONS).first).to_have_text(
            "typed/small-and-popular 1,234,567 downloads · text-generation"
        )
        opened.wait_for_timeout(600)
        assert len(repos.requests.of("search")) - asked == 1

    def test_bundled_ones_are_there_at_once_and_gated_ones_say_so(self, opened):
        type_in(opened, "gemma-3-4b")
        expect(opened.locator(OPTIONS).first).to_have_text(
            "google/gemma-3-4b-it known without the Hub", timeout=LOAD_MS
        )
        type_in(opened, "typed/oth")
        expect(opened.locator(OPTIONS).first).to_contain_text("gated", timeout=LOAD_MS)

    def test_keys_alone_choose_one(self, opened):
        field = opened.locator("#model input")
        type_in(opened, "typed/small")
        expect(opened.locator(OPTIONS)).to_have_count(2, timeout=LOAD_MS)
        expect(field).to_have_attribute("aria-expanded", "true")
        field.press("ArrowDown")
        chosen = opened.locator(f"#{field.get_attribute('aria-activedescendant')}")
        expect(chosen).to_have_attribute("aria-selected", "true")
        expect(chosen).to_contain_text("small-and-popular")
        field.press("ArrowUp")
        expect(opened.locator(OPTIONS).last).to_have_attribute("aria-selected", "true")
        field.press("ArrowDown")
        field.press("Enter")
        expect(field).to_have_value("typed/small-and-popular")
        expect(opened.locator("#model-suggestions")).to_be_hidden()
        expect_estimated(opened, "typed/small-and-popular")

    def test_a_click_chooses_one(self, opened):
        type_in(opened, "typed/small")
        opened.locator(OPTIONS, has_text="small-and-popular").click()
        expect_estimated(opened, "typed/small-and-popular")

    def test_what_was_typed_is_what_is_asked(self, opened):
        type_in(opened, "typed/small")
        expect(opened.locator(OPTIONS).first).to_contain_text("small-and-popular", timeout=LOAD_MS)
        opened.locator("#model input").press("Enter")
        expect_estimated(opened, "typed/small")

    def test_escape_closes_them_and_keeps_what_was_typed(self, opened):
        type_in(opened, "typed/small")
        expect(opened.locator(OPTIONS)).to_have_count(2, timeout=LOAD_MS)
        opened.locator("#model input").press("Escape")
        expect(opened.locator("#model-suggestions")).to_be_hidden()
        expect(opened.locator("#model input")).to_have_value("typed/small")

    def test_an_answer_that_comes_late_is_not_shown(self, opened, repos):
        repos.fail(on="search", times=1, delay=1.5)
        type_in(opened, "typed/sma")
        opened.wait_for_timeout(400)  # the slow question is under way
        type_in(opened, "typed/oth")
        expect(opened.locator(OPTIONS)).to_have_count(1, timeout=LOAD_MS)
        opened.wait_for_timeout(1800)
        repos.faults.clear()
        expect(opened.locator(OPTIONS)).to_have_text(["typed/other 5 downloads · text-generation · gated"])

    def test_without_a_network_bundled_ones_are_suggested_silently(self, page, offline_app):
        page.goto(offline_app)
        expect(page.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
        type_in(page, "llama-3.1-8b")
        expect(page.locator(OPTIONS).first).to_contain_text("meta-llama/Llama-3.1-8B", timeout=LOAD_MS)
        page.wait_for_timeout(600)
        expect(page.locator(".qs-error")).to_have_count(0)

    def test_recent_ones_come_first_and_stay_in_this_session(self, opened, online_app, browser):
        for model in ("typed/small", "typed/small-and-popular"):
            choose(opened, model)
            expect_estimated(opened, model)
        choose(opened, "typed/nothing-there")
        expect_refused(opened, "model_not_found")
        opened.goto(online_app)  # a reload would ask for the missing one again: it is in the address
        expect(opened.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
        opened.locator("#model input").click()
        recent = opened.locator(OPTIONS, has_text="recent")
        expect(recent.nth(1)).to_contain_text("typed/small-and-popular", timeout=LOAD_MS)  # after the page's own first
        expect(recent.nth(2)).to_contain_text("typed/small")
        expect(opened.locator(OPTIONS, has_text="nothing-there")).to_have_count(0)

        stranger = browser.new_context().new_page()
        stranger.goto(online_app)
        expect(stranger.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
        stranger.locator("#model input").click()
        expect(stranger.locator(OPTIONS).first).to_be_visible(timeout=LOAD_MS)
        expect(stranger.locator(OPTIONS, has_text="typed/")).to_have_count(0)
        stranger.context.close()


def test_a_pasted_link_is_understood_when_the_field_is_left(opened, repos):
    opened.locator("#model input").fill(f"  {repos.url}/typed/small/tree/main  ")
    opened.locator("#model input").press("Tab")
    expect_estimated(opened, "typed/small")


def test_who_asks_again_does_not_wait_for_the_first_answer(opened, repos):
    repos.add_repo("typed/slow", folder=demo_folder())
    repos.fail("typed/slow", delay=8)
    choose(opened, "typed/slow")
    expect(opened.locator("#complaint .qs-waiting")).to_contain_text("Reading typed/slow")
    expect(opened.locator(".qs-fit .qs-model")).to_be_visible()  # the last table steps back, and stays
    choose(opened, "quantspace/demo")
    expect(opened.locator(".qs-fit .qs-model")).to_have_text("quantspace/demo", timeout=6000)
    opened.wait_for_timeout(9000)
    repos.faults.clear()
    expect(opened.locator(".qs-fit .qs-model")).to_have_text("quantspace/demo")
    expect(opened.locator("#complaint .qs-waiting")).to_have_count(0)


class TestClosedModels:
    def test_a_gated_model_is_refused_with_its_page_and_opens_to_a_token_until_it_is_forgotten(self, opened, repos):
        choose(opened, "typed/gated")
        expect(opened.locator("#complaint .qs-error")).to_contain_text("gated", timeout=LOAD_MS)
        expect(opened.locator("#complaint .qs-error a").first).to_have_attribute("href", f"{repos.url}/typed/gated")
        give_token(opened, TOKEN)
        expect_estimated(opened, "typed/gated")
        expect(opened.locator(".qs-error")).to_have_count(0)

        opened.get_by_role("button", name="Forget it").click()
        expect(opened.locator("#token input")).to_have_value("")
        expect(opened.locator("#complaint .qs-error")).to_contain_text("gated", timeout=LOAD_MS)

    def test_a_private_model_is_not_there_without_a_token(self, opened):
        choose(opened, "typed/private")
        expect_refused(opened, "model_not_found")
        give_token(opened, TOKEN)
        expect_estimated(opened, "typed/private")

    def test_an_account_that_was_not_let_in_is_told_so(self, opened):
        choose(opened, "typed/gated")
        expect(opened.locator("#complaint .qs-error")).to_contain_text("gated", timeout=LOAD_MS)
        give_token(opened, FOREIGN)
        expect_refused(opened, "terms_not_accepted")

    def test_its_fields_are_no_place_for_a_browsers_memory(self, opened):
        opened.get_by_role("button", name="Gated or private model?").click()
        field = opened.locator("#token input")
        expect(field).to_have_attribute("type", "password")
        expect(field).to_have_attribute("autocomplete", "off")
        expect(opened.locator("#access")).to_contain_text("to the Hub alone, and is kept nowhere")


def test_a_token_stays_between_its_field_and_the_hub(opened, online_app, repos, tmp_path_factory):
    finished: list[Request] = []
    opened.on("requestfinished", lambda request: finished.append(request))
    asked = len(repos.requests)

    choose(opened, "typed/private")
    expect_refused(opened, "model_not_found")
    give_token(opened, TOKEN)
    expect_estimated(opened, "typed/private")
    type_in(opened, "typed/priv")
    expect(opened.locator(OPTIONS).first).to_contain_text("typed/private", timeout=LOAD_MS)
    opened.locator("#model input").press("Escape")
    choose(opened, "typed/private")
    load(opened, "nf4-dq")
    opened.get_by_role("tab", name="Fine-tune").click()
    expect(opened.locator("#finetune-answer")).to_contain_text("parameters are trained", timeout=LOAD_MS)
    session = next(hash for hash in map(_session, finished) if hash)
    httpx.get(f"{online_app}/gradio_api/deep_link", params={"session_hash": session})  # writes the session down

    heard = repos.requests[asked:]
    assert any(TOKEN in request.headers.get("authorization", "") for request in heard if request.origin == "hub")
    assert not any(TOKEN in str(request.headers) for request in heard if request.origin != "hub")
    assert not any(TOKEN in request.url for request in heard)

    assert not any(TOKEN in request.url for request in finished)
    assert sum(TOKEN in body for body in map(_body, finished)) == 0
    assert TOKEN not in opened.content()
    assert TOKEN not in json.dumps(opened.context.storage_state(indexed_db=True))
    assert TOKEN not in opened.evaluate("JSON.stringify({...sessionStorage})")
    logs = list(tmp_path_factory.getbasetemp().glob("app*/*.log"))
    assert logs
    kept = [Path(os.environ["HF_HOME"]), Path(os.environ["GRADIO_TEMP_DIR"])]
    written = logs + [file for folder in kept for file in folder.rglob("*") if file.is_file()]
    assert [file for file in written if TOKEN.encode() in file.read_bytes()] == []


def _session(request: Request) -> str:
    found = request.post_data_json if "queue/join" in request.url else None
    return found.get("session_hash", "") if isinstance(found, dict) else ""


def _body(request: Request) -> str:
    """What came back; nothing where the browser keeps no body (a redirect)."""
    try:
        return (request.response().body()).decode(errors="replace")
    except Error:
        return ""
