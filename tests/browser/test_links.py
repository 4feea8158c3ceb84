"""A link is the state: it fills the form, follows it, and history goes through what was asked."""

import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from quantspace import estimate
from quantspace.share.links import from_query
from quantspace.units import gb
from tests.browser.test_flow import DEMO, LOAD_MS, ROWS, choose
from tests.chromium import QUIET, chromium_path

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("app")]

GEMMA = "google/gemma-3-4b-it"
LINK = f"model={GEMMA}&gpu=l4&count=2&context=4096&batch=2&kv=float32&ram=64&images=1"
FIELDS = ("model", "context", "batch", "count", "ram", "images", "kv")
TOKEN = "hf_" + "a1B2" * 9


@pytest.fixture
def opened(page: Page, offline_app) -> Page:
    page.goto(f"{offline_app}/?model={GEMMA}&gpu=t4")
    answered(page, GEMMA)
    return page


def answered(page: Page, *words: str) -> None:
    for word in words:
        expect(page.locator(".qs-fit")).to_contain_text(word, timeout=LOAD_MS)


def address(page: Page, query: str) -> None:
    expect(page).to_have_url(f"{page.url.split('/?')[0].rstrip('/')}/?{query}", timeout=LOAD_MS)


def form(page: Page) -> dict[str, str]:
    return {name: page.locator(f"#{name} input").input_value() for name in FIELDS}


def totals(page: Page) -> list[str]:
    return page.locator(f"{ROWS} .qs-figures > b").all_inner_texts()


def settle_on(page: Page, field: str, value: str) -> None:
    page.locator(f"#{field} input").fill(value)
    page.locator(f"#{field} input").press("Enter")


def entries(page: Page) -> int:
    return page.evaluate("history.length")


def becomes(page: Page, read: Callable[[Page], object], wanted: object) -> None:
    """The page comes to read so; fields that one answer fills are drawn one after another."""
    deadline = time.monotonic() + LOAD_MS / 1000
    while read(page) != wanted and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    assert read(page) == wanted


def test_a_link_fills_the_form_and_gives_the_table_that_the_calculator_gives(page, offline_app):
    page.goto(f"{offline_app}/?{LINK}")
    answered(page, "2 × NVIDIA L4", "4,096 tokens × 2")
    expected = {"model": GEMMA, "context": "4096", "batch": "2", "count": "2", "ram": "64", "images": "1"}
    becomes(page, form, expected | {"kv": "float32"})
    state, _ = from_query(parse_qs(LINK))
    answer = estimate(**state.arguments())
    shown = {row.precision.id: gb(row.total_bytes) for row in answer.rows}
    ids = page.locator(ROWS).evaluate_all("rows => rows.map(row => row.dataset.row)")
    assert totals(page) == [shown[row_id] for row_id in ids]


def test_the_address_follows_each_control_and_a_reload_shows_the_same(opened):
    settle_on(opened, "context", "32k")
    answered(opened, "32,768 tokens × 1")
    address(opened, f"model={GEMMA}&gpu=t4&context=32768")
    settle_on(opened, "batch", "3")
    answered(opened, "32,768 tokens × 3")
    opened.locator("#gpu input").fill("A100-SXM4-80GB")
    opened.locator("#gpu input").press("Enter")
    answered(opened, "A100")
    address(opened, f"model={GEMMA}&gpu=a100-80gb&context=32768&batch=3")

    before = totals(opened), form(opened) | {"context": "32768"}
    opened.reload()
    answered(opened, "32,768 tokens × 3", "A100")
    becomes(opened, lambda page: (totals(page), form(page)), before)
    address(opened, f"model={GEMMA}&gpu=a100-80gb&context=32768&batch=3")


