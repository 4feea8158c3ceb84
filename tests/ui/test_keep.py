"""What is taken along from a table is what that table shows."""

import csv
import io
import json
import re
from base64 import b64decode
from dataclasses import replace
from html import unescape

import pytest
from defusedxml.ElementTree import fromstring

from quantspace import estimate
from quantspace.share.snippets import snippets
from quantspace.ui.fit_table import table_html
from quantspace.ui.keep import FORMATS, code_of_row, file_name, file_of_table, remember

GEMMA = "google/gemma-3-4b-it"


@pytest.fixture(scope="module")
def answer():
    return estimate(GEMMA, "t4", context=4096)


@pytest.fixture(scope="module")
def ticket(answer):
    return re.search(r'data-ticket="([^"]+)"', table_html(answer))[1]


@pytest.mark.parametrize("row_id", ["bf16", "nf4-dq", "int8-ao", "fp32", "q4_k_m"])
def test_the_code_of_a_row_is_its_snippets(answer, ticket, row_id):
    html = code_of_row([ticket, row_id])
    shown = re.findall(r"<code[^>]*>(.*?)</code>", html, re.DOTALL)
    assert [unescape(code) for code in shown] == [one.code for one in snippets(answer, answer.row(row_id))]


def test_the_table_holds_no_code_before_it_is_asked_for(answer):
    html = table_html(answer)
    assert "from_pretrained" not in html
    code = sum(len(code_of_row([remember(answer), row.precision.id])) for row in answer.rows)
    assert code > 5000


def test_files_are_of_the_table_that_is_shown(answer, ticket):
    files = {name: file_of_table([ticket, name, "light"]) for name in FORMATS}
    assert {name: file["name"] for name, file in files.items()} == {
        name: f"gemma-3-4b-it-on-t4-4096-tokens.{kind.ending}" for name, kind in FORMATS.items()
    }
    rows = list(csv.DictReader(io.StringIO(files["csv"]["text"])))
    assert [int(row["total_bytes"]) for row in rows] == [row.total_bytes for row in answer.rows]
    assert json.loads(files["json"]["text"]) == json.loads(json.dumps(answer.as_data()))
    assert f"{answer.rows[0].total_bytes:,}" in files["markdown"]["text"]
    assert fromstring(files["svg"]["text"]).get("width") == "1200"
    assert b64decode(files["png"]["base64"])[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_chart_marks_the_row_that_was_asked_for(answer):
    html = table_html(answer, precision="nf4")
    (asked,) = re.findall(r'qs-asked" data-row="([^"]+)"', html)
    ticket = re.search(r'data-ticket="([^"]+)"', html)[1]
    assert asked == "nf4"
    assert "NF4: fits" in file_of_table([ticket, "svg", "dark"])["text"]


def test_a_row_that_is_not_there_is_said_and_none_is_marked(answer):
    html = table_html(answer, precision="native")
    assert "has no row “native”" in html
    assert "qs-asked" not in html


@pytest.mark.parametrize(
    "given", [None, [], ["x"], ["x", "bf16"], [1, 2], {"a": 1}, ["x", "csv", "light"], ["x", "csv", "light", "y"]]
)
def test_what_is_not_at_hand_gives_nothing(given):
    assert code_of_row(given) is None
    assert file_of_table(given) is None


def test_a_row_or_format_that_does_not_exist_gives_nothing(ticket):
    assert code_of_row([ticket, "int3"]) is None
    assert file_of_table([ticket, "exe", "light"]) is None


def test_no_two_tables_share_a_ticket(answer):
    assert len({remember(answer) for _ in range(50)}) == 50


def test_a_name_of_markup_is_text_in_code_and_harmless_in_the_name_of_a_file(answer):
    hostile = replace(answer, inventory=replace(answer.inventory, model_id='a/"><img src=x>/../..\\x'))
    html = code_of_row([remember(hostile), "bf16"])
    assert "<img" not in html
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", file_name(hostile))


def test_several_cards_and_sequences_are_named():
    assert file_name(estimate(GEMMA, "l4", 2, context=512, batch=3)) == "gemma-3-4b-it-on-2xl4-512-tokens-x3"
