"""A comparison to keep: the same figures in JSON, CSV and Markdown, with what it takes to make it again."""

import csv
import io
import json
from dataclasses import replace

import pytest

from quantspace.hub.demo import DEMO_ID
from quantspace.runtime.compare import Comparison, Question, Row
from quantspace.runtime.job import Failed, Readout, Stats
from quantspace.runtime.quality.figures import Interval, Quality
from quantspace.runtime.quality.text import bundled_text, own_text
from quantspace.share.quality_words import change, finding, number, percent, text_words
from quantspace.share.report import as_csv, as_data, as_json, as_markdown, file_name

SHA = "0123456789abcdef0123456789abcdef01234567"


def readout(precision, held):
    return Readout("org/model", SHA, precision, "LlamaForCausalLM", "NVIDIA T4", held - 10, held, (), 1.25, True, 2048)


def quality(perplexity, ratio=None, divergence=None, agreement=None):
    def near(value, width):
        return None if value is None else Interval(value, value - width, value + width)

    return Quality(
        tokens=2044,
        windows=4,
        window=512,
        read_tokens=2048,
        text_tokens=3925,
        seconds=1.5,
        perplexity=near(perplexity, 0.5),
        ratio=near(ratio, 0.002),
        divergence=near(divergence, 0.001),
        agreement=near(agreement, 0.01),
    )


STATS = Stats(8, 47, 0.123, 64.9, "eos", device="NVIDIA T4")
ROWS = (
    Row("bf16", "done", True, readout("bf16", 8_000_000_000), "It stores weights.", STATS, quality(9.18)),
    Row(
        "nf4-dq", "done", False, readout("nf4-dq", 3_000_000_000), "It | stores *weights*.\nIn 4 bits.", STATS,
        quality(9.31, 1.0143, 0.0254, 0.959),
    ),
    Row("int8", "failed", error=Failed("out_of_memory", "Memory ran out.", "Choose a smaller precision.")),
)  # fmt: skip
COMPARISON = Comparison(
    Question("org/model", ("bf16", "nf4-dq", "int8"), "=What is it?", bundled_text()), ROWS, SHA, 1_700_000_000.0
)


class TestJson:
    def test_it_says_what_was_compared_on_what_and_with_which_versions(self):
        data = json.loads(as_json(COMPARISON))
        assert data["model"] == {
            "id": "org/model", "revision": "main", "sha": SHA, "architecture": "LlamaForCausalLM",
        }  # fmt: skip
        assert data["ended"] == "2023-11-14T22:13:20Z"
        assert data["device"] == "NVIDIA T4"
        assert {"torch", "transformers", "bitsandbytes"} <= set(data["versions"])
        assert data["text"]["sha256"] == bundled_text().digest
        assert "2,044 scored tokens" in data["text"]["method"]
        assert data["sampling"]["greedy"] is True

    def test_every_figure_comes_with_its_bounds_and_bytes_are_integers(self):
        row = as_data(COMPARISON)["rows"][1]
        assert row["held_bytes"] == 3_000_000_000
        assert row["quality"]["divergence"] == pytest.approx({"value": 0.0254, "low": 0.0244, "high": 0.0264})
        assert row["quality"]["perplexity"]["value"] == 9.31
        assert (row["load_s"], row["first_token_s"], row["tokens_per_s"], row["new_tokens"]) == (1.25, 0.123, 64.9, 47)

    def test_a_row_that_failed_has_its_sentence_and_no_figures(self):
        row = as_data(COMPARISON)["rows"][2]
        assert row["error"]["message"] == "Memory ran out."
        assert row["quality"] is row["held_bytes"] is row["tokens_per_s"] is None

    def test_a_text_of_ones_own_is_named_by_its_digest_and_not_told(self):
        own = own_text("My secret diary, day after day. " * 50)
        told = as_json(replace(COMPARISON, question=replace(COMPARISON.question, text=own)))
        assert own.digest in told and "own text" in told
        assert "diary" not in told


class TestCancelled:
    def test_every_format_says_so_and_has_what_was_measured(self):
        cut = replace(COMPARISON, rows=(ROWS[0], replace(ROWS[1], state="running"), Row("int8")), ended=0.0).cut()
        data = as_data(cut)
        assert data["cancelled"] and data["ended"]
        assert [row["state"] for row in data["rows"]] == ["done", "cancelled", "cancelled"]
        assert data["rows"][1]["held_bytes"] == 3_000_000_000
        assert {line["cancelled"] for line in csv.DictReader(io.StringIO(as_csv(cut)))} == {"True"}
        assert "**Cancelled before it was over:**" in as_markdown(cut)
        assert "**INT8:** (no answer) (cancelled)" in as_markdown(cut)
        assert file_name(cut).endswith("-cancelled")

    def test_one_that_was_not_says_nothing_of_it(self):
        assert COMPARISON.cut() is COMPARISON
        assert as_data(COMPARISON)["cancelled"] is False
        assert "ancelled" not in as_markdown(COMPARISON)


