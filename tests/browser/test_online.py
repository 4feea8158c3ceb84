"""The page with a Hub to talk to: fetch a model that is not bundled, watch it come, change one's mind."""

import shutil

import pytest
from playwright.sync_api import expect

from quantspace.hub.demo import demo_folder
from tests.browser.test_flow import LOAD_MS, ROWS, ask, choose, last_answer, load

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("app")]


@pytest.fixture(scope="module")
def repos(hub, tiny_checkpoint, tmp_path_factory):
    """A chat model, one without a chat template, one that takes its time, one that is gated."""
    plain = tmp_path_factory.mktemp("plain") / "model"
    shutil.copytree(demo_folder(), plain, ignore=shutil.ignore_patterns("chat_template*", "README.md"))
    hub.add_repo("browser/chat", folder=demo_folder())
    hub.add_repo("browser/no-template", folder=plain)
    hub.add_repo("browser/slow", folder=demo_folder())
    hub.add_repo("browser/gated", folder=demo_folder(), gated="manual")
    return hub


@pytest.fixture
def opened(page, online_app, repos):
    page.goto(online_app)
    expect(page.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
    return page


def estimate(page, model):
    choose(page, model)
    expect(page.locator(".qs-fit .qs-model")).to_have_text(model, timeout=LOAD_MS)


def test_with_a_network_real_small_models_come_first(opened):
    assert opened.locator("#model-chips button").first.get_attribute("data-model") == "Qwen/Qwen3-0.6B"
    expect(opened.locator(".qs-fit .qs-model")).to_have_text("Qwen/Qwen3-0.6B")


def test_a_model_from_the_hub_is_fetched_loaded_and_answers(opened):
    estimate(opened, "browser/chat")
    load(opened, "nf4-dq")
    expect(opened.locator(".qs-off")).to_have_text(["0 B off", "0 B off"])
    expect(opened.locator(".qs-readout")).to_contain_text("commit")
    ask(opened, "What is NF4?")
    expect(last_answer(opened)).to_contain_text("tokens/s", timeout=LOAD_MS)


def test_a_model_without_chat_template_completes_text_and_the_page_says_so(opened):
    estimate(opened, "browser/no-template")
    load(opened, "bf16")
    expect(opened.locator(".qs-readout")).to_contain_text("no chat template")
    expect(opened.locator("#message textarea")).to_have_attribute(
        "placeholder", "Type a beginning: the model continues it"
    )
    ask(opened, "The KV cache")
    expect(last_answer(opened)).to_contain_text("first token after", timeout=LOAD_MS)


def test_a_download_shows_bytes_and_can_be_cancelled(opened, repos):
    rule = repos.fail("browser/slow", file="model.safetensors", on="cdn", bytes_per_second=1_500_000)
    estimate(opened, "browser/slow")
    opened.click("#fit-table button[data-precision='nf4']")
    expect(opened.locator("#load-progress")).to_contain_text("Downloading", timeout=LOAD_MS)
    expect(opened.locator("#load-progress")).to_contain_text("of 7.0", timeout=LOAD_MS)
    opened.click("button#cancel, #cancel button")
    expect(opened.locator("#load-progress .qs-progress")).to_have_count(0)
    expect(opened.locator(".qs-readout")).to_have_count(0)

    repos.faults.clear()
    assert rule.hits >= 1
    load(opened, "nf4")


def test_a_gated_model_is_estimated_from_the_hubs_counts_and_says_what_opens_it(opened, repos):
    estimate(opened, "browser/gated")
    expect(opened.locator(".qs-source")).to_have_attribute("data-source", "counts")
    expect(opened.locator(".qs-source")).to_contain_text("Estimated weights, from the Hub's counts")
    note = opened.locator(".qs-note", has_text="is gated")
    expect(note.locator("a").first).to_have_attribute("href", f"{repos.url}/browser/gated")
    expect(opened.locator("#fit-table button[data-precision]")).to_have_count(0)  # nothing that could be loaded
    opened.locator(".qs-source [data-opens=access]").click()
    expect(opened.locator("#token input")).to_be_focused(timeout=LOAD_MS)


def test_a_missing_repository_says_so_and_the_next_one_works(opened):
    choose(opened, "browser/no-such-model")
    expect(opened.locator("#complaint .qs-error")).to_contain_text("There is no public model", timeout=LOAD_MS)
    estimate(opened, "browser/chat")
