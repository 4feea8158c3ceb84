"""A link fills the form, and the form's own query says the same again."""

import pytest

from quantspace import estimate
from quantspace.hub.demo import DEMO_ID
from quantspace.share.finetuning import Finetuning
from quantspace.share.links import DEFAULT, State, to_query
from quantspace.ui.address import opened, query_of, tuned_by

FORM = ("org/name", "l4", "32k", 2, 4, "fp8", 64, 1)


def test_a_link_fills_every_field_and_the_form_asks_for_the_same_link():
    query = "model=org/name&gpu=l4&count=4&context=32768&batch=2&kv=fp8&ram=64&images=1"
    link = opened(query)
    assert link.values() == ["org/name", "l4", "32768", 2, 4, "fp8", 64.0, 1]
    assert link.ignored == ()
    assert query_of(*link.values()) == query


def test_what_people_type_is_written_as_what_it_means():
    assert query_of(*FORM) == "model=org/name&gpu=l4&count=4&context=32768&batch=2&kv=fp8&ram=64&images=1"
    assert query_of("org/name", "NVIDIA T4", " 8,192 ", 1.0, 1, "auto", 32, 0) == "model=org/name&gpu=t4&context=8192"


@pytest.mark.parametrize(
    ("typed", "model"),
    [
        (" https://huggingface.co/org/name ", "org/name"),
        ("https://huggingface.co/org/name/tree/v2", "org/name@v2"),
        ("org/name@refs/pr/1", "org/name@refs/pr/1"),
        ("org/name:q4_k_m", "org/name:Q4_K_M"),
        ("org/name@v2:q4_k_m", "org/name@v2:Q4_K_M"),
        ("hf.co/org/name/resolve/main/m-Q8_0.gguf", "https://huggingface.co/org/name/blob/main/m-Q8_0.gguf"),
    ],
)
def test_a_model_is_named_shortly_and_means_the_same_when_read_again(typed, model):
    query = query_of(typed, *FORM[1:])
    assert opened(query).state.model == model
    assert query_of(*opened(query).values()) == query


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, ""), (0, "../x"), (1, "voodoo2"), (2, "-1"), (2, None), (3, None), (4, 9), (5, "int3"), (6, -1)],
)
def test_what_is_no_value_has_no_link(place, value):
    given = [*FORM]
    given[place] = value
    assert query_of(*given) is None


def test_no_link_holds_a_token():
    token = "hf_" + "a1B2" * 9
    for typed in (token, f"org/name@{token}", f"https://user:{token}@huggingface.co/org/name?token={token}"):
        assert token not in (query_of(typed, *FORM[1:]) or "")


def test_a_revision_of_its_own_is_put_into_the_one_field_that_there_is():
    assert opened("model=org/name&revision=v2").values()[0] == "org/name@v2"
    assert opened("model=org/name@v1&revision=v2").values()[0] == "org/name@v1"  # as parse_reference has it
    assert opened("model=org/name:Q8_0&rev=v2").values()[0] == "org/name@v2:Q8_0"


def test_a_row_and_a_tab_are_asked_for():
    link = opened("?model=org/name&precision=NF4_DQ&tab=what-fits")
    assert link.asked_row == ("org/name", "nf4-dq")
    assert link.tab == "ranking"
    assert opened("").tab == "run"


def test_what_is_not_understood_is_named():
    assert opened("model=org/name&colour=red&tab=kitchen&gpu=voodoo2").ignored == ("colour", "gpu", "tab")


def test_without_a_model_the_page_opens_with_one_that_can_be_estimated():
    state = opened("gpu=l4").state
    assert state.gpu == "l4"
    assert estimate(**state.arguments()).rows


def test_a_context_in_the_link_counts_even_where_it_is_the_usual_one(monkeypatch):
    monkeypatch.setattr("quantspace.ui.address.hub_reachable", lambda: False)
    assert opened("").values()[:1] + opened("").values()[2:3] == [DEMO_ID, "2048"]
    assert opened("context=8192").values()[2] == "8192"
    assert opened("ctx=4k").values()[2] == "4096"
    assert opened("context=many").values()[2] == "2048"


def test_the_controls_of_fine_tuning_are_filled_and_ask_for_the_same_link():
    query = "model=org/name&gpu=l4&context=8192&method=lora&base=fp16&rank=8&sequence=512&step_batch=2&checkpointing=0"
    link = opened(query)
    assert link.controls() == ["lora", "fp16", 8, "all-linear", 512, 2, "paged-adamw-8bit", False]
    assert query_of(*link.values(), tuned=tuned_by(link.controls())) == query
    assert opened("").controls()[:2] == ["qlora", "nf4-dq"]


@pytest.mark.parametrize(("place", "value"), [(0, None), (2, None), (2, 0), (4, ""), (6, "lion")])
def test_what_is_half_typed_of_fine_tuning_is_no_state(place, value):
    controls = opened("").controls()
    assert tuned_by(controls) == Finetuning()
    controls[place] = value
    assert tuned_by(controls) is None


def test_a_base_of_the_method_before_becomes_the_methods_own():
    assert tuned_by(["lora", "nf4-dq", *opened("").controls()[2:]]) == Finetuning("lora")


def test_the_query_of_an_opened_page_is_complete():
    state = opened("").state
    assert state.model and query_of(*opened("").values()) == to_query(State(model=state.model, context=state.context))
    assert DEFAULT.model == ""
