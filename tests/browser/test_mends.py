"""Fields that forgive: a click that selects, a list left without a choice, half a name; and what is said then."""

import pytest
from playwright.sync_api import Page, expect

from quantspace.hub.demo import demo_folder
from tests.browser.test_any_model import OPTIONS, expect_estimated, expect_refused, type_in
from tests.browser.test_flow import LOAD_MS, ROWS, choose, load
from tests.hub import LocalHub

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("app")]

TOKEN = "hf_" + "mendToken" * 4
CARDS = "#gpu [role=option]"
T4 = "NVIDIA T4 · 15.64 GB usable"


@pytest.fixture(scope="module")
def repos(hub: LocalHub) -> LocalHub:
    """Two models of similar names, and one that nobody may see without a token."""
    hub.add_repo("mends/small", folder=demo_folder(), pipeline_tag="text-generation")
    hub.add_repo("mends/small-too", folder=demo_folder(), pipeline_tag="text-generation")
    hub.add_repo("mends/private", folder=demo_folder(), private=True)
    hub.add_account(TOKEN, "ida", orgs=("mends",))
    return hub


@pytest.fixture
def opened(page: Page, online_app: str, repos: LocalHub) -> Page:
    page.goto(f"{online_app}/?model=quantspace/demo&context=1024")
    expect(page.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
    return page


@pytest.fixture
def offline(page: Page, offline_app: str) -> Page:
    page.goto(offline_app)
    expect(page.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
    return page


def focused(page: Page) -> str | None:
    return page.evaluate("document.activeElement.closest('#gpu, #model, #model-chips, #context')?.id")


class TestGpu:
    def filter_by(self, page: Page, text: str) -> None:
        page.locator("#gpu input").click()
        page.keyboard.type(text, delay=30)
        expect(page.locator(CARDS)).to_have_count(2)
        expect(page.locator(CARDS).first).to_contain_text(text)

    def test_a_click_and_a_few_letters_find_a_card_and_enter_takes_it(self, offline):
        self.filter_by(offline, "4060")
        offline.keyboard.press("Enter")
        expect(offline.locator(".qs-summary").first).to_contain_text("RTX 4060", timeout=LOAD_MS)

    def test_a_click_takes_a_card_of_a_filtered_list(self, offline):
        self.filter_by(offline, "4060")
        offline.locator(CARDS).last.click()
        expect(offline.locator(".qs-summary").first).to_contain_text("RTX 4060 Ti", timeout=LOAD_MS)

    def test_escape_brings_the_card_back(self, offline):
        self.filter_by(offline, "4060")
        offline.keyboard.press("Escape")
        expect(offline.locator("#gpu input")).to_have_value(T4)
        expect(offline.locator(CARDS)).to_have_count(0)

    @pytest.mark.parametrize("leave", ["key", "click"])
    def test_leaving_without_a_choice_brings_the_card_back(self, offline, leave):
        self.filter_by(offline, "4060")
        if leave == "key":
            offline.keyboard.press("Tab")
        else:
            offline.locator("h1").click()
        expect(offline.locator("#gpu input")).to_have_value(T4)
        offline.wait_for_timeout(500)
        expect(offline.locator("#complaint .qs-error")).to_have_count(0)
        expect(offline.locator(".qs-summary").first).to_contain_text("NVIDIA T4")

    def test_tab_closes_the_list_and_goes_on_to_what_comes_next(self, offline):
        offline.locator("#gpu input").focus()
        expect(offline.locator(CARDS).first).to_be_visible()
        offline.keyboard.press("Tab")
        assert focused(offline) == "model-chips"
        offline.wait_for_timeout(300)
        expect(offline.locator(CARDS)).to_have_count(0)


def test_a_click_into_the_model_field_selects_and_a_second_one_places_the_caret(offline):
    field = offline.locator("#model input")
    field.click()
    assert field.evaluate("input => input.value.slice(input.selectionStart, input.selectionEnd)") == "quantspace/demo"
    field.click()
    assert field.evaluate("input => input.selectionStart === input.selectionEnd")


@pytest.mark.parametrize("field", ["#model input", "#context input", "#gpu .wrap:has(> .wrap-inner)", "#token input"])
def test_whose_turn_it_is_among_the_fields_can_be_seen(browser, offline_app, field):
    page = browser.new_page(color_scheme="light")
    page.goto(f"{offline_app}/?__theme=light")
    expect(page.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
    page.locator("#access button").first.click()
    entered = page.locator(field if field.endswith("input") else f"{field} input").first
    entered.focus()
    shown = page.locator(field).first.evaluate("element => getComputedStyle(element).outline")
    page.close()
    assert "2px" in shown and "solid" in shown


class TestHalfAName:
    def left_half(self, page: Page) -> None:
        type_in(page, "mends/sma")
        expect(page.locator(OPTIONS)).to_have_count(2, timeout=LOAD_MS)
        page.keyboard.press("Tab")

    def test_leaving_it_asks_for_nothing(self, opened):
        self.left_half(opened)
        opened.keyboard.press("Tab")  # over the GPU
        opened.wait_for_timeout(1000)
        expect(opened.locator("#complaint .qs-error")).to_have_count(0)
        expect(opened.locator("#model input")).to_have_value("mends/sma")
        expect_estimated(opened, "quantspace/demo")

    def test_other_questions_of_the_form_go_on_about_the_model_before(self, opened):
        self.left_half(opened)
        opened.locator("#batch input").fill("2")
        expect(opened.locator(".qs-summary").first).to_contain_text("1,024 tokens × 2", timeout=LOAD_MS)
        expect_estimated(opened, "quantspace/demo")

    @pytest.mark.parametrize("how", ["Enter", "Estimate"])
    def test_who_insists_asks_for_it(self, opened, how):
        self.left_half(opened)
        if how == "Enter":
            opened.locator("#model input").press("Enter")
        else:
            opened.locator("#estimate").click()
        expect_refused(opened, "model_not_found")

    def test_a_whole_name_is_asked_for_when_the_field_is_left_before_suggestions_come(self, opened):
        type_in(opened, "mends/small")
        opened.keyboard.press("Tab")
        expect_estimated(opened, "mends/small")

    def test_a_name_that_nothing_suggests_is_asked_for(self, opened):
        type_in(opened, "mends/zzz")
        opened.keyboard.press("Tab")
        expect_refused(opened, "model_not_found")


class TestWhatIsLoaded:
    def test_its_row_says_so_and_goes_on_saying_so(self, opened):
        row = opened.locator("[data-row='nf4-dq']")
        load(opened, "nf4-dq")
        expect(row.locator(".qs-loaded")).to_have_text("loaded")
        expect(row.get_by_role("button", name="Load again quantspace/demo at NF4 + double quant")).to_be_visible()
        opened.locator("#batch input").fill("2")
        expect(opened.locator(".qs-summary").first).to_contain_text("× 2", timeout=LOAD_MS)
        expect(row.locator(".qs-loaded")).to_have_count(1)
        load(opened, "bf16")
        expect(opened.locator(".qs-loaded")).to_have_count(1)
        expect(opened.locator("[data-row='bf16'] .qs-load")).to_have_text("Load again")
        choose(opened, "mends/small")
        expect_estimated(opened, "mends/small")
        expect(opened.locator(".qs-loaded")).to_have_count(0)

    def test_where_nothing_can_be_there_is_no_place_for_it_and_the_table_says_why(self, offline):
        expect(offline.locator("#chat")).to_be_visible()
        choose(offline, "nvidia/MiniMax-M3-NVFP4")
        expect_estimated(offline, "nvidia/MiniMax-M3-NVFP4")
        expect(offline.locator("ul.qs-note")).to_contain_text("is stored quantized already (modelopt)")
        expect(offline.locator("#chat")).to_be_hidden()
        expect(offline.locator("#readout")).to_be_hidden()


def test_the_page_says_whose_token_is_used_until_another_is_typed(opened):
    choose(opened, "mends/private")
    expect_refused(opened, "model_not_found")
    opened.locator("#complaint [data-opens=access]").click()
    expect(opened.locator("#token input")).to_be_focused(timeout=LOAD_MS)
    opened.wait_for_timeout(300)  # as long as it takes to open
    opened.keyboard.insert_text(TOKEN)
    opened.keyboard.press("Enter")
    expect(opened.locator("#account")).to_contain_text("This token is ida’s.", timeout=LOAD_MS)
    opened.keyboard.type("x")
    expect(opened.locator("#account .qs-account")).to_have_count(0, timeout=LOAD_MS)
    opened.keyboard.press("Enter")
    expect(opened.locator("#account")).to_contain_text("The Hub refuses this token", timeout=LOAD_MS)


def test_no_token_is_advised_where_none_helps(opened):
    choose(opened, "mends/small@nope")
    expect_refused(opened, "model_not_found")
    expect(opened.locator("#complaint")).to_contain_text("has no revision")
    expect(opened.locator("#complaint [data-opens=access]")).to_have_count(0)


def test_a_million_tokens_may_be_spelled_as_people_say_it(opened):
    opened.locator("#context input").fill("1M")
    opened.locator("#context input").press("Enter")
    expect(opened.locator(".qs-summary").first).to_contain_text("1,048,576 tokens × 1", timeout=LOAD_MS)