def test_what_is_being_typed_is_in_the_address_and_no_entry_of_the_history(opened):
    count = entries(opened)
    opened.locator("#model input").focus()
    opened.locator("#model input").fill("Qwen/Qwen3")
    address(opened, "model=Qwen/Qwen3&gpu=t4&context=8192")
    opened.locator("#model input").fill("Qwen/Qwen3-8B")
    address(opened, "model=Qwen/Qwen3-8B&gpu=t4&context=8192")
    assert entries(opened) == count
    opened.locator("#model input").press("Enter")
    answered(opened, "Qwen/Qwen3-8B")
    opened.wait_for_function("count => history.length === count + 1", arg=count)
    opened.go_back()
    answered(opened, GEMMA)  # not what was half typed
    expect(opened.locator("#model input")).to_have_value(GEMMA)


def test_back_and_forward_restore_form_and_table_and_nothing_loops(opened):
    seen = [(totals(opened), form(opened))]
    for field, value, words in (("context", "1024", "1,024 tokens × 1"), ("batch", "4", "1,024 tokens × 4")):
        settle_on(opened, field, value)
        answered(opened, words)
        seen.append((totals(opened), form(opened)))
    choose(opened, "Qwen/Qwen3-8B")
    answered(opened, "Qwen/Qwen3-8B")
    seen.append((totals(opened), form(opened)))
    address(opened, "model=Qwen/Qwen3-8B&gpu=t4&context=1024&batch=4")
    count = entries(opened)

    for way, places in (("back", (2, 1, 0)), ("forward", (1, 2, 3))):
        for place in places:
            opened.evaluate(f"history.{way}()")
            figures, values = seen[place]
            expect(opened.locator("#batch input")).to_have_value(values["batch"], timeout=LOAD_MS)
            expect(opened.locator(f"{ROWS} .qs-figures > b")).to_have_text(figures, timeout=LOAD_MS)
            becomes(opened, form, values)
    assert entries(opened) == count
    address(opened, "model=Qwen/Qwen3-8B&gpu=t4&context=1024&batch=4")


def test_going_back_fast_ends_where_it_was_gone_to(opened):
    for batch in "234":
        settle_on(opened, "batch", batch)
        answered(opened, f"tokens × {batch}")
        address(opened, f"model={GEMMA}&gpu=t4&context=8192&batch={batch}")
    count = entries(opened)
    opened.evaluate("history.back(); setTimeout(() => history.back(), 30)")
    answered(opened, "tokens × 2")
    opened.wait_for_timeout(1500)
    answered(opened, "tokens × 2")
    address(opened, f"model={GEMMA}&gpu=t4&context=8192&batch=2")
    expect(opened.locator("#batch input")).to_have_value("2")
    assert entries(opened) == count
    opened.go_forward()
    answered(opened, "tokens × 3")


def test_an_error_can_be_gone_back_from(opened):
    choose(opened, "nobody/nothing-is-here")
    expect(opened.locator("#complaint .qs-error")).to_be_visible(timeout=LOAD_MS)
    address(opened, "model=nobody/nothing-is-here&gpu=t4&context=8192")
    opened.go_back()
    expect(opened.locator("#complaint .qs-error")).to_have_count(0, timeout=LOAD_MS)
    expect(opened.locator("#model input")).to_have_value(GEMMA)


def test_a_tab_is_part_of_the_link(page, offline_app):
    page.goto(f"{offline_app}/?model={GEMMA}&tab=ranking")
    expect(page.locator(".qs-ranking tbody tr").first).to_be_visible(timeout=LOAD_MS)
    page.get_by_role("tab", name="Fine-tune").click()
    address(page, f"model={GEMMA}&gpu=t4&context=8192&tab=finetune")
    page.get_by_role("tab", name="Run").click()
    address(page, f"model={GEMMA}&gpu=t4&context=8192")
    page.go_back()
    expect(page.get_by_role("tab", name="Fine-tune")).to_have_attribute("aria-selected", "true", timeout=LOAD_MS)


def tuning(page: Page) -> list[str | bool]:
    fields = page.locator("#finetune-form input, #finetune-steps input")
    return fields.evaluate_all("all => all.map(one => one.type === 'checkbox' ? one.checked : one.value)")


