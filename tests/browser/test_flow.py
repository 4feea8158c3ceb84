"""The whole way in a real browser, with no network: estimate, load, read, chat, stop, load another."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.chromium import ARTIFACTS

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("app")]

LOAD_MS = 60_000
DEMO = "quantspace/demo"
ROWS = ".qs-fit > .qs-rows > .qs-row"  # those on top, without the other formats


@pytest.fixture
def opened(page: Page, offline_app) -> Page:
    page.goto(offline_app)
    expect(page.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
    return page


def choose(page: Page, model: str) -> None:
    box = page.locator("#model input")
    box.fill(model)
    box.press("Enter")


def load(page: Page, precision: str) -> None:
    page.click(f"#fit-table button[data-precision='{precision}']")
    expect(page.locator(f".qs-readout[data-precision='{precision}']")).to_be_visible(timeout=LOAD_MS)


def ask(page: Page, text: str) -> None:
    page.locator("#message textarea").fill(text)
    page.locator("#message textarea").press("Enter")


def last_answer(page: Page):
    return page.locator("#chatbot .message.bot").last


def test_the_page_opens_with_the_demo_and_says_what_it_is(opened):
    expect(opened.locator(".qs-fit .qs-model")).to_have_text(DEMO)
    expect(opened.locator(".qs-offline")).to_contain_text("small")
    expect(opened.locator(".qs-offline")).to_contain_text("one subject")


def test_from_estimate_to_chat_and_on_to_another_precision(opened):
    load(opened, "nf4-dq")
    expect(opened.locator(".qs-off")).to_have_text(["0 B off", "0 B off"])
    expect(opened.locator(".qs-layers")).to_contain_text("uint8 (nf4)")
    expect(opened.locator(".qs-layers")).to_contain_text("bfloat16")

    ask(opened, "What is NF4?")
    expect(last_answer(opened)).to_contain_text("tokens/s", timeout=LOAD_MS)
    expect(last_answer(opened)).to_contain_text("4-bit")
    measured = re.compile(r"\d+ tokens · [\d.]+ tokens/s · first token after [\d.]+ s")
    expect(last_answer(opened)).to_contain_text(measured)

    expect(opened.locator("#message textarea")).to_be_focused()

    load(opened, "bf16")
    expect(opened.locator(".qs-off")).to_have_text(["0 B off", "0 B off"])
    expect(opened.locator(".qs-layers")).not_to_contain_text("uint8")
    expect(opened.locator("#chatbot .message.user")).to_have_count(1)  # the conversation is still there

    ask(opened, "What is quantization?")
    expect(opened.locator("#chatbot .message.bot")).to_have_count(2, timeout=LOAD_MS)
    expect(last_answer(opened)).to_contain_text("first token after", timeout=LOAD_MS)


# From inside the page: the answer may be over before a driver has seen its beginning.
_STOP_ONCE_IT_STREAMS = """(before) => new Promise((done) => {
  const waiting = setInterval(() => {
    const answers = document.querySelectorAll('#chatbot .message.bot');
    if (answers.length === before || ![...answers].at(-1).innerText.includes('tokens')) return;
    clearInterval(waiting);
    document.querySelector('button#stop, #stop button')?.click();
    done();
  }, 20);
})"""


def test_stop_ends_a_long_answer(opened):
    load(opened, "fp32")
    opened.locator("#chat-settings").click()
    opened.locator("#max-new input[type=number]").fill("2000")
    opened.get_by_label("Greedy").uncheck()
    # As random as can be: an answer that seldom ends by itself at once.
    opened.locator("#temperature input[type=number]").fill("2")
    opened.locator("#top-p input[type=number]").fill("1")
    for asked in range(10):
        ask(opened, "Explain everything that takes memory, step by step.")
        opened.evaluate(_STOP_ONCE_IT_STREAMS, asked)
        expect(opened.locator("#send")).to_be_visible()  # all is quiet again
        words = last_answer(opened).inner_text()
        if "stopped" in words:  # and not over by itself before
            break
    assert "stopped" in words
    opened.wait_for_timeout(1000)
    assert last_answer(opened).inner_text() == words

    ask(opened, "What is NF4?")
    expect(opened.locator("#chatbot .message.bot")).to_have_count(asked + 2)


# From inside the page: a load of the demo may be over before a driver has seen it begin.
_CANCEL_ONCE_IT_LOADS = """() => new Promise((done) => {
  const waiting = setInterval(() => {
    const cancel = document.querySelector('button#cancel, #cancel button');
    const loaded = document.querySelector('.qs-readout');
    if (!loaded && !cancel?.offsetParent) return;
    clearInterval(waiting);
    cancel?.click();
    done();
  }, 5);
})"""


def test_a_cancelled_load_stays_so_though_word_of_it_comes_late(opened):
    opened.route("**/cancel", lambda route: route.abort())  # Gradio's own way to stop an event may come late
    for _ in range(10):
        opened.locator("#fit-table button[data-precision='int8']").evaluate(
            "button => setTimeout(() => button.click(), 100)"
        )
        opened.evaluate(_CANCEL_ONCE_IT_LOADS)
        expect(opened.locator("#load-progress .qs-progress")).to_have_count(0)
        opened.wait_for_timeout(2000)
        expect(opened.locator("#load-progress .qs-progress")).to_have_count(0)
        expect(opened.locator("#cancel")).to_be_hidden()
        if opened.locator(".qs-readout").count() == 0:
            break
        opened.reload()  # the model was there before the word of it: once more
        expect(opened.locator(ROWS)).to_have_count(7)
    expect(opened.locator(".qs-readout")).to_have_count(0)
    load(opened, "bf16")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("   ", "No model was named"),
        ("../../etc/passwd", "not a model id"),
        ("https://example.com/some/model", "not a page of the Hugging Face Hub"),
        ("a" * 10_000, "10,000 characters"),
        ("nobody/nothing-is-here", "can't be reached"),
        ("<img src=x onerror=alert(1)>", "not a model id"),
    ],
    ids=["blank", "path", "elsewhere", "long", "missing", "markup"],
)
def test_a_bad_model_id_gets_a_sentence_and_the_page_goes_on(opened, model, words):
    choose(opened, model)
    expect(opened.locator("#complaint .qs-error")).to_contain_text(words)
    expect(opened.locator(ROWS)).to_have_count(7)  # the last table is still there

    choose(opened, "https://huggingface.co/google/gemma-3-4b-it")
    expect(opened.locator(".qs-fit .qs-model")).to_have_text("google/gemma-3-4b-it", timeout=LOAD_MS)
    expect(opened.locator("#complaint .qs-error")).to_have_count(0)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("#context input", "-1", "Context is -1"),
        ("#context input", "0", "Context is 0"),
        ("#context input", "1000000000", "1,000,000,000"),
        ("#context input", "", "Context is missing"),
        ("#context input", "many", "not a number"),
        ("#batch input", "2.5", "not a whole number"),
        ("#batch input", "0", "Batch is 0"),
        ("#gpu input", "voodoo2", "voodoo2"),
    ],
)
def test_a_bad_number_or_gpu_gets_a_sentence(opened, field, value, words):
    box = opened.locator(field)
    box.fill(value)
    box.press("Enter")
    expect(opened.locator("#complaint .qs-error")).to_contain_text(words)
    expect(opened.locator(ROWS)).to_have_count(7)


def test_a_context_may_be_spelled_as_people_say_it(opened):
    opened.locator("#context input").fill("")
    opened.locator("#context input").press_sequentially("32k")
    opened.locator("#context input").press("Tab")
    expect(opened.locator(".qs-fit")).to_contain_text("32,768 tokens × 1")


def test_when_nothing_fits_the_page_says_how_far_one_could_go(page, offline_app):
    page.goto(f"{offline_app}/?model=meta-llama/Llama-3.1-8B-Instruct&gpu=rtx-3060-12gb&context=32768")
    expect(page.locator(".qs-headline")).to_contain_text("Nothing fits at 32,768", timeout=LOAD_MS)
    expect(page.locator(".qs-headline")).to_contain_text("NF4 + double quant fits up to")


def test_stop_before_the_first_word_ends_the_turn(opened):
    load(opened, "bf16")
    ask(opened, "Explain everything that takes memory, step by step. " * 100)
    opened.click("#stop button, button#stop")
    expect(opened.locator("#chat-status .qs-progress")).to_have_count(0)
    expect(last_answer(opened)).to_be_visible(timeout=15_000)
    expect(opened.locator("#message textarea")).to_be_editable()


def test_a_gated_model_is_estimated_and_its_fp32_row_says_why_not(opened):
    opened.click("button[data-model='google/gemma-3-4b-it']")
    row = opened.locator("[data-row='fp32']")
    expect(row).to_contain_text("Offload", timeout=LOAD_MS)
    expect(row).to_contain_text("17.20 GB")
    row.locator(".qs-why > summary").click()
    expect(row).to_contain_text("17,200,352,708 B")
    expect(row).to_contain_text("Where layers would go")
    opened.locator("#ram input").fill("0")
    opened.locator("#ram input").press("Enter")
    expect(row).to_contain_text("Does not fit")


def test_loading_what_cannot_be_fetched_says_so(opened):
    opened.click("button[data-model='openai-community/gpt2']")
    expect(opened.locator(".qs-fit .qs-model")).to_have_text("openai-community/gpt2", timeout=LOAD_MS)
    opened.click("#fit-table button[data-precision='bf16']")
    expect(opened.locator("#load-progress .qs-error")).to_contain_text("can't be reached", timeout=LOAD_MS)
    opened.click(f"button[data-model='{DEMO}']")
    expect(opened.locator(".qs-fit .qs-model")).to_have_text(DEMO, timeout=LOAD_MS)
    load(opened, "int8")


def test_a_link_fills_the_form(page, offline_app):
    page.goto(f"{offline_app}/?model=google/gemma-3-4b-it&gpu=l4&context=4096&batch=2&colour=red")
    expect(page.locator(".qs-fit")).to_contain_text("NVIDIA L4", timeout=LOAD_MS)
    expect(page.locator(".qs-fit")).to_contain_text("4,096 tokens × 2")
    expect(page.locator("#link-note")).to_contain_text("colour")


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1440, "dark")])
def test_the_page_fits_its_window(browser, offline_app, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{offline_app}/?model=google/gemma-3-4b-it&__theme={scheme}")
    expect(page.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"window-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    choose(page, DEMO)
    expect(page.locator(".qs-fit .qs-model")).to_have_text(DEMO, timeout=LOAD_MS)
    load(page, "nf4-dq")
    page.screenshot(path=ARTIFACTS / f"window-{width}-{scheme}-loaded.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
