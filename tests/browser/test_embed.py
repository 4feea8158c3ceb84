"""The embed in pages of another site, and its builder, in a real browser."""

from html import escape

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from quantspace import estimate
from quantspace.share.rows import main_rows
from quantspace.web.embed_builder import HOST_SCRIPT
from tests.chromium import ARTIFACTS, PATIENCE_MS
from tests.site import served

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("app")]

WAIT_MS = PATIENCE_MS
GEMMA = "google/gemma-3-4b-it"
# Width of a frame in pixels, and what it asks.
EMBEDS = {
    320: {"model": GEMMA, "gpu": "t4", "context": 8192},
    768: {"model": "meta-llama/Llama-3.1-8B-Instruct", "gpu": "rtx-3060-12gb", "context": 32768},
    1200: {"model": "Qwen/Qwen3-30B-A3B", "gpu": "l4", "context": 4096},
}
GROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 23, 42)"}
# A blog's reset, which many pages have, and in which a frame's border would be part of its height.
BLOG = """<!doctype html><html lang="en"><meta charset="utf-8"><title>A blog</title>
<style>* {{ box-sizing: border-box }} body {{ margin: 16px; font-family: serif }}</style>{body}"""
SIZES = """() => { const root = document.documentElement; return {
  height: [root.scrollHeight, root.clientHeight], width: [root.scrollWidth, root.clientWidth, innerWidth],
  ground: getComputedStyle(root).backgroundColor }; }"""


@pytest.fixture
def blog(tmp_path):
    """Write the page of another site; gives its address."""
    with served(tmp_path) as site:

        def write(body: str) -> str:
            (tmp_path / "post.html").write_text(BLOG.format(body=body), encoding="utf-8")
            return f"{site}/post.html"

        yield write


def frames_of(page: Page):
    """The pages in the frames, in their order, once each has said how tall it is."""
    page.wait_for_function(
        """() => [...document.querySelectorAll('iframe')].every((frame) => frame.style.height !== '720px')""",
        timeout=WAIT_MS,
    )
    return [frame.content_frame() for frame in page.query_selector_all("iframe")]


def expect_no_scroll_bars(page: Page, frame) -> None:
    """After a change the new height travels to the page around and back."""
    page.wait_for_timeout(200)
    sizes = frame.evaluate(SIZES)
    assert sizes["height"][0] <= sizes["height"][1], sizes
    assert sizes["width"][0] <= sizes["width"][1] == sizes["width"][2], sizes
    element = frame.frame_element().bounding_box()
    assert element["height"] - sizes["height"][0] < 1, "nothing is left empty under it either"


def show_whole(page: Page) -> None:
    """For the picture: a frame of another site is painted only where it can be seen."""
    page.set_viewport_size({"width": 1240, "height": page.evaluate("document.documentElement.scrollHeight")})
    page.wait_for_timeout(300)


def totals_in(frame) -> dict[str, int]:
    return dict(
        frame.eval_on_selector_all(
            ".row", "rows => rows.map(row => [row.dataset.row, Number(row.querySelector('.total-cell data').value)])"
        )
    )


def totals_of(**asked) -> dict[str, int]:
    told = estimate(**asked)
    rows = {row["precision"]: row["total_bytes"] for row in told.as_data()["rows"]}
    return {row.precision.id: rows[row.precision.id] for row in main_rows(told)}


def embeds(app: str, theme: str) -> str:
    style, parts = "width:100%;height:720px;border:0;border-radius:12px", []
    for width, asked in EMBEDS.items():
        query = "&".join(f"{name}={value}" for name, value in asked.items())
        address = escape(f"{app}/embed?{query}" + (f"&theme={theme}" if theme != "auto" else ""))
        frame = f'<iframe class="quantspace" src="{address}" title="{width}" style="{style}"></iframe>'
        parts.append(f'<p>Before {width}</p><div style="width:{width}px">{frame}</div><p>After {width}</p>')
    return "".join(parts) + HOST_SCRIPT


@pytest.mark.parametrize("theme", ["light", "dark", "auto"])
def test_three_embeds_on_another_site(page, offline_app, blog, theme):
    page.set_viewport_size({"width": 1240, "height": 900})
    page.emulate_media(color_scheme="dark" if theme == "auto" else "light")
    page.goto(blog(embeds(offline_app, theme)))
    frames = frames_of(page)
    for frame, asked in zip(frames, EMBEDS.values(), strict=True):
        expect_no_scroll_bars(page, frame)
        assert frame.evaluate(SIZES)["ground"] == GROUNDS["dark" if theme == "auto" else theme]
        assert totals_in(frame) == totals_of(**asked)
    boxes = [one.bounding_box() for one in page.query_selector_all("p, iframe")]
    edges = [edge for box in boxes for edge in (box["y"], box["y"] + box["height"])]
    assert edges == sorted(edges), "nothing lies over anything else"
    show_whole(page)


