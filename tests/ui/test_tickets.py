"""A page's runs: what was cancelled or gave way says no more, whatever comes late."""

from __future__ import annotations

from types import SimpleNamespace

import gradio as gr
import pytest

from quantspace.runtime import compare as comparing
from quantspace.runtime import session
from quantspace.runtime.job import Phase
from quantspace.ui import compare_view, load_view, tickets

PRESSED = SimpleNamespace(model="quantspace/demo", precision="bf16", revision="main", context="")
DEFAULTS = ("", "default", "", "", "", "default", "", "")


def test_a_run_counts_until_it_is_cancelled_or_another_begins():
    first = tickets.next_ticket("")
    assert tickets.fate(first) == ""
    second = tickets.next_ticket(first)
    assert (tickets.fate(first), tickets.fate(second)) == ("superseded", "")
    tickets.cancel(second)
    assert tickets.fate(second) == "cancelled"


def test_one_that_gave_way_is_not_cancelled_afterwards():
    first = tickets.next_ticket("")
    tickets.next_ticket(first)
    tickets.cancel(first)
    assert tickets.fate(first) == "superseded"


class TestLoad:
    @pytest.fixture
    def steps(self, monkeypatch):
        """A load that goes on for as long as it is asked, and whether it was closed."""
        closed = []

        def endless(*_):
            try:
                while True:
                    yield Phase("load", 1, 100)
            finally:
                closed.append(True)

        monkeypatch.setattr(session, "load_model", endless)
        return closed

    def begin(self, before=""):
        run = load_view.load_row(PRESSED, before, None, "", *DEFAULTS)
        ticket, progress, cancel, *_ = next(run)
        assert "Looking the model up" in progress
        assert cancel["visible"]
        return ticket, run

    def test_a_cancelled_one_has_the_last_word_and_ends(self, steps):
        ticket, run = self.begin()
        assert "Loading layers" in next(run)[1]
        load_view._cancelled(ticket)
        _, progress, cancel, *rest = next(run)
        assert (progress, cancel["visible"]) == ("", False)
        assert rest == [gr.skip()] * 5
        assert list(run) == []
        assert steps == [True]

    def test_one_that_gave_way_leaves_the_page_to_the_next(self, steps):
        first, old = self.begin()
        next(old)
        _, new = self.begin(first)
        assert list(old) == [[gr.skip()] * 8]
        assert "Loading layers" in next(new)[1]
        new.close()

    def test_a_cancel_of_before_does_not_reach_the_next(self, steps):
        first, _ = self.begin()
        load_view._cancelled(first)
        _, new = self.begin(first)
        assert "Loading layers" in next(new)[1]
        new.close()


class TestCompare:
    @pytest.fixture
    def asked(self):
        return ["quantspace/demo", None, "", ["bf16", "nf4"], "What is NF4?", "none", "", "none", 256, 4]

    def test_what_was_measured_until_it_was_cancelled_can_be_kept_and_says_so(self, asked):
        run = compare_view.run_comparison("", *asked)
        ticket = next(run)[0]
        for _, _, shown, *_ in run:
            if isinstance(shown, str) and "held" in shown:
                break
        progress, shown, again, cancel = compare_view.cancelled(ticket)
        assert (progress, again["visible"], cancel["visible"]) == ("", True, False)
        assert f'data-ticket="{ticket}"' in shown
        assert "Cancelled before it was over" in shown
        assert "at work" not in shown

        late = list(run)
        assert [update[2].replace(ticket, "") for update in late] == [shown.replace(ticket, "")]

        files = {name: compare_view.file_of_comparison([ticket, name]) for name in compare_view.FORMATS}
        assert {file["name"] for file in files.values()} == {
            f"demo-bf16-nf4-cancelled.{ending}" for ending in ("md", "json", "csv")
        }
        assert '"cancelled": true' in files["json"]["text"]
        assert "**Cancelled before it was over:**" in files["markdown"]["text"]

    def test_one_that_gave_way_leaves_the_page_to_the_next(self, asked):
        old = compare_view.run_comparison("", *asked)
        first = next(old)[0]
        next(old)
        new = compare_view.run_comparison(first, *asked)
        next(new)
        assert list(old) == [[gr.skip()] * 5]
        new.close()

    def test_what_is_over_is_not_cancelled_any_more(self):
        question = comparing.Question("quantspace/demo", ("bf16", "nf4"), "What?", None)
        whole = comparing.Comparison(question, (comparing.Row("bf16", "done"),), ended=1.0)
        assert whole.cut() is whole
