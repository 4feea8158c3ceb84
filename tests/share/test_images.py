"""The badge and the card: valid SVG that says what the estimate says, and pictures of the stated size."""

import struct
from dataclasses import replace

import pytest
from defusedxml import ElementTree

from quantspace.errors import BadInput, HubUnreachable, ModelNotFound
from quantspace.estimation.hardware import find_gpu
from quantspace.estimation.workload import Hardware
from quantspace.precision import PRECISIONS
from quantspace.share.badge import COLOURS, badge_svg, error_badge
from quantspace.share.card import card_svg, error_card
from quantspace.share.etag import etag
from quantspace.share.lettering import fitted, width
from quantspace.share.png import png
from quantspace.share.rows import asked_precision

from .asked import QUESTIONS, a_file, answer, estimate_from, gguf

SVG = "{http://www.w3.org/2000/svg}"
WORDS = {"fits": "Fits", "tight": "Tight", "offload": "Offload", "no": "Does not fit"}
MARKUP = "\"><script>alert(1)</script>&amp;<![CDATA[]]>\x00\x1b[31m\ud800 '`${x}\u202e"


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def one_decimal(count):
    return f"{count / 1e9:.1f} GB" if 1e8 <= count < 1e11 else f"{count / 1e9:.0f} GB" if count >= 1e11 else None