def test_a_frames_height_follows_what_is_in_it(page, offline_app, blog):
    page.set_viewport_size({"width": 1240, "height": 900})
    page.goto(blog(embeds(offline_app, "light")))
    first, second, third = frames_of(page)
    heights = [frame.frame_element().bounding_box()["height"] for frame in (first, second, third)]

    second.fill("#model", "no model")
    second.press("#model", "Enter")
    second.wait_for_selector(".error", timeout=WAIT_MS)
    expect_no_scroll_bars(page, second)
    shorter = second.frame_element().bounding_box()["height"]
    assert shorter < heights[1] - 100

    second.fill("#model", GEMMA)
    second.press("#model", "Enter")
    second.wait_for_selector(".row", timeout=WAIT_MS)
    second.select_option("#gpu", "l4")
    second.wait_for_selector("text=on L4", timeout=WAIT_MS)
    expect_no_scroll_bars(page, second)
    assert second.frame_element().bounding_box()["height"] > shorter + 100
    assert totals_in(second) == totals_of(model=GEMMA, gpu="l4", context=32768)
    others = [frame.frame_element().bounding_box()["height"] for frame in (first, third)]
    assert others == [heights[0], heights[2]]
    show_whole(page)


@pytest.mark.parametrize("width", [320, 360, 480, 640, 700, 900, 1200])
def test_no_width_needs_a_scroll_bar_with_every_column(page, offline_app, blog, width):
    address = escape(f"{offline_app}/embed?model=Qwen/Qwen3-30B-A3B&gpu=zerogpu&count=2&rows=all&context=1M&columns=")
    columns = "verdict,total,free,speed,weights,cache,activations,overhead,footprint,context,batch,bar,reason"
    frame = (
        f'<iframe class="quantspace" src="{address}{columns}" style="width:{width}px;height:720px;border:0"></iframe>'
    )
    page.set_viewport_size({"width": width + 40, "height": 900})
    page.goto(blog(frame + HOST_SCRIPT))
    (inner,) = frames_of(page)
    expect_no_scroll_bars(page, inner)


def test_at_1200_pixels_all_figures_of_a_row_stand_on_one_line(page, offline_app):
    columns = "verdict,total,free,speed,weights,cache,activations,overhead,footprint,context,batch,bar"
    page.set_viewport_size({"width": 1200, "height": 900})
    for shown in (columns, columns.replace("speed,", "")):
        page.goto(f"{offline_app}/embed?model=meta-llama/Llama-3.1-8B-Instruct&gpu=rtx-4090&columns={shown}")
        lines = page.locator(".row").evaluate_all(
            "rows => rows.map(row => new Set([...row.querySelectorAll('.cell')].map(one => one.offsetTop)).size)"
        )
        assert set(lines) == {1}, shown


class TestAlone:
    def test_a_change_is_answered_in_place_and_the_address_follows(self, page, offline_app):
        page.goto(f"{offline_app}/embed?model={GEMMA}&gpu=t4&theme=light")
        page.evaluate("window.same = true")
        page.select_option("#gpu", "l4")
        expect(page.locator("#answer")).to_contain_text("on L4", timeout=WAIT_MS)
        page.fill("#context", "32k")
        expect(page.locator("#answer")).to_contain_text("32,768 tokens", timeout=WAIT_MS)
        assert page.evaluate("window.same")
        assert page.url == f"{offline_app}/embed?model={GEMMA}&gpu=l4&context=32768&theme=light"
        expect(page.locator("#heard")).to_contain_text("Take BF16")
        shown = page.locator("#answer").inner_text()
        page.reload()
        assert page.locator("#answer").inner_text() == shown

    def test_the_last_change_is_the_one_that_is_shown(self, page, offline_app):
        page.goto(f"{offline_app}/embed?model={GEMMA}")
        for gpu in ("l4", "a100-80gb", "rtx-4090", "p100-16gb"):
            page.select_option("#gpu", gpu)
        expect(page.locator("#answer")).to_contain_text("on P100", timeout=WAIT_MS)
        page.wait_for_timeout(500)
        assert totals_in(page) == totals_of(model=GEMMA, gpu="p100-16gb")

    def test_it_works_by_keyboard_and_without_scripts(self, browser, offline_app):
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(f"{offline_app}/embed?model={GEMMA}&theme=dark&lock=gpu&gpu=l4")
        page.keyboard.press("Tab")
        page.keyboard.press("ControlOrMeta+a")
        page.keyboard.type("Qwen/Qwen3-8B")
        page.keyboard.press("Enter")
        expect(page.locator("#answer")).to_contain_text("Qwen/Qwen3-8B on L4", timeout=WAIT_MS)
        assert "theme=dark" in page.url
        context.close()

    def test_a_server_that_is_gone_is_told_in_a_sentence(self, page, offline_app):
        page.goto(f"{offline_app}/embed?model={GEMMA}")
        page.context.set_offline(True)
        page.select_option("#gpu", "l4")
        expect(page.locator("#heard")).to_have_text("No answer came. Try again in a moment.", timeout=WAIT_MS)
        page.context.set_offline(False)
        page.select_option("#gpu", "a100-80gb")
        expect(page.locator("#answer")).to_contain_text("on A100", timeout=WAIT_MS)
        expect(page.locator("#heard")).to_have_class("unseen")

    def test_the_link_opens_the_full_page_in_a_tab_of_its_own(self, page, offline_app):
        page.goto(f"{offline_app}/embed?model={GEMMA}&gpu=l4")
        with page.expect_popup() as opened:
            page.click("text=See it run on QuantSpace")
        opened.value.wait_for_load_state("domcontentloaded")
        assert opened.value.url == f"{offline_app}/?model={GEMMA}&gpu=l4&context=8192"
        opened.value.close()

    def test_it_keeps_and_asks_for_nothing_but_the_answer(self, page, offline_app):
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{offline_app}/embed?model={GEMMA}", wait_until="networkidle")
        page.select_option("#gpu", "l4")
        expect(page.locator("#answer")).to_contain_text("on L4", timeout=WAIT_MS)
        assert {url.partition("?")[0] for url in asked} <= {f"{offline_app}/embed", "data:,"}
        assert page.context.cookies() == []
        assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]

    def test_markup_in_its_address_never_runs(self, page, offline_app):
        markup = "%22%3E%3Cimg%20src=x%20onerror=document.title='run'%3E%3Cscript%3Edocument.title='run'%3C/script%3E"
        for name in ("model", "gpu", "context", "accent", "rows", "precision"):
            page.goto(f"{offline_app}/embed?{name}={markup}")
            page.fill("#batch", "2")
            expect(page.locator("#answer[aria-busy]")).to_have_count(0, timeout=WAIT_MS)
            assert page.title() != "run" and page.locator("img").count() == 0


