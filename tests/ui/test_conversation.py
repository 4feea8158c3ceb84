"""What actions make of a conversation, and what is exported of it."""

from __future__ import annotations

import json

import pytest

from quantspace.errors import BadInput
from quantspace.runtime.job import Job, Message, Sampling, Stats
from quantspace.ui.conversation import (
    answered,
    as_typed,
    before,
    draft_of,
    facts_of,
    images_of,
    messages_of,
    question,
    said,
    stopped,
    typed,
    with_text,
    without_question,
)
from quantspace.ui.conversation_events import Resort, _gone_back
from quantspace.ui.conversation_file import conversation_file

JOB = Job("tests/model", "abc", "/nowhere", "nf4", 0, 0, context=4096)
STATS = Stats(30, 12, 0.5, 40.0, "eos", device="CPU", reused_tokens=20, footprint_bytes=1_000_000)


def asks(text, *files):
    return question({"text": text, "files": list(files)})


def answer(text="Yes.", stats=STATS):
    return [answered(text, stats, JOB, Sampling(greedy=True))]


TALK = [*asks("One?"), *answer("1"), *asks("What is this?", "/tmp/a.png", "/tmp/b.png"), *answer("2")]


class TestMessages:
    def test_words_and_images_of_a_turn_go_together(self):
        assert messages_of(TALK, " Be brief. ") == [
            Message("system", "Be brief."),
            Message("user", "One?"),
            Message("assistant", "1"),
            Message("user", "What is this?", ("/tmp/a.png", "/tmp/b.png")),
            Message("assistant", "2"),
        ]

    def test_images_alone_are_a_question(self):
        assert messages_of(asks(" ", "/tmp/a.png"), "") == [Message("user", "", ("/tmp/a.png",))]

    def test_a_question_without_an_answer_stays_one_of_its_own(self):
        assert messages_of([*asks("One?"), *asks("Two?")], "") == [Message("user", "One?"), Message("user", "Two?")]

    def test_indentation_of_an_answer_is_kept(self):
        assert said(answer("    x = 1\n    y = 2")[0]["content"]) == "    x = 1\n    y = 2"

    def test_an_answer_without_words_says_nothing(self):
        assert said(stopped(asks("One?"))[-1]["content"]) == ""


class TestTyped:
    @pytest.mark.parametrize(
        "text",
        [
            "What is NF4?",
            "<b>a</b> & *c* `d` &amp; &#36;",
            "# no head\n\n- no list\n\n    x = $$y$$\r\n",
            "</div>\n\n<small class='qs-stats'>",
            "(no words)",
            "<div class='qs-typed'>&#60;</div>",
        ],
    )
    def test_what_is_shown_and_what_is_said_are_what_was_typed(self, text):
        shown = as_typed(text)
        inside = shown.removeprefix("<div class='qs-typed'>").removesuffix("</div>")
        assert not set(inside) & set("<>$\n\r")
        assert typed(shown) == text
        assert messages_of(asks(text), "") == [Message("user", text)]
        assert draft_of(asks(text))["text"] == text
        assert said(with_text(TALK, 0, text)[0]["content"]) == text
        talk = json.loads(conversation_file([*asks(text), *answer()], "", "json")["text"])
        assert talk["messages"][0]["content"] == text

    def test_an_answer_stays_markdown(self):
        assert answer("**Yes** & <b>no</b>")[0]["content"][0]["text"].startswith("**Yes** & <b>no</b>")


class TestActions:
    @pytest.mark.parametrize("index", [2, 3, 4, 5])
    def test_any_part_of_a_turn_stands_for_its_question(self, index):
        assert before(TALK, index) == TALK[:5]

    def test_a_question_goes_with_its_images_and_comes_back_with_them(self):
        assert without_question(TALK[:5]) == TALK[:2]
        assert draft_of(TALK[:5]) == {"text": "What is this?", "files": ["/tmp/a.png", "/tmp/b.png"]}

    def test_other_words_leave_the_images(self):
        changed = with_text(TALK, 4, "And now?")
        assert said(changed[4]["content"]) == "And now?"
        assert images_of(changed[2]["content"]) == ["/tmp/a.png"]
        assert changed[5] == TALK[5]

    def test_stopping_marks_what_streams_and_nothing_else(self):
        running = [*asks("One?"), *answer("Ye", Stats(30, 2, 0.5, None, "running"))]
        words = stopped(running)[-1]["content"][0]["text"]
        assert words.endswith("stopped</small>")
        assert said(stopped(running)[-1]["content"]) == "Ye"
        assert facts_of(stopped(running)[-1])["stats"]["ended"] == "stopped"
        assert stopped(TALK) == TALK
        assert stopped(stopped(running)) == stopped(running)

    def test_an_error_gives_back_what_was_typed(self):
        draft = {"text": "Two?", "files": ["/tmp/a.png"]}
        assert _gone_back([*TALK, *question(draft)], Resort(TALK, draft), "no")[::2] == (TALK, draft)

    def test_what_was_left_out_is_told_where_it_happened(self):
        cut = Stats(30, 12, 0.5, 40.0, "eos", dropped_turns=4)
        text = answer("Yes.", cut)[0]["content"][0]["text"]
        assert "The context of 4,096 tokens is full: the 4 oldest messages were left out" in text
        assert "left out" not in answer()[0]["content"][0]["text"]

    def test_facts_that_a_browser_spoiled_are_none(self):
        for log in ("{", "[1]", "null", None):
            assert facts_of({"metadata": {"log": log}}) == {}


class TestExport:
    def test_json_holds_what_was_said_and_what_it_took(self):
        file = conversation_file(TALK, "Be brief.", "json")
        assert (file["name"], file["type"]) == ("model-nf4-chat.json", "application/json")
        talk = json.loads(file["text"])
        assert talk["system"] == "Be brief."
        assert [turn["content"] for turn in talk["messages"]] == ["One?", "1", "What is this?", "2"]
        assert talk["messages"][2]["images"] == ["a.png", "b.png"]
        last = talk["messages"][3]
        assert (last["model"], last["revision"], last["precision"], last["context"]) == (
            "tests/model",
            "abc",
            "nf4",
            4096,
        )
        assert last["sampling"]["greedy"]
        assert last["stats"] | {"tokens_per_s": 40.0, "footprint_bytes": 1_000_000} == last["stats"]

    def test_markdown_reads_as_a_conversation(self):
        text = conversation_file(TALK, "", "markdown")["text"]
        assert text.index("## You\n\nOne?") < text.index("## tests/model\n\n1") < text.index("Image: a.png")
        assert "*nf4 · footprint 1.00 MB · 12 tokens · 40.0 tokens/s · greedy*" in text
        assert "<small" not in text

    def test_nothing_said_is_nothing_to_export(self):
        with pytest.raises(BadInput, match="nothing to export"):
            conversation_file([], "", "json")
