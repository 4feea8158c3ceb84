"""The chat in a real browser: what is asked can be edited, taken back, cut, completed, shown a picture, and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_flow import DEMO, LOAD_MS, ROWS, ask, choose, last_answer, load
from tests.tiny_models import save_tiny
from tests.vision import VOCABULARY, picture, save_vision
from tests.words import save_word_tokenizer

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("app")]

SEES, TELLS = "tests/sees", "tests/tells"
DONE = "first token after"


@pytest.fixture
def chatting(page: Page, offline_app) -> Page:
    """A page with the demo model in memory."""
    page.goto(offline_app)
    expect(page.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
    load(page, "bf16")
    return page


def questions(page: Page):
    return page.locator("#chatbot .message.user")


def answers(page: Page):
    return page.locator("#chatbot .message.bot")


def answered(page: Page, text: str, count: int) -> None:
    """Ask, and wait until the answer is whole."""
    ask(page, text)
    expect(answers(page)).to_have_count(count, timeout=LOAD_MS)
    expect(last_answer(page)).to_contain_text(DONE, timeout=LOAD_MS)
    expect(page.locator("#send")).to_be_visible(timeout=LOAD_MS)


def test_an_edited_question_is_answered_anew(chatting):
    answered(chatting, "What is NF4?", 1)
    answered(chatting, "What is quantization?", 2)
    chatting.locator("#chatbot button[aria-label='Edit']").first.click()
    chatting.locator("#chatbot textarea").last.fill("What is double quantization?")
    chatting.locator("#chatbot button[aria-label='Submit']").click()
    expect(questions(chatting)).to_have_text(["What is double quantization?"])
    expect(answers(chatting)).to_have_count(1)
    expect(last_answer(chatting)).to_contain_text("scales", timeout=LOAD_MS)
    expect(last_answer(chatting)).to_contain_text(DONE, timeout=LOAD_MS)


MARKUP = "What is **NF4** & <b>why</b>?\n\n# no head $$x^2$$\n    <img src=x>\n- &lt;"


def test_a_question_is_shown_copied_edited_and_exported_as_it_was_typed(chatting):
    chatting.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chatting.locator("#message textarea").fill(MARKUP)
    chatting.click("#send")
    expect(last_answer(chatting)).to_contain_text(DONE, timeout=LOAD_MS)
    expect(chatting.locator("#send")).to_be_visible(timeout=LOAD_MS)
    question = questions(chatting).locator(".md")
    assert question.evaluate("shown => shown.innerText.trim()") == MARKUP
    assert question.locator("b, strong, em, h1, li, img, .katex").count() == 0
    label = chatting.locator("#chatbot [data-testid=user]").first
    expect(label).to_have_attribute("aria-label", f"user's message: {MARKUP}")

    chatting.locator("#chatbot button[aria-label='Copy message']").first.click()
    chatting.locator("#chatbot button[aria-label='Copied message']").wait_for()
    assert chatting.evaluate("navigator.clipboard.readText()") == MARKUP

    with chatting.expect_download() as download:
        chatting.click("#export-json")
    assert json.loads(Path(download.value.path()).read_text())["messages"][0]["content"] == MARKUP

    chatting.locator("#chatbot button[aria-label='Edit']").first.click()
    box = chatting.locator("#chatbot textarea").last
    expect(box).to_have_value(MARKUP)
    box.fill(f"{MARKUP}\n<i>again</i>")
    chatting.locator("#chatbot button[aria-label='Submit']").click()
    expect(questions(chatting)).to_contain_text("<i>again</i>")
    expect(last_answer(chatting)).to_contain_text(DONE, timeout=LOAD_MS)
    expect(chatting.locator("#send")).to_be_visible(timeout=LOAD_MS)
    assert questions(chatting).locator(".md").evaluate("shown => shown.innerText.trim()") == f"{MARKUP}\n<i>again</i>"

    chatting.locator("#chatbot button[aria-label='Undo']").last.click()
    expect(chatting.locator("#message textarea")).to_have_value(f"{MARKUP}\n<i>again</i>")


def test_precisions_are_called_by_the_names_of_the_table(page, offline_app):
    page.goto(offline_app)
    expect(page.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
    load(page, "nf4-dq")
    expect(page.locator("#chatbot .placeholder")).to_contain_text("at NF4 + double quant is in memory")
    answered(page, "What is NF4?", 1)
    expect(last_answer(page)).to_contain_text("NF4 + double quant · ")
    expect(page.locator("#run")).not_to_contain_text("nf4-dq")


def test_the_next_turn_takes_over_what_was_read(chatting):
    answered(chatting, "What is NF4?", 1)
    answered(chatting, "What is quantization?", 2)
    expect(last_answer(chatting)).to_contain_text("prompt tokens reused")


def test_a_cleared_conversation_comes_back(chatting):
    answered(chatting, "What is NF4?", 1)
    chatting.click("#clear")
    expect(answers(chatting)).to_have_count(0)
    chatting.click("#undo-clear")
    expect(questions(chatting)).to_have_text(["What is NF4?"])
    expect(chatting.locator("#undo-clear")).to_be_hidden()
    answered(chatting, "What is quantization?", 2)


def test_undo_gives_the_question_back_to_the_box(chatting):
    answered(chatting, "What is NF4?", 1)
    chatting.locator("#chatbot button[aria-label='Undo']").last.click()
    expect(questions(chatting)).to_have_count(0)
    expect(chatting.locator("#message textarea")).to_have_value("What is NF4?")


def test_what_was_typed_survives_an_error(chatting):
    answered(chatting, "What is NF4?", 1)
    long = "memory " * 3000
    ask(chatting, long)
    expect(chatting.locator("#chat-status .qs-error")).to_contain_text("tokens long", timeout=LOAD_MS)
    expect(chatting.locator("#message textarea")).to_have_value(long)
    expect(questions(chatting)).to_have_count(1)
    expect(last_answer(chatting)).to_contain_text("4-bit")  # the answer before is still there
    answered(chatting, "What is quantization?", 2)
    expect(chatting.locator("#chat-status .qs-error")).to_have_count(0)


def test_an_empty_message_is_not_sent(chatting):
    ask(chatting, "   ")
    expect(chatting.locator("#chat-status .qs-error")).to_contain_text("message is empty")
    expect(questions(chatting)).to_have_count(0)


def test_copying_an_answer_copies_its_words_alone(chatting):
    chatting.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answered(chatting, "What is NF4?", 1)
    chatting.locator("#chatbot button[aria-label='Copy message']").last.click()
    chatting.locator("#chatbot button[aria-label='Copied message']").wait_for()
    copied = chatting.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("NF4 is")
    assert "tokens/s" not in copied
    assert "<" not in copied


def test_a_conversation_is_exported_with_what_each_answer_took(chatting):
    answered(chatting, "What is NF4?", 1)
    files = {}
    for kind in ("json", "markdown"):
        with chatting.expect_download() as download:
            chatting.click(f"#export-{kind}")
        files[download.value.suggested_filename] = Path(download.value.path()).read_text()
    talk = json.loads(files["demo-bf16-chat.json"])
    question, answer = talk["messages"]
    assert question == {"role": "user", "content": "What is NF4?"}
    assert (answer["model"], answer["precision"], answer["sampling"]["greedy"]) == (DEMO, "bf16", True)
    assert answer["stats"]["new_tokens"] > 0
    assert answer["stats"]["footprint_bytes"] > 0
    assert answer["content"].startswith("NF4 is")
    assert answer["content"] in files["demo-bf16-chat.md"]
    assert "footprint" in files["demo-bf16-chat.md"]


def test_nothing_said_is_nothing_to_export(chatting):
    chatting.click("#export-json")
    expect(chatting.locator("#chat-status .qs-error")).to_contain_text("nothing to export")


def test_a_long_conversation_is_cut_at_the_context_of_the_estimate_and_says_so(page, offline_app):
    page.goto(f"{offline_app}/?context=140")
    expect(page.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
    load(page, "bf16")
    expect(page.locator("#chatbot .placeholder")).to_contain_text("140 tokens")
    for turn in range(1, 4):
        answered(page, "What is double quantization?", turn)
    expect(answers(page).first.locator(".qs-cut")).to_have_count(0)
    expect(last_answer(page).locator(".qs-cut")).to_contain_text(
        "The context of 140 tokens is full: the 2 oldest messages were left out"
    )


@pytest.fixture
def online(page: Page, hub, online_app) -> Page:
    page.goto(online_app)
    expect(page.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
    return page


def loaded(page: Page, model: str, precision: str) -> None:
    choose(page, model)
    expect(page.locator(".qs-fit .qs-model")).to_have_text(model, timeout=LOAD_MS)
    load(page, precision)


@pytest.fixture(scope="module")
def seeing(hub, tmp_path_factory):
    hub.add_repo(SEES, folder=save_vision("gemma3-vision", tmp_path_factory.mktemp("hub") / "sees"))


@pytest.fixture(scope="module")
def telling(hub, tmp_path_factory):
    folder = save_tiny("gpt2-conv1d", tmp_path_factory.mktemp("hub") / "tells")
    save_word_tokenizer(folder, VOCABULARY)
    (folder / "chat_template.jinja").unlink()
    hub.add_repo(TELLS, folder=folder)


def test_a_picture_is_attached_shown_and_read(seeing, online, tmp_path):
    loaded(online, SEES, "bf16")
    red = picture(tmp_path / "red.png")
    online.locator("#message input[type=file]").set_input_files(red)
    expect(online.locator("#message .thumbnail-item, #message img").first).to_be_visible()
    answered(online, "w20 w33", 1)
    expect(online.locator("#chatbot .message.user img")).to_be_visible()
    with online.expect_download() as download:
        online.click("#export-json")
    said = json.loads(Path(download.value.path()).read_text())["messages"][0]
    assert (said["content"], said["images"]) == ("w20 w33", ["red.png"])

    answered(online, "w40", 2)  # the picture is still part of it
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    online.locator("#message input[type=file]").set_input_files(tmp_path / "broken.png")
    ask(online, "w21")
    expect(online.locator("#chat-status .qs-error")).to_contain_text("broken.png can't be read", timeout=LOAD_MS)
    expect(online.locator("#message textarea")).to_have_value("w21")


def test_a_model_of_text_takes_no_pictures(chatting):
    expect(chatting.locator("#message textarea")).to_be_editable()
    expect(chatting.locator("#message input[type=file]")).to_have_count(0)


def test_a_base_model_completes_and_the_page_says_so(telling, online):
    loaded(online, TELLS, "bf16")
    expect(online.locator("#chatbot .placeholder")).to_contain_text("no chat template")
    answered(online, "w20 w33 w21", 1)
    expect(last_answer(online)).to_contain_text("completion")