class TestBuilder:
    def test_the_snippet_renders_what_the_preview_showed(self, page, offline_app, blog):
        page.goto(f"{offline_app}/embed/builder")
        page.fill("#model", "Qwen/Qwen3-30B-A3B")
        page.press("#model", "Enter")
        page.select_option("#gpu", "rtx-4090")
        page.select_option("#theme", "dark")
        page.check("[name=lock][value=gpu]")
        page.check("[name=columns][value=weights]")
        page.locator("#accent").evaluate(
            "(field) => { field.value = '#e11d48'; field.dispatchEvent(new Event('change', {bubbles: true})); }"
        )
        expect(page.locator("#address")).to_contain_text("accent=%23e11d48", timeout=WAIT_MS)
        preview = page.frame_locator("iframe.quantspace").locator("main")
        expect(preview).to_contain_text("Qwen/Qwen3-30B-A3B on RTX 4090", timeout=WAIT_MS)
        shown, snippet = preview.inner_text(), page.locator("#frame").inner_text()
        page.screenshot(path=ARTIFACTS / "embed_builder_chosen.png", full_page=True)

        page.goto(blog(snippet))
        (frame,) = frames_of(page)
        assert frame.inner_text("main") == shown
        assert frame.locator(".weights-cell").count() == frame.locator(".row").count() > 5
        assert frame.evaluate(SIZES)["ground"] == GROUNDS["dark"]
        expect_no_scroll_bars(page, frame)

    def test_copying_puts_the_snippet_on_the_clipboard(self, page, offline_app):
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.goto(f"{offline_app}/embed/builder?model={GEMMA}")
        for name in ("frame", "badge", "card", "address"):
            page.click(f"[data-copies={name}]")
            expect(page.locator(f"[data-copies={name}]")).to_have_text("Copied")
            assert page.evaluate("navigator.clipboard.readText()") == page.locator(f"#{name}").text_content()

    def test_where_the_clipboard_is_closed_the_snippet_is_selected(self, page, offline_app):
        page.goto(f"{offline_app}/embed/builder?model={GEMMA}")
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('closed')); }")
        page.click("[data-copies=badge]")
        expect(page.locator("[data-copies=badge]")).to_have_text("Selected: copy it")
        assert page.evaluate("getSelection().toString()") == page.locator("#badge").inner_text()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [360, 1200])
    def test_it_fits_a_telephone_and_a_desk(self, page, offline_app, width, scheme):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.goto(f"{offline_app}/embed/builder?model={GEMMA}", wait_until="networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        expect_no_scroll_bars(page, frames_of(page)[0])

    def test_it_works_without_scripts(self, browser, offline_app):
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(f"{offline_app}/embed/builder?model={GEMMA}")
        page.select_option("#theme", "dark")
        page.click("button:has-text('Show')")
        expect(page.locator("#address")).to_contain_text("theme=dark")
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize(
    "path",
    [
        f"/embed?model={GEMMA}",
        f"/embed?model={GEMMA}&accent=%23facc15&lock=model,gpu,context,batch&rows=all&columns=verdict,total,bar,reason",
        "/embed?model=meta-llama/Llama-3.1-8B-Instruct&gpu=rtx-3060-12gb&context=32k&colour=red",
        "/embed?model=no%20model",
        f"/embed/builder?model={GEMMA}&rows=all",
    ],
    ids=["usual", "locked", "nothing-fits", "error", "builder"],
)
def test_axe_finds_nothing_serious(page, offline_app, path, width, scheme):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(offline_app + path, wait_until="networkidle")
    found = Axe().run(page).response["violations"]
    grave = [
        f"{one['id']}: {node['html'][:160]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
    assert grave == []
