"""The table to keep: the estimate's own figures, and nothing that a spreadsheet would run."""

import csv
import io
import json
from dataclasses import replace

import pytest

from quantspace.share.tables import as_csv, as_json, as_markdown

from .asked import answer

QUESTIONS = [("google/gemma-3-4b-it", "t4", 1), ("Qwen/Qwen3-30B-A3B", "l4", 2), ("openai-community/gpt2", "t4", 1)]


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_the_csv_has_every_row_with_the_bytes_of_the_estimate(question):
    estimate = answer(*question)
    data = estimate.as_data()
    lines = list(csv.DictReader(io.StringIO(as_csv(estimate))))
    assert [line["precision"] for line in lines] == [row["precision"] for row in data["rows"]]
    for line, row in zip(lines, data["rows"], strict=True):
        for name in ("footprint", "weights", "cache", "activation", "overhead", "total", "free"):
            assert int(line[f"{name}_bytes"]) == row[f"{name}_bytes"]
            assert float(line[f"{name}_gb"]) == pytest.approx(row[f"{name}_bytes"] / 1e9, abs=5e-4)
        assert (line["verdict"], line["reason"]) == (row["verdict"], row["reason"])
    assert [line["precision"] for line in lines if line["recommended"] == "True"] == [data["recommended"]]


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_the_json_is_the_answer_of_the_api(question):
    assert json.loads(as_json(answer(*question))) == answer(*question).as_data()


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_the_markdown_is_one_table_with_the_total_in_bytes(question):
    estimate = answer(*question)
    table = [line for line in as_markdown(estimate).splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert len(table) == 2 + len(estimate.rows)
    for line, row in zip(table[2:], estimate.rows, strict=True):
        assert line.endswith(f"| {row.total_bytes:,} |")
    (bold,) = [line for line in table if line.startswith("| **")]
    assert estimate.row(estimate.recommended).precision.label in bold


@pytest.mark.parametrize("name", ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1"])
def test_no_cell_is_a_formula(name):
    estimate = answer("openai-community/gpt2")
    risky = replace(estimate, inventory=replace(estimate.inventory, model_id=name))
    for line in csv.DictReader(io.StringIO(as_csv(risky))):
        assert line["model"] == f"'{name}"
        assert all(not cell or cell[0] not in "=+@\t\r" for cell in line.values())
        assert all(cell[0] != "-" or float(cell) < 0 for cell in line.values() if cell)


def test_no_cell_of_markdown_is_markup():
    estimate = answer("openai-community/gpt2")
    risky = replace(estimate, inventory=replace(estimate.inventory, model_id="a|b\n| c <img src=x> [x](y) `z`"))
    text = as_markdown(risky)
    assert "<img" not in text and "[x](" not in text.replace("\\[", "").replace("\\]", "")
    assert text.startswith("**a\\|b \\| c &lt;img")
