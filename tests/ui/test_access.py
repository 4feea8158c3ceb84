"""Refusals with their next step, and a token that is used and never kept."""

import asyncio
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import pytest
from gradio.state_holder import SessionState
from huggingface_hub import constants

from quantspace import errors
from quantspace.errors import QuantSpaceError
from quantspace.estimation.builder import inventory_for
from quantspace.hub.reference import parse_reference
from quantspace.runtime.job import Failed
from quantspace.ui.access import build_access, machine_is_logged_in, may_need_token, token_of
from quantspace.ui.complaint import error_html, failed_html
from quantspace.ui.links import linked

TOKEN = "hf_" + "unitToken" * 4


def signed_in(token: str) -> gr.OAuthToken:
    return gr.OAuthToken(token=token, scope="gated-repos", expires_at=2**31)


class TestLinks:
    def test_a_page_of_the_hub_can_be_followed_without_the_end_of_its_sentence(self):
        html = linked(f"Accept them at {constants.ENDPOINT}/org/name, then try again.")
        assert f'href="{constants.ENDPOINT}/org/name"' in html
        assert html.endswith("</a>, then try again.")

    @pytest.mark.parametrize(
        "address",
        [
            "https://elsewhere.example/org/name",
            f"{constants.ENDPOINT}.elsewhere.example/org",
            "javascript:alert(1)",
            "http://user@elsewhere.example",
        ],
        ids=["another host", "the Hub's name before another", "script", "user"],
    )
    def test_other_addresses_stay_text(self, address):
        assert "<a" not in linked(f"See {address} for more.")

    def test_markup_in_a_sentence_or_an_address_is_text(self):
        html = linked(f'<b>{constants.ENDPOINT}/x"onmouseover="alert(1) <img>')
        assert "<b>" not in html and "<img>" not in html
        assert 'onmouseover="' not in html


class TestRefusals:
    def test_message_hint_and_code_are_shown(self):
        error = errors.NotSignedIn("It is gated.", f"Accept at {constants.ENDPOINT}/org/name.")
        html = error_html(error)
        assert "It is gated." in html and 'data-code="not_signed_in"' in html and 'data-opens="access"' in html

    def test_those_of_a_load_are_shown_alike(self):
        error = errors.TermsNotAccepted("Not accepted.", "Accept.")
        assert failed_html(Failed(**error.as_data())) == error_html(error)

    @pytest.mark.parametrize(
        ("error", "helps"),
        [
            (errors.NotSignedIn, True),
            (errors.TokenRefused, True),
            (errors.AwaitingReview, False),
            (errors.AccessRejected, False),
            (errors.HubTimedOut, False),
            (errors.BadModelId, False),
        ],
    )
    def test_a_token_is_asked_for_where_one_may_help(self, error: type[QuantSpaceError], helps):
        assert may_need_token(error.code, "") == helps

    @pytest.mark.parametrize(
        ("model", "helps"), [("nobody/nothing", True), ("asked/small@nope", False), ("asked/small:Q9_9", False)]
    )
    def test_what_is_not_there_may_be_private_but_for_a_revision_or_a_file(self, hub, model, helps):
        hub.add_repo("asked/small", {"small-Q4_0.gguf": b"GGUF"})
        reference = parse_reference(model)
        with pytest.raises(errors.ModelNotFound) as refusal:
            inventory_for(reference)
        assert may_need_token(refusal.value.code, refusal.value.hint) == helps


class TestToken:
    @pytest.mark.parametrize(
        ("typed", "oauth", "used"),
        [
            (f" {TOKEN}\n", None, TOKEN),
            (TOKEN, "hf_of_the_sign_in", TOKEN),
            ("", "hf_of_the_sign_in", "hf_of_the_sign_in"),
            ("  ", None, None),
        ],
    )
    def test_a_typed_one_goes_before_that_of_signing_in(self, typed, oauth, used):
        assert token_of(typed, signed_in(oauth) if oauth else None) == used

    def asked(self, sent: object) -> tuple[list, SessionState]:
        """What the handler is given for a value of the field, and what Gradio keeps of it."""
        with gr.Blocks() as page:
            access = build_access()
            access.use.click(lambda token: None, access.token, None)
        state = SessionState(page)
        handler = next(fn for fn in page.fns.values() if fn.inputs == [access.token])
        with ThreadPoolExecutor(1) as apart:  # a loop of its own, whatever runs in this thread
            return apart.submit(asyncio.run, page.preprocess_data(handler, [sent], state)).result(), state

    def test_it_reaches_the_handler_and_stays_nowhere_in_the_session(self):
        values, state = self.asked(TOKEN)
        assert values == [TOKEN]
        assert TOKEN not in json.dumps(state.config_values, default=str)

    def test_what_is_no_text_is_refused_without_being_repeated(self):
        with pytest.raises(Exception) as refusal:
            self.asked([TOKEN])
        assert TOKEN not in str(refusal.value)


def test_the_machines_own_login_is_told_of_but_for_a_space(monkeypatch):
    assert not machine_is_logged_in()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert machine_is_logged_in()
    monkeypatch.setenv("SPACE_ID", "org/space")
    assert not machine_is_logged_in()


def test_what_crosses_to_a_gpu_has_no_place_for_a_token():
    from quantspace.runtime.job import Job

    assert "token" not in Job.__dataclass_fields__
    assert b"token" not in pickle.dumps(Job("org/name", "sha", "/folder", "bf16", 1, 1)).lower()