class TestCsv:
    def test_a_line_a_precision_with_the_question_in_each(self):
        lines = list(csv.DictReader(io.StringIO(as_csv(COMPARISON))))
        assert [line["precision"] for line in lines] == ["bf16", "nf4-dq", "int8"]
        assert {line["sha"] for line in lines} == {SHA}
        assert {line["compared_with"] for line in lines} == {"bf16"}
        assert float(lines[1]["agreement_low"]) == pytest.approx(0.949)
        assert lines[0]["divergence"] == lines[2]["perplexity"] == ""
        assert lines[2]["error"] == "Memory ran out."

    def test_a_prompt_is_no_formula(self):
        assert next(csv.DictReader(io.StringIO(as_csv(COMPARISON))))["prompt"] == "'=What is it?"


class TestMarkdown:
    def test_one_table_with_figures_and_bounds(self):
        table = [line for line in as_markdown(COMPARISON).splitlines() if line.startswith("|")]
        assert len(table) == 5
        assert len({line.count(" | ") for line in table}) == 1
        assert "**BF16**" in table[2]
        assert "9.31 (8.81 to 9.81) | +1.43% (+1.23% to +1.63%) | 0.0254 (0.0244 to 0.0264) | 95.90%" in table[3]

    def test_answers_and_errors_stand_below_as_nothing_but_text(self):
        told = as_markdown(COMPARISON)
        assert "**NF4 + double quant:** It \\| stores \\*weights\\*. In 4 bits." in told
        assert "> Memory ran out. Choose a smaller precision." in told
        assert "* Perplexity: how many next tokens the model wavers between" in told
        assert f"`{bundled_text().digest}`" in told

    def test_a_comparison_of_answers_alone_has_no_word_on_quality(self):
        rows = tuple(replace(row, quality=None) for row in ROWS[:2])
        asked = replace(COMPARISON.question, text=None)
        told = as_markdown(replace(COMPARISON, question=asked, rows=rows))
        assert "SHA-256" not in told


class TestWords:
    def test_a_finding_says_what_was_saved_and_what_it_cost(self):
        assert finding(ROWS[1], ROWS[0]) == (
            "38% of BF16’s memory; the same next token 95.90% of the time; perplexity +1.43%."
        )

    def test_a_difference_within_its_bounds_is_not_called_one(self):
        row = replace(ROWS[1], quality=quality(9.19, 1.001, 0.02, 0.96))
        assert "no difference in perplexity that this text can tell" in finding(row, ROWS[0])

    def test_there_is_nothing_to_find_about_the_reference_or_a_failure(self):
        assert finding(ROWS[0], ROWS[0]) == finding(ROWS[2], ROWS[0]) == finding(ROWS[1], None) == ""

    @pytest.mark.parametrize(
        ("words", "value", "shown"),
        [
            (number, 0, "0"), (number, 9.18234, "9.182"), (number, 0.0254812, "0.0255"), (number, 232359.4, "232,359"),
            (number, 7.535e-5, "7.54e-05"),
            (percent, 1, "100.00%"), (percent, 0.99999, "> 99.99%"), (percent, 0.9, "90.00%"),
            (change, 1, "0.00%"), (change, 0.99999, "0.00%"), (change, 1.0153, "+1.53%"), (change, 0.9915, "−0.85%"),
        ],
    )  # fmt: skip
    def test_figures_have_the_digits_that_count(self, words, value, shown):
        assert words(value) == shown

    def test_the_method_says_how_much_was_read_and_what_was_not_scored(self):
        told = text_words(ROWS[0].quality, "bundled passages")
        assert "2,044 scored tokens of “bundled passages” (its first 2,048 of 3,925)" in told
        assert "4 windows of at most 512 tokens that do not overlap; the first token of each is not scored" in told
        assert "95% intervals" in told
        assert "all of it" in text_words(replace(ROWS[0].quality, text_tokens=2048), "x")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("org/model", "model-bf16-nf4-dq-int8"),
        (f"https://huggingface.co/{DEMO_ID}", "demo-bf16-nf4-dq-int8"),
        ("org/" + "m" * 90, None),
    ],
)
def test_the_name_of_a_file_is_one_that_any_disk_takes(model, name):
    made = file_name(replace(COMPARISON, question=replace(COMPARISON.question, model=model)))
    assert made == name or (name is None and len(made) <= 120)
