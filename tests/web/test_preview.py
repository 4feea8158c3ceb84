"""What a link preview shows: the state that the link asks for."""

import html
import re
import struct

import httpx
import pytest

pytestmark = pytest.mark.xdist_group("app")


def tags(page):
    found = re.findall(r'<meta (?:property|name)="((?:og|twitter):[^"]+)" content="([^"]*)">', page)
    assert len(dict(found)) == len(found)  # each once
    return {name: html.unescape(content) for name, content in found}


def test_text_and_picture_are_of_what_the_link_asks_for(offline_app):
    told = tags(httpx.get(f"{offline_app}/?model=google/gemma-3-4b-it&gpu=l4&context=4096").text)
    assert told["og:title"] == "google/gemma-3-4b-it on NVIDIA L4"
    assert told["og:description"].startswith("4,096 tokens × 1.")
    picture = httpx.get(told["og:image"])
    assert picture.headers["content-type"] == "image/png"
    assert struct.unpack(">II", picture.content[16:24]) == (1200, 630)


def test_the_bare_page_shows_what_it_is_for(offline_app):
    told = tags(httpx.get(offline_app).text)
    assert told["og:title"].startswith("QuantSpace")
    assert told["og:image"] == told["twitter:image"]


def test_markup_in_a_link_stays_text(offline_app):
    page = httpx.get(offline_app, params={"model": '"><script>alert(1)</script>'}).text
    assert "<script>alert(1)" not in page.partition("</head>")[0]


def test_the_page_itself_is_whole_and_compressed_for_who_can_read_that(offline_app):
    plain, packed = (httpx.get(offline_app, headers={"Accept-Encoding": how}) for how in ("identity", "gzip"))
    assert "window.gradio_config" in plain.text and plain.text.rstrip().endswith("</html>")
    assert packed.text.partition("window.gradio_config")[0] == plain.text.partition("window.gradio_config")[0]
    assert int(plain.headers["content-length"]) == len(plain.content)
    assert packed.headers["content-encoding"] == "gzip" and "Accept-Encoding" in packed.headers["vary"]
    assert 3 * packed.num_bytes_downloaded < plain.num_bytes_downloaded
