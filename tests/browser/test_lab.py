"""The Lab in a browser: run, watch, stop, and read what came of it."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_flow import LOAD_MS, ROWS

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("app")]

RUN_MS = 240_000  # on a machine that is busy with other tests


@pytest.fixture
def lab(page: Page, offline_app) -> Page:
    page.goto(offline_app)
    expect(page.locator(ROWS).first).to_be_visible(timeout=LOAD_MS)  # the address has chosen its tab by then
    page.get_by_role("tab", name="Lab").click()
    expect(page.locator("#lab-dynamic-run")).to_be_visible(timeout=LOAD_MS)
    return page


def test_dynamic_int8_shows_the_bytes_of_the_files(lab):
    for label in ("Linear-only transformer", "The demo chat model"):
        lab.get_by_label(label).uncheck()
    lab.locator("#lab-dynamic-run").click()
    answer = lab.locator("#lab-dynamic")
    expect(answer).to_contain_text("What this shows", timeout=RUN_MS)
    expect(answer).to_contain_text("27,541 B")
    expect(answer).to_contain_text("11,685 B")
    expect(lab.locator("#lab-dynamic-run")).to_be_enabled()
    expect(lab.locator("#lab-dynamic-cancel")).to_be_hidden()


def test_pruning_shows_bytes_and_a_curve(lab):
    for share in ("10%", "20%", "50%", "70%"):
        lab.get_by_label(share, exact=True).uncheck()
    lab.locator("#lab-pruning-run").click()
    answer = lab.locator("#lab-pruning")
    expect(answer).to_contain_text("What this shows", timeout=RUN_MS)
    expect(answer).to_contain_text("saves 0 B")
    expect(answer).to_contain_text("1,441,792 B")
    expect(answer.locator(".lab-plot polyline")).to_have_count(2)
    expect(answer.locator(".lab-plot b")).to_have_count(6)  # two lines: nothing pruned, 30 % and 90 %


# From inside the page: before the run that is cancelled has noticed.
_AGAIN_AT_ONCE = """() => new Promise((done) => {
  const button = (name) => document.querySelector(`button#lab-low-bits-${name}, #lab-low-bits-${name} button`);
  button('cancel').click();
  const waiting = setInterval(() => {
    if (button('run').disabled) return;
    clearInterval(waiting);
    button('run').click();
    done();
  }, 5);
})"""


def test_training_is_drawn_as_it_goes_and_can_be_stopped_and_begun_again(lab):
    run, cancel = lab.locator("#lab-low-bits-run"), lab.locator("#lab-low-bits-cancel")
    run.click()
    expect(run).to_be_disabled()
    expect(lab.locator("#lab-low-bits .lab-plot polyline")).to_have_count(1, timeout=RUN_MS)
    expect(lab.locator("#lab-low-bits-progress")).to_contain_text(
        re.compile(r"Training with rounded weights, step: \d+")
    )
    lab.evaluate(_AGAIN_AT_ONCE)
    expect(lab.locator("#lab-low-bits")).to_contain_text("So far")  # what was found stays
    at_work = re.compile("Measuring the model as it is|Training with rounded weights")  # the first may be over soon
    expect(lab.locator("#lab-low-bits-progress")).to_contain_text(at_work, timeout=RUN_MS)
    cancel.click()
    expect(run).to_be_enabled()


def test_the_second_waits_for_its_turn_and_can_be_taken_back(lab):
    lab.locator("#lab-low-bits-run").click()
    expect(lab.locator("#lab-low-bits-progress")).to_contain_text(re.compile("Starting|Measuring|Training"))
    lab.locator("#lab-pruning-run").click()
    waiting = lab.locator("#lab-pruning-progress")
    expect(waiting).to_contain_text("Waiting for a turn")
    lab.locator("#lab-pruning-cancel").click()
    expect(waiting.locator(".qs-progress")).to_have_count(0)
    lab.locator("#lab-low-bits-cancel").click()
    expect(lab.locator("#lab-low-bits-run")).to_be_enabled()
    lab.locator("#lab-dynamic-run").click()  # it has the turn now
    expect(lab.locator("#lab-dynamic table").first).to_be_visible(timeout=RUN_MS)


def test_nothing_chosen_gets_a_sentence(lab):
    for label in ("LSTM(10, 20, 2) + Linear(20, 5)", "Linear-only transformer", "The demo chat model"):
        lab.get_by_label(label).uncheck()
    lab.locator("#lab-dynamic-run").click()
    expect(lab.locator("#lab-dynamic-progress .qs-error")).to_contain_text("No model is chosen. Tick at least one.")
    expect(lab.locator("#lab-dynamic-run")).to_be_enabled()


def test_the_code_is_what_runs(lab):
    lab.locator(".lab-code > summary").first.click()
    expect(lab.locator(".lab-code code").first).to_contain_text("quantize_dynamic(model.eval()")


@pytest.mark.parametrize("width", [360, 1280])
def test_no_part_is_wider_than_the_screen(lab, width):
    lab.set_viewport_size({"width": width, "height": 900})
    assert lab.evaluate("document.documentElement.scrollWidth") <= width
