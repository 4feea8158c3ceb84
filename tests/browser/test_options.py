"""The options of a load in a real browser, with no network: chosen, explained, loaded, refused and reset."""

import re

import pytest
from playwright.sync_api import Page, expect

from quantspace.estimation.builder import demo_inventory
from quantspace.estimation.weights import weight_bytes
from quantspace.precision import PRECISIONS

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("app")]

LOAD_MS = 60_000
ABOUT = "#options-about"


@pytest.fixture
def opened(page: Page, offline_app) -> Page:
    page.goto(offline_app)
    expect(page.locator(".qs-fit .qs-model")).to_be_visible(timeout=LOAD_MS)
    page.locator("#load-options > button").click()
    expect(page.locator(".qs-defaults")).to_be_visible(timeout=LOAD_MS)
    return page


def choose(page: Page, field: str, name: str) -> None:
    page.locator(f"#{field} input").click()
    page.get_by_role("option", name=name, exact=True).click()


def write(page: Page, field: str, text: str) -> None:
    page.locator(f"#{field}").locator("textarea, input").first.fill(text)


def place(page: Page, how: str) -> None:
    page.locator("#placement").get_by_label(how).check()


def load(page: Page, precision: str) -> None:
    page.click(f"#fit-table button[data-precision='{precision}']")
    expect(page.locator(f".qs-readout[data-precision='{precision}']")).to_be_visible(timeout=LOAD_MS)


def test_every_default_is_told_with_its_reason(opened):
    expect(opened.locator(".qs-defaults dt")).to_have_count(6)
    expect(opened.locator(".qs-defaults")).to_contain_text("bfloat16 by default. Float32's range in half the bytes")
    expect(opened.locator("#attention")).to_contain_text("flash_attention_2 needs a GPU")


def test_a_change_tells_the_new_bytes_and_the_load_keeps_to_it(opened):
    choose(opened, "compute-dtype", "float32")
    write(opened, "skip", "down_proj")
    row = opened.locator(f"{ABOUT} tbody tr", has=opened.get_by_text("NF4", exact=True))
    variant = PRECISIONS["nf4"].with_options("float32", skip=("down_proj",))
    promised = f"{weight_bytes(demo_inventory(), variant).held:,} B"
    expect(row.locator("td").nth(1)).to_contain_text(promised, timeout=LOAD_MS)

    load(opened, "nf4")
    expect(opened.locator(".qs-off")).to_have_text(["0 B off", "0 B off"])
    readout = opened.locator(".qs-readout")
    expect(readout).to_contain_text("Options: computes in float32 · not quantized: down_proj")
    expect(readout.locator(".qs-compare").first).to_contain_text(promised)
    expect(opened.locator(ABOUT)).to_contain_text("loaded")  # it is now the row in question

    opened.locator("#reset-options").click()
    expect(opened.locator(f"{ABOUT} tbody")).to_have_count(0, timeout=LOAD_MS)
    load(opened, "nf4")
    expect(readout).not_to_contain_text("Options:", timeout=LOAD_MS)
    expect(opened.locator(".qs-off")).to_have_text(["0 B off", "0 B off"])


def test_limits_put_layers_on_the_disk_and_the_readout_says_which(opened):
    place(opened, "Limits for each device")
    write(opened, "limits", "cpu: 5.5 MB\ndisk: 1 GB")
    expect(opened.locator(ABOUT)).to_contain_text("read again for every token", timeout=LOAD_MS)
    load(opened, "bf16")
    held = opened.locator(".qs-devices tbody tr")
    expect(held).to_have_count(2)
    expect(held.nth(0)).to_contain_text("model.layers.0–1")
    for row in held.all():
        estimated, measured = (cell.inner_text().split(" B")[0] for cell in row.locator("td").all())
        assert re.fullmatch(r"[\d,]+", measured)
        assert estimated == measured
    expect(opened.locator(".qs-off")).to_have_text(["0 B off", "0 B off"])

    opened.locator("#message textarea").fill("What is NF4?")
    opened.locator("#message textarea").press("Enter")
    expect(opened.locator("#chatbot .message.bot").last).to_contain_text("tokens/s", timeout=LOAD_MS)
    expect(opened.locator("#chatbot .message.bot").last).to_contain_text("NormalFloat", timeout=LOAD_MS)
    expect(opened.locator("#send")).to_be_visible(timeout=LOAD_MS)  # it has ended


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model.layers.9: cpu\n*: cpu", "No module of this model is named “model.layers.9”"),
        ("everything on the processor", "is no line of a device map"),
        ("*: cuda:0", "There is no cuda:0 on this machine"),
        ("", "No device was named"),
    ],
    ids=["module", "line", "device", "empty"],
)
def test_a_bad_map_gets_a_sentence_before_and_at_the_load_and_nothing_is_loaded(opened, text, words):
    place(opened, "A map by hand")
    write(opened, "device-map", text)
    expect(opened.locator(f"{ABOUT} .qs-error")).to_contain_text(words, timeout=LOAD_MS)
    opened.click("#fit-table button[data-precision='bf16']")
    expect(opened.locator("#load-progress .qs-error")).to_contain_text(words, timeout=LOAD_MS)
    expect(opened.locator(".qs-readout")).to_have_count(0)


def test_a_module_that_matches_nothing_is_told_and_mended(opened):
    load(opened, "nf4-dq")
    write(opened, "skip", "nothing_here")
    expect(opened.locator(f"{ABOUT} .qs-error")).to_contain_text("No layer of this model", timeout=LOAD_MS)
    write(opened, "skip", "q_proj, k_proj")
    expect(opened.locator(f"{ABOUT} .qs-error")).to_have_count(0, timeout=LOAD_MS)
    load(opened, "nf4-dq")
    expect(opened.locator(".qs-readout")).to_contain_text("not quantized: q_proj, k_proj", timeout=LOAD_MS)
    expect(opened.locator(".qs-off")).to_have_text(["0 B off", "0 B off"])


def test_it_fits_a_telephone(opened):
    opened.set_viewport_size({"width": 360, "height": 800})
    choose(opened, "double-quant", "off")
    expect(opened.locator(f"{ABOUT} caption")).to_be_visible(timeout=LOAD_MS)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360