def test_the_controls_of_fine_tuning_are_part_of_the_link(page, offline_app):
    page.goto(f"{offline_app}/?model={GEMMA}&tab=finetune&method=lora&base=fp16&r=64&optim=sgd&checkpointing=no")
    filled = ["LoRA: adapters", "FP16", "64", "All linear layers", "2048", "1", "sgd", False]
    expect(page.locator("#finetune-form input").nth(1)).to_have_value("FP16", timeout=LOAD_MS)
    becomes(page, tuning, filled)
    expect(page.locator("#finetune-answer")).to_contain_text("Needs", timeout=LOAD_MS)
    start, method = f"model={GEMMA}&gpu=t4&context=8192&", "method=lora&base=fp16&"
    page.locator("#finetune-form input").nth(2).fill("8")
    address(page, f"{start}{method}rank=8&optimizer=sgd&checkpointing=0&tab=finetune")
    page.locator("#finetune-steps input[type=checkbox]").check()
    address(page, f"{start}{method}rank=8&optimizer=sgd&tab=finetune")
    page.locator("#finetune-form input").first.click()
    page.get_by_role("option", name="QLoRA").click()
    address(page, f"{start}rank=8&optimizer=sgd&tab=finetune")
    expect(page.locator("#finetune-form input").nth(1)).to_have_value("NF4 + double quant", timeout=LOAD_MS)
    last = tuning(page)
    page.reload()
    expect(page.locator("#finetune-form input").nth(2)).to_have_value("8", timeout=LOAD_MS)
    becomes(page, tuning, last)

    for values in (["LoRA: adapters", "FP16", "8", *filled[3:7], True], ["LoRA: adapters", "FP16", "8", *filled[3:]]):
        page.go_back()
        expect(page.locator("#finetune-form input").first).to_have_value(values[0], timeout=LOAD_MS)
        expect(page.locator("#finetune-steps input[type=checkbox]")).to_be_checked(checked=values[-1], timeout=LOAD_MS)
        becomes(page, tuning, values)
    page.get_by_role("tab", name="Run").click()
    address(page, f"{start}{method}rank=8&optimizer=sgd&checkpointing=0")
    settle_on(page, "batch", "2")
    address(page, f"{start}batch=2&{method}rank=8&optimizer=sgd&checkpointing=0")


def test_the_builder_of_embeds_begins_with_what_is_asked(opened):
    settle_on(opened, "context", "32k")
    answered(opened, "32,768 tokens × 1")
    with opened.expect_popup() as builder:
        opened.get_by_role("link", name="Embed").click()
    expect(builder.value.locator("#context")).to_have_value("32768")
    expect(builder.value.locator("#model")).to_have_value(GEMMA)
    assert f"model={GEMMA}&amp;gpu=t4&amp;context=32768" in builder.value.locator("#frame").text_content()
    builder.value.close()


def test_a_row_is_part_of_the_link(page, offline_app):
    page.goto(f"{offline_app}/?model={GEMMA}&precision=q4_k_m")
    expect(page.locator(".qs-asked")).to_have_attribute("data-row", "q4_k_m", timeout=LOAD_MS)
    expect(page.locator(".qs-asked")).to_be_in_viewport()
    settle_on(page, "batch", "2")
    answered(page, "tokens × 2")
    address(page, f"model={GEMMA}&gpu=t4&context=8192&batch=2&precision=q4_k_m")
    choose(page, "Qwen/Qwen3-8B")
    address(page, "model=Qwen/Qwen3-8B&gpu=t4&context=8192&batch=2")


