"""The embed and its builder as a browser is sent them: what stands in them, what they may do, and what they weigh."""

import gzip
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from markdown_it import MarkdownIt
from starlette.datastructures import QueryParams
from starlette.testclient import TestClient

from quantspace import estimate
from quantspace.estimation.fit import fit_table, recommend
from quantspace.estimation.gguf.file import GgufFile
from quantspace.share.links import State
from quantspace.share.rows import main_rows
from quantspace.ui.fit_table import table_html
from quantspace.web.embed_asked import read_asked
from quantspace.web.embed_builder import snippets
from quantspace.web.embed_options import COLUMNS, LOCKABLE, NAMES, Options, accent_on, contrast
from quantspace.web.embed_table import lay_out
from quantspace.web.routes import build_app

GEMMA = "google/gemma-3-4b-it"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
PAGES = ("/embed", "/embed/builder")
MARKUP = "\"'><img src=x onerror=alert(1)></style></script><script>alert(2)</script>{{7*7}}"
PARAMETERS = (
    "model", "gpu", "count", "context", "batch", "kv", "ram", "images", "revision", "precision", "tab", "theme",
    "accent", "lock", "columns", "rows", "heading", "part", "colour", MARKUP,
)  # fmt: skip


class Read(HTMLParser):
    """Tags of a page with their attributes, and the texts of its styles and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"style": [], "script": []}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.cdata_elem in self.raw:
            self.raw[self.cdata_elem].append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def web():
    app, _ = build_app()
    return TestClient(app, base_url="https://quantspace.example", raise_server_exceptions=True)


def rows_of(html):
    """`{precision: {column: value}}` of the table, as programs read it from the page."""
    rows = {}
    for row in re.findall(r'<li class="row .*?</li>', html, re.DOTALL):
        cells = re.findall(r'<span class="cell (\w+)-cell"[^>]*><b><data value="(-?\d+)">', row)
        found = {column: int(value) for column, value in cells}
        rows[re.search(r'data-row="([^"]*)"', row)[1]] = found | {"verdict": re.search(r'verdict="(\w+)"', row)[1]}
    return rows


def file(label, size):
    """A GGUF file of which the size alone is known, as it is shared out over 36 layers."""
    layer = size // 38
    return GgufFile(
        paths=(f"Qwen3-8B-{label}.gguf",), label=label, size=size + 6_000_000, weights=size, tensors=399,
        layers=(layer,) * 36, input=layer, output=size - 37 * layer,
    )  # fmt: skip


FILES = (file("Q8_0", 8_700_000_000), file("Q4_K_M", 5_030_000_000))


class TestTable:
    @pytest.mark.parametrize("gpu", ["t4", "rtx-4090", "a100-80gb"])
    @pytest.mark.parametrize("model", [GEMMA, LLAMA, "Qwen/Qwen3-30B-A3B", "openai-community/gpt2"])
    def test_every_figure_is_the_estimates(self, web, model, gpu):
        columns = ("total", "free", "weights", "cache", "activations", "overhead", "footprint", "context", "batch")
        asked = {"model": model, "gpu": gpu, "rows": "all", "columns": ",".join(columns)}
        names = {name: f"{name}_bytes" for name in columns} | {
            "activations": "activation_bytes", "context": "max_context", "batch": "max_batch",
        }  # fmt: skip
        expected = {
            row["precision"]: {name: row[names[name]] for name in columns} | {"verdict": row["verdict"]}
            for row in estimate(model, gpu).as_data()["rows"]
        }
        assert rows_of(web.get("/embed", params=asked).text) == expected

    def test_the_usual_rows_are_those_of_the_images(self, web):
        told = estimate(GEMMA, "l4", context=4096)
        shown = web.get("/embed", params={"model": GEMMA, "gpu": "l4", "context": 4096}).text
        assert list(rows_of(shown)) == [row.precision.id for row in main_rows(told)]
        assert re.search(r'best" data-row="([^"]*)"', shown)[1] == told.recommended

    def test_of_chosen_rows_the_best_among_them_is_recommended(self, web):
        shown = web.get("/embed", params={"model": GEMMA, "rows": "nf4-dq,INT8,awq-4bit"}).text
        assert list(rows_of(shown)) == ["int8", "nf4-dq", "awq-4bit"]
        assert re.search(r'best" data-row="([^"]*)"', shown)[1] == "int8" and "Take INT8" in shown

    def test_where_nothing_fits_the_page_says_what_is_missing(self, web):
        shown = web.get("/embed", params={"model": LLAMA, "gpu": "rtx-3060-12gb", "context": "32k"}).text
        assert "Nothing here fits the card alone" in shown and "recommended" not in shown

    def test_a_row_that_is_asked_for_is_marked(self, web):
        shown = web.get("/embed", params={"model": GEMMA, "precision": "q4_k_m"}).text
        assert re.search(r'row is-fits asked" data-row="q4_k_m"', shown)

    @pytest.mark.parametrize("column", COLUMNS)
    def test_a_column_can_be_had_alone(self, web, column):
        answer = web.get("/embed", params={"model": GEMMA, "columns": column, "part": "answer"})
        there = {"verdict": 'class="chip"', "bar": "<svg", "reason": 'class="reason'}
        found = {name for name in COLUMNS if there.get(name, f"{name}-cell") in answer.text}
        assert found == {column}


class TestOtherModels:
    def laid_out(self, **changes):
        """The table of a bundled model, had its inventory been read otherwise."""
        asked = estimate("Qwen/Qwen3-8B", "rtx-3060-12gb")
        inventory = replace(asked.inventory, **changes)
        rows = tuple(fit_table(inventory, asked.hardware, asked.workload))
        told = replace(asked, inventory=inventory, rows=rows, recommended=recommend(rows), notes=inventory.notes)
        return lay_out(told, State(model="Qwen/Qwen3-8B:Q4_K_M"), Options())

    def test_gguf_files_are_the_rows_of_a_repository_of_them(self):
        table = self.laid_out(source_kind="gguf", files=FILES)
        assert [(line.label, line.asked) for line in table.lines] == [("Q8_0", False), ("Q4_K_M", True)]
        assert table.headline.startswith("Take Q8_0: it fits") and table.headline.endswith("It runs in llama.cpp.")

    def test_a_file_that_is_asked_for_joins_the_usual_rows(self):
        table = self.laid_out(files=FILES)
        assert [line.label for line in table.lines if line.asked] == ["Q4_K_M"] and len(table.lines) == 8

    def test_an_answer_about_weights_alone_says_what_it_leaves_out(self):
        left_out = "Weights only: what it takes to compute on images is not counted."
        table = self.laid_out(weights_only=left_out, generates=False, cache=())
        assert left_out in table.notes and "its weights fit" in table.headline


class TestForm:
    def test_the_form_holds_the_links_state(self, web):
        page = Read(web.get("/embed", params={"model": LLAMA, "gpu": "l4", "context": "32k", "batch": 2}).text)
        values = {field["name"]: field.get("value") for field in page.named("input")}
        assert values == {"model": LLAMA, "context": "32768", "batch": "2"}
        assert [option["value"] for option in page.named("option") if "selected" in option] == ["l4"]

    @pytest.mark.parametrize("name", LOCKABLE)
    def test_what_is_locked_is_carried_along_unseen(self, web, name):
        page = Read(web.get("/embed", params={"model": GEMMA, "lock": name}).text)
        (field,) = (one for tag, one in page.tags if tag in ("input", "select") and one.get("name") == name)
        assert field["type"] == "hidden"

    def test_a_form_sent_without_scripts_asks_the_same(self, web):
        first = web.get(
            "/embed?model=Qwen/Qwen3-30B-A3B&gpu=l4&count=2&kv=fp8&ram=64&theme=dark&columns=total,bar&lock=gpu"
        )
        fields = {one["name"]: one["value"] for one in Read(first.text).named("input")}
        assert web.get("/embed", params=fields).content == first.content

    def test_what_is_not_understood_is_told_and_the_rest_counts(self, web):
        asked = {"model": GEMMA, "context": "many", "gpu": "voodoo2", "colour": "red", "theme": "pink", "columns": "x"}
        answer = web.get("/embed", params=asked | {"accent": "url(x)", "lock": "all", "rows": "int3", "heading": "2"})
        assert (
            answer.status_code == 200
            and rows_of(answer.text)["bf16"]["total"] == estimate(GEMMA).row("bf16").total_bytes
        )
        (notes,) = re.findall(r'<ul class="notes">(.*?)</ul>', answer.text)
        for words in ("Context is “many”", "voodoo2", "colour", "pink", "“x”", "url(x)", "“all”", "int3", "“2”"):
            assert words in unescape(notes)

    @pytest.mark.parametrize(
        ("asked", "status", "words"),
        [
            ({"model": "no model"}, 400, "not a model id"),
            ({"model": ""}, 400, "No model was named"),
            ({"gpu": "apple-m-64gb", "count": 2}, 400, "share no memory"),
            ({"model": "nobody/nothing-is-here"}, 404, "nobody/nothing-is-here"),
        ],
    )
    @pytest.mark.parametrize("path", PAGES)
    def test_an_error_is_a_sentence_in_the_page_and_is_not_kept(self, web, path, asked, status, words):
        answer = web.get(path, params=asked)
        assert answer.status_code == status and words in unescape(answer.text)
        assert answer.headers["cache-control"] == "no-store" and "<form" in answer.text

    def test_the_full_page_opens_with_the_same_state(self, web):
        shown = web.get("/embed", params={"model": LLAMA, "gpu": "l4", "context": "32k", "lock": "gpu"}).text
        (link,) = Read(shown).named("a")
        asked = {name: values[0] for name, values in parse_qs(urlsplit(link["href"]).query).items()}
        assert asked == {"model": LLAMA, "gpu": "l4", "context": "32768"} and urlsplit(link["href"]).path == "/"
        assert (link["target"], link["rel"]) == ("_blank", "noopener")


class TestLooks:
    @pytest.mark.parametrize("accent", ["#000", "ffffff", "#4f46e5", "#e11d48", "#facc15", "#808080", "#0F172A"])
    @pytest.mark.parametrize(("shade", "ground"), [("light", "#ffffff"), ("dark", "#0f172a")])
    def test_an_accent_can_be_read_on_either_ground(self, web, accent, shade, ground):
        style = Read(web.get("/embed", params={"accent": accent, "theme": shade}).text).raw["style"][0]
        (colour,) = re.findall(r"--accent:(#[0-9a-f]{6})", style)
        assert contrast(colour, ground) >= 4.5

    def test_an_accent_that_can_be_read_is_left_as_it_is(self):
        assert accent_on("#e11d48", "light") == "#e11d48"

    def test_contrast_is_that_of_the_guidelines(self):
        assert contrast("#ffffff", "#000000") == 21
        assert round(contrast("#777777", "#ffffff"), 2) == 4.48  # the grey that just fails on white

    @pytest.mark.parametrize(("theme", "media"), [("auto", 1), ("light", 0), ("dark", 0)])
    def test_only_the_readers_theme_asks_the_reader(self, web, theme, media):
        style = Read(web.get("/embed", params={"theme": theme}).text).raw["style"][0]
        assert style.count("prefers-color-scheme") == media


class TestSafety:
    @pytest.mark.parametrize("path", PAGES)
    @pytest.mark.parametrize("name", PARAMETERS, ids=lambda name: name[:9])
    def test_markup_in_a_parameter_is_text(self, web, path, name):
        for asked in ({name: MARKUP}, {"model": GEMMA, "columns": "reason", name: MARKUP}):
            page = Read(web.get(path, params=asked).text)
            plain = Read(web.get(path, params={"model": GEMMA}).text)
            assert page.named("script") == [{}] and page.raw == plain.raw
            assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags} | {"ul", "li", "p"}
            assert all(image["src"].startswith(("/badge.svg?", "/card.png?")) for image in page.named("img"))

    @pytest.mark.parametrize("path", PAGES)
    @pytest.mark.parametrize("asked", [{}, {"theme": "dark", "accent": "#e11d48"}, {"model": "<b>"}])
    def test_nothing_runs_but_what_the_policy_names(self, web, path, asked):
        answer = web.get(path, params=asked)
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        page = Read(answer.text)
        for kind in ("style", "script"):
            (text,) = page.raw[kind]
            assert policy[f"{kind}-src"] == f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
        assert not [
            name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"
        ]
        assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "*"

    @pytest.mark.parametrize("path", PAGES)
    def test_anybody_may_frame_it_and_nothing_is_kept_of_a_reader(self, web, path):
        answer = web.get(path)
        assert "x-frame-options" not in answer.headers and "set-cookie" not in answer.headers
        assert not re.search(r"localStorage|sessionStorage|cookie|indexedDB", Read(answer.text).raw["script"][0])

    @pytest.mark.parametrize("path", PAGES)
    def test_nothing_comes_from_elsewhere(self, web, path):
        page = Read(web.get(path).text)
        loaded = [
            one.get("src", one.get("href")) for tag, one in page.tags if tag in ("img", "iframe", "script", "link")
        ]
        assert all(address.startswith(("/", "data:,")) for address in loaded if address)

    @pytest.mark.parametrize("path", PAGES)
    def test_what_is_known_is_not_sent_again(self, web, path):
        first = web.get(path, params={"model": GEMMA})
        assert first.headers["cache-control"].startswith("public, max-age=600")
        again = web.get(path, params={"model": GEMMA}, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


class TestBuilder:
    def given(self, web, **asked):
        shown = web.get("/embed/builder", params={"model": GEMMA, "gpu": "l4", **asked}).text
        return {name: unescape(text) for name, text in re.findall(r'<pre id="(\w+)">(.*?)</pre>', shown, re.DOTALL)}

    def test_the_snippet_frames_what_the_preview_frames(self, web):
        given = {"theme": "dark", "accent": "#e11d48", "lock": "gpu", "columns": "verdict,bar", "heading": "0"}
        shown = web.get("/embed/builder", params={"model": GEMMA, "gpu": "l4", **given}).text
        (preview,) = Read(shown).named("iframe")
        (frame,) = Read(self.given(web, **given)["frame"]).named("iframe")
        assert frame["src"] == f"https://quantspace.example{preview['src']}"
        asked = {name: values[0] for name, values in parse_qs(urlsplit(frame["src"]).query).items()}
        assert asked == {"model": GEMMA, "gpu": "l4", "context": "8192", **given}

    def test_the_row_of_badge_and_card_can_be_chosen(self, web):
        shown = web.get("/embed/builder", params={"model": GEMMA, "gpu": "l4", "precision": "nf4"}).text
        assert [one["value"] for one in Read(shown).named("option") if "selected" in one] == ["l4", "nf4", "auto", "1"]
        badge = self.given(web, precision="nf4")["badge"]
        assert "badge.svg?model=google/gemma-3-4b-it&gpu=l4&context=8192&precision=nf4" in badge

    def test_the_readmes_snippets_are_the_builders(self):
        readme = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
        section = readme.partition("\n## Embed it\n")[2].partition("\n## ")[0]
        asked = read_asked(QueryParams({"model": GEMMA, "gpu": "l4"}), "http://127.0.0.1:7860")
        made = {snippet.id: snippet.text for snippet in snippets(asked, "L4")}
        assert re.findall(r"```\w+\n(.*?)\n```", section, re.DOTALL) == [made["frame"], made["badge"]]
        assert {*re.findall(r"^\| `(\w+)` ", section, re.MULTILINE)} == set(NAMES)
        assert f"`{','.join(COLUMNS)}`" in section

    def test_the_host_script_has_three_lines(self, web):
        assert len(self.given(web)["frame"].partition("<script>")[2].splitlines()) == 3

    @pytest.mark.parametrize("model", [GEMMA, MARKUP])
    def test_a_frame_passes_through_markdown_unharmed(self, web, model):
        snippet = self.given(web, model=model)["frame"]
        assert MarkdownIt("commonmark", {"html": True}).render(f"Before.\n\n{snippet}\n\nAfter.") == (
            f"<p>Before.</p>\n{snippet}\n<p>After.</p>\n"
        )

    @pytest.mark.parametrize("kind", ["badge", "card"])
    @pytest.mark.parametrize("model", [GEMMA, "a](javascript:x) [b](c|d*", MARKUP])
    def test_markdown_is_one_image_that_leads_to_the_page(self, web, kind, model):
        page = Read(MarkdownIt("commonmark", {"html": False}).render(self.given(web, model=model)[kind]))
        assert [tag for tag, _ in page.tags] == ["p", "a", "img"]
        (link,), (image,) = page.named("a"), page.named("img")
        assert parse_qs(urlsplit(link["href"]).query)["model"] == [model.strip()]
        assert image["src"].startswith(f"https://quantspace.example/{kind}.")

    def test_the_images_are_there(self, web):
        images = Read(web.get("/embed/builder", params={"model": GEMMA}).text).named("img")
        assert [web.get(image["src"]).headers["content-type"] for image in images] == ["image/svg+xml", "image/png"]

    def test_every_place_names_its_source(self, web):
        table = web.get("/embed/builder").text.partition('class="places"')[2]
        assert table.count('<th scope="row">') == len(re.findall(r'href="https://[^"]+" rel="noopener"', table)) >= 7


def test_the_first_load_weighs_a_third_of_the_full_pages_at_most(web):
    """Bytes that are ours, compressed as they are sent: HTML, styles and scripts, the same question on both.

    Of the full page its table, its style sheet and the scripts that its components bring are counted: what
    Gradio makes of them, and Gradio itself, come on top.
    """
    from quantspace.ui import access, fit_table, form, model_field
    from quantspace.ui.theme import CSS

    of_modules = (vars(module).values() for module in (access, fit_table, form, model_field))
    scripts = {value for values in of_modules for value in values if isinstance(value, str) and "=>" in value}
    full = gzip.compress("".join([table_html(estimate(GEMMA)), CSS, *scripts]).encode())
    embed = gzip.compress(web.get("/embed", params={"model": GEMMA}).content)
    print(f"embed {len(embed):,} bytes, full page {len(full):,} bytes, gzip")
    assert len(embed) < 30_000
    assert 3 * len(embed) <= len(full)