def renamed(estimate, name):
    return replace(estimate, inventory=replace(estimate.inventory, model_id=name))


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_the_badge_says_what_the_estimate_says(question):
    estimate = answer(*question)
    data, count = estimate.as_data(), question[2]
    rows = {row["precision"]: row for row in data["rows"]}
    svg = badge_svg(estimate)
    subject, said = texts(svg)
    per_card = " per card" if count > 1 else ""
    if data["recommended"]:
        row = rows[data["recommended"]]
        free = one_decimal(row["free_bytes"] // count)
        assert said.startswith(f"{row['verdict']}, ") and said.endswith(f" free{per_card}")
        assert free is None or said == f"{row['verdict']}, {free} free{per_card}"
        assert COLOURS[row["verdict"]] in svg
    else:
        row = rows[next(i for i in rows if subject.endswith(f" · {rows[i]['label']}"))]
        assert row["verdict"] in ("no", "offload")
        assert said == f"no: needs {one_decimal(-(-row['total_bytes'] // count))}{per_card}"
        assert COLOURS["no"] in svg
    assert subject.endswith(f" · {row['label']}") and subject.startswith(f"{count} × " if count > 1 else "")
    assert question[0] in ElementTree.fromstring(svg).find(f"{SVG}title").text
    assert len(svg.encode()) <= 20_000


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_the_card_says_what_the_estimate_says(question):
    estimate = answer(*question)
    data, count = estimate.as_data(), question[2]
    svg = card_svg(estimate)
    said = texts(svg)
    assert question[0] in said
    assert any(text.endswith(" usable") for text in said)
    rows = {row["label"]: row for row in data["rows"]}
    shown = [text for text in said if text in rows]
    assert len(shown) >= 5
    for label in shown:
        row, place = rows[label], said.index(label)
        verdict, room = said[place + 1 : place + 3]
        assert verdict.endswith(f" {WORDS[row['verdict']]}")
        free = row["free_bytes"] // count
        assert room.endswith(" free" if free >= 0 else " short")
        assert one_decimal(abs(free)) is None or room.startswith(one_decimal(abs(free)))
    if data["recommended"]:
        assert next(row["label"] for row in data["rows"] if row["precision"] == data["recommended"]) in shown


def test_the_bars_are_as_long_as_their_bytes():
    estimate = answer("google/gemma-3-4b-it")
    root = ElementTree.fromstring(card_svg(estimate))
    groups = [g for g in root.iter(f"{SVG}g") if len(g.findall(f"{SVG}rect")) == 5]
    for group in groups:
        label = group.find(f"{SVG}text").text
        row = next(row for row in estimate.rows if row.precision.label == label)
        track, *parts = group.findall(f"{SVG}rect")
        lengths = [float(part.get("width")) for part in parts]
        wanted = [row.weights.held, row.cache_bytes, row.activation_bytes, row.overhead_bytes]
        assert [n / sum(lengths) for n in lengths] == pytest.approx([n / sum(wanted) for n in wanted], abs=1e-3)
        assert float(parts[0].get("x")) == float(track.get("x"))


def test_a_badge_of_a_row_that_was_asked_for():
    estimate = answer("google/gemma-3-4b-it")
    assert texts(badge_svg(estimate, "nf4")) == ["T4 · NF4", "fits, 10.2 GB free"]
    assert texts(badge_svg(estimate, "fp32")) == ["T4 · FP32", "offload: needs 21.1 GB"]
    with pytest.raises(BadInput, match="no row"):
        badge_svg(estimate, "gguf:none.gguf")


def test_a_badge_says_how_much_would_be_needed_where_nothing_fits():
    assert texts(badge_svg(answer("meta-llama/Llama-3.1-70B-Instruct")))[1] == "no: needs 44.4 GB"


def test_errors_have_a_badge_and_a_card_that_say_what_is_wrong():
    error = ModelNotFound("There is no a/b on the Hub.", "Check the spelling.")
    assert texts(error_badge(error)) == ["QuantSpace", "model not found"]
    assert {"There is no a/b on the Hub.", "Check the spelling."} <= set(texts(error_card(error)))


def test_a_long_problem_is_told_to_its_end_in_lines_that_have_room():
    error = BadInput("“int3” is not a precision of any model here.", f"Use one of {', '.join(PRECISIONS)}.")
    svg = error_card(error)
    assert error.hint in " ".join(texts(svg)) and max(map(len, texts(svg))) < len(error.hint)
    hopeless = error_card(BadInput("word " * 500, "n" * 5000))
    assert len(texts(hopeless)) < 15 and len(hopeless) < 20_000
    assert texts(error_badge(HubUnreachable("No.", "Wait.")))[1] == "Hub unreachable"


@pytest.mark.parametrize("name", [MARKUP, "a/" + "x" * 400, "й/模型🧮", ""], ids=["markup", "long", "unicode", "none"])
def test_a_name_is_never_markup_and_always_has_room(name):
    estimate = renamed(answer("google/gemma-3-4b-it"), name)
    for svg in (badge_svg(estimate), card_svg(estimate), error_badge(BadInput(name, name)), error_card(BadInput(name))):
        root = ElementTree.fromstring(svg)
        assert {element.tag for element in root.iter()} <= {
            f"{SVG}{tag}" for tag in ("svg", "title", "desc", "rect", "path", "g", "text")
        }
        assert len(svg.encode()) <= 20_000
    texts_of_card = ElementTree.fromstring(card_svg(estimate)).iter(f"{SVG}text")
    for element in texts_of_card:
        bold = element.get("font-weight") == "700"
        assert width(element.text or "", float(element.get("font-size", 18)), bold) <= 1200 - 2 * 56 + 1


def test_what_is_left_out_of_a_long_name_is_its_middle():
    short = fitted("organization/" + "model-" * 20 + "Q4_K_M", 20, 300)
    assert short.startswith("organization/") and short.endswith("Q4_K_M") and "…" in short
    assert width(short, 20) <= 300


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_picture_has_the_stated_size_and_shows_text_without_any_font_installed(theme):
    svg = card_svg(answer("google/gemma-3-4b-it"), theme=theme)
    picture = png(svg)
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", picture[16:24]) == (1200, 630)
    assert picture != png(svg.replace("google/gemma-3-4b-it", "google/gemma-3-4b-xx"))  # letters are drawn
    assert len(picture) < 300_000


def test_light_and_dark_differ_in_colours_alone():
    light, dark = (card_svg(answer("google/gemma-3-4b-it"), theme=theme) for theme in ("light", "dark"))
    assert light != dark and texts(light) == texts(dark)


def test_contrast_of_verdicts_is_that_of_text_on_both_grounds():
    import quantspace.share.card as card

    for palette in card._PALETTE.values():
        for name in ("ink", "dim", "accent", "fits", "tight", "offload", "no"):
            assert contrast(palette[name], palette["ground"]) >= 4.5, name
    for colour in COLOURS.values():
        assert contrast(colour, "#ffffff") >= 4.5


def contrast(one, other):
    """WCAG 2.2, relative luminance."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_same_content_has_the_same_tag():
    svg = badge_svg(answer("google/gemma-3-4b-it"))
    assert etag(svg) == etag(svg.encode()) != etag(svg + " ")
    assert etag(svg).startswith('"') and etag(svg).endswith('"') and etag(svg)[1:-1].isalnum()


def test_files_of_a_repository_have_their_labels_on_badge_and_card():
    sizes = {"Q4_K_M": 4 * 10**8, "Q8_0": 7 * 10**8}
    estimate = gguf(*(a_file(f"m-{label}.gguf", label, each=each) for label, each in sizes.items()))
    free = estimate.row("gguf:m-Q8_0.gguf").free_bytes / 1e9
    assert texts(badge_svg(estimate)) == ["T4 · Q8_0", f"fits, {free:.1f} GB free"]
    asked = asked_precision(estimate, "org/gpt2-GGUF:Q4_K_M")
    assert asked == "gguf:m-Q4_K_M.gguf"
    assert texts(badge_svg(estimate, asked))[0] == texts(badge_svg(estimate, "q4_k_m"))[0] == "T4 · Q4_K_M"
    assert {"Q8_0", "Q4_K_M"} <= set(texts(card_svg(estimate, asked)))


def test_where_only_weights_are_known_only_they_are_said_to_fit():
    found = answer("openai-community/gpt2").inventory
    alone = estimate_from(replace(found, weights_only="Weights only."), Hardware(find_gpu("t4")))
    assert texts(badge_svg(alone))[1].startswith("weights fit, ")


@pytest.mark.browser
def test_in_a_browser_no_text_of_an_image_leaves_its_place_or_covers_another(browser, tmp_path):
    long = renamed(answer("Qwen/Qwen3-30B-A3B", "rtx-4090"), "organization-of-some-length/" + "Model-Name-" * 6)
    images = {"card": card_svg(long), "dark": card_svg(long, theme="dark"), "badge": badge_svg(long)}
    page = browser.new_page()
    for name, svg in images.items():
        file = tmp_path / f"{name}.svg"
        file.write_text(svg, encoding="utf-8")
        page.goto(file.as_uri())
        boxes = page.evaluate(
            "[...document.querySelectorAll('text')].filter(t => t.textContent)"
            ".map(t => t.getBoundingClientRect()).map(b => [b.left, b.top, b.right, b.bottom])"
        )
        root = ElementTree.fromstring(svg)
        wide, high = float(root.get("width")), float(root.get("height"))
        assert len(boxes) >= 2
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= wide and 0 <= top < bottom <= high
        for i, one in enumerate(boxes):
            for other in boxes[i + 1 :]:
                apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] + 4 or other[3] <= one[1] + 4
                assert apart, (name, one, other)
    page.close()