def test_an_older_link_is_understood_and_stays_as_it_was_written_until_something_changes(page, offline_app):
    old = "repo_id=google%2Fgemma-3-4b-it&gpu_count=2&ctx=4k&colour=red&__theme=dark"
    page.goto(f"{offline_app}/?{old}")
    answered(page, "2 × NVIDIA T4", "4,096 tokens × 1")
    expect(page.locator("#link-note")).to_contain_text("ignored: colour")
    address(page, old)
    settle_on(page, "batch", "2")
    address(page, f"__theme=dark&model={GEMMA}&gpu=t4&count=2&context=4096&batch=2")


def test_the_button_copies_the_link_and_says_so(opened, browser):
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    settle_on(opened, "batch", "2")
    address(opened, f"model={GEMMA}&gpu=t4&context=8192&batch=2")
    opened.get_by_role("button", name="Copy link").click()
    expect(opened.locator("[role=status]", has_text="Link copied.")).to_have_count(1)
    link = opened.evaluate("navigator.clipboard.readText()")
    assert link == opened.url
    other = browser.new_page()
    other.goto(link)
    answered(other, "tokens × 2")
    becomes(other, totals, totals(opened))
    other.close()


def test_no_address_holds_a_token(opened):
    opened.get_by_role("button", name="Gated or private model?").click()
    opened.locator("#token input").fill(TOKEN)
    opened.locator("#token input").press("Enter")
    opened.locator("#model input").fill(TOKEN)
    opened.wait_for_timeout(800)
    opened.locator("#model input").press("Enter")
    expect(opened.locator("#complaint .qs-error")).to_contain_text("access token", timeout=LOAD_MS)
    assert TOKEN not in opened.url
    assert TOKEN not in opened.evaluate("JSON.stringify(history.state)")


# Chromium keeps frames of this very machine out of public sites, and a Space's is none.
_LOCAL_FRAMES = ("--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",)
_PARENT = """<!doctype html><title>A Space</title><iframe width=1000 height=800 src="SRC"></iframe>
<script>
window.heard = [];
addEventListener('message', ({data}) => data.queryString !== undefined && heard.push(data));
</script>"""


@pytest.mark.parametrize(("site", "follows"), [("https://huggingface.co", True), ("https://blog.example", False)])
def test_the_page_around_a_spaces_frame_is_told_and_others_are_not(browser: Browser, offline_app, site, follows):
    apart = browser.browser_type.launch(executable_path=chromium_path(), args=[*QUIET, *_LOCAL_FRAMES])
    page = apart.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: "postMessage" in line.text and errors.append(line.text))
    html = _PARENT.replace("SRC", f"{offline_app}/?model={GEMMA}")
    page.route(f"{site}/**", lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto(f"{site}/spaces/someone/quantspace")
    frame = page.frame_locator("iframe")
    expect(frame.locator(".qs-fit")).to_contain_text(GEMMA, timeout=LOAD_MS)
    frame.locator("#batch input").fill("2")
    frame.locator("#batch input").press("Enter")
    expect(frame.locator(".qs-fit")).to_contain_text("tokens × 2", timeout=LOAD_MS)
    page.wait_for_timeout(500)
    heard = page.evaluate("heard")
    apart.close()
    assert errors == []
    assert heard[-1:] == (
        [{"queryString": f"model={GEMMA}&gpu=t4&context=8192&batch=2", "hash": ""}] if follows else []
    )


def test_a_space_gives_its_public_address(hub, tmp_path, browser):
    from tests.app_server import NOWHERE, running_app

    with running_app(NOWHERE, tmp_path / "space.log", SPACE_HOST="someone-quantspace.hf.space") as url:
        page = browser.new_context(permissions=["clipboard-read", "clipboard-write"]).new_page()
        page.goto(url)
        answered(page, DEMO)
        page.get_by_role("button", name="Copy link").click()
        expect(page.locator("[role=status]", has_text="Link copied.")).to_have_count(1)
        link = urlsplit(page.evaluate("navigator.clipboard.readText()"))
        page.context.close()
    assert (link.scheme, link.netloc, link.path) == ("https", "someone-quantspace.hf.space", "/")
    assert from_query(parse_qs(link.query))[0].model == DEMO
