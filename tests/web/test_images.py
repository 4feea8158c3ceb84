"""The images as a model card, its proxy and a link preview ask for them."""

import struct
from xml.etree import ElementTree

import httpx
import pytest

pytestmark = pytest.mark.xdist_group("app")
GEMMA = {"model": "google/gemma-3-4b-it", "gpu": "t4"}
TYPES = {"badge.svg": "image/svg+xml", "card.svg": "image/svg+xml", "card.png": "image/png"}


@pytest.fixture(scope="module")
def web(offline_app):
    with httpx.Client(base_url=offline_app, timeout=90) as client:
        yield client


def words_of(svg):
    return " ".join("".join(part.itertext()) for part in ElementTree.fromstring(svg).iter() if part.text)


@pytest.mark.parametrize("name", TYPES)
def test_an_image_is_of_its_type_and_need_not_be_sent_twice(web, name):
    first = web.get(f"/{name}", params=GEMMA)
    assert (first.status_code, first.headers["content-type"]) == (200, TYPES[name])
    assert first.headers["cache-control"].startswith("public, max-age=")
    assert first.headers["access-control-allow-origin"] == "*" and "set-cookie" not in first.headers
    assert web.get(f"/{name}", params=GEMMA, headers={"If-None-Match": first.headers["etag"]}).status_code == 304


def test_a_badge_tells_the_verdict_of_the_recommended_row_or_of_another(web):
    told = web.get("/v1/estimate", params=GEMMA).json()
    badge, other = (web.get("/badge.svg", params=GEMMA | more) for more in ({}, {"precision": "nf4-dq"}))
    labels = {row["precision"]: row["label"] for row in told["rows"]}
    assert labels[told["recommended"]] in words_of(badge.text) and "fits" in words_of(badge.text)
    assert "NF4" in words_of(other.text)
    assert len(badge.content) <= 20_000


def test_a_picture_has_the_size_of_a_link_preview(web):
    body = web.get("/card.png", params=GEMMA).content
    assert body[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", body[16:24]) == (1200, 630)


def test_a_card_comes_in_two_themes(web):
    light, dark = (web.get("/card.svg", params=GEMMA | {"theme": theme}) for theme in ("light", "dark"))
    assert light.headers["etag"] != dark.headers["etag"]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({}, "bad_model_id"),
        (GEMMA | {"gpu": "voodoo2"}, "unknown_gpu"),
        (GEMMA | {"context": "many"}, "bad_workload"),
        (GEMMA | {"precision": "bf17"}, "bad_input"),
        ({"model": "nobody/nothing-is-here"}, "hub_unreachable"),
        ({"model": "<script>alert(1)</script>"}, "bad_model_id"),
        ({"model": '"/><image href="https://evil.example/x"/>'}, "bad_model_id"),
    ],
)
@pytest.mark.parametrize("name", TYPES)
def test_a_problem_is_an_image_that_proxies_pass_on_and_programs_can_tell(web, name, asked, code):
    answer = web.get(f"/{name}", params=asked)
    assert (answer.status_code, answer.headers["content-type"]) == (200, TYPES[name])
    assert answer.headers["x-error-code"] == code and "max-age=60," in answer.headers["cache-control"]
    if name.endswith(".svg"):
        tags = {part.tag.rpartition("}")[2] for part in ElementTree.fromstring(answer.text).iter()}
        assert not tags & {"script", "image", "a", "foreignObject"}


def test_an_svg_that_is_opened_by_itself_can_run_and_fetch_nothing(web):
    policy = web.get("/badge.svg", params=GEMMA).headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src" not in policy
