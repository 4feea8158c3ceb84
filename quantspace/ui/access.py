"""Models that not everybody may see: signing in, a token for this page alone, and what happens to it.

A token lives in the page's field, comes with each request, and goes to the Hub. It is an argument on its way
there, never a part of anything that is kept, shown or sent elsewhere.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.data_classes import GradioRootModel
from huggingface_hub import constants, get_token
from pydantic import ConfigDict, model_serializer

from ..errors import (
    ModelGated,
    ModelNotFound,
    ModelUnavailable,
    NotSignedIn,
    QuantSpaceError,
    RateLimited,
    TermsNotAccepted,
    TokenLacksScope,
    TokenMalformed,
    TokenRefused,
)
from ..hub.client import whoami
from ..settings import settings
from .render import render

# Gradio leaves out the attribute of password fields.
_NO_AUTOFILL = """
const field = (tries) => {
  const found = document.querySelector('#token input');
  if (found) Object.entries({autocomplete: 'off', spellcheck: 'false'}).forEach(([k, v]) => found.setAttribute(k, v));
  else if (tries) requestAnimationFrame(() => field(tries - 1));
};
field(120);
"""
_TOKEN_HELPS = frozenset(
    refusal.code
    for refusal in (
        ModelGated,
        ModelUnavailable,
        NotSignedIn,
        RateLimited,
        TermsNotAccepted,
        TokenLacksScope,
        TokenMalformed,
        TokenRefused,
    )
)
FORGET = "() => ''"
# Opens the section and puts the cursor into the field, which Gradio makes when the section opens first.
OPEN_ON_CLICK = """() => document.addEventListener('click', (event) => {
  if (!event.target.closest('[data-opens=access]')) return;
  const section = document.getElementById('access');
  const focus = (tries) => {
    const field = section.querySelector('#token input');
    if (field && field.offsetParent) return field.focus();
    if (tries) requestAnimationFrame(() => focus(tries - 1));
  };
  if (!section.querySelector('#token input')?.offsetParent) section.querySelector('button').click();
  section.scrollIntoView({block: 'nearest'});
  focus(120);
})"""


class _Unkept(GradioRootModel):
    """A text of which nothing is left where Gradio writes values down.

    It keeps the last value of each input beside a session, for links to its state (`SessionState.config_values`
    of gradio/state_holder.py), as the model that the component names writes it.
    """

    model_config = ConfigDict(hide_input_in_errors=True)
    root: str | None = None

    @model_serializer
    def _nothing(self) -> str:
        return ""

    def __repr__(self) -> str:
        return "…"


def keep_nothing(box: gr.Textbox) -> gr.Textbox:
    """Let the value of a text box reach its handler and stay nowhere on the server."""
    box.data_model = _Unkept  # of this box: to a class of its own Gradio would add a stub file in this folder
    box.preprocess = lambda payload: (payload.root or "").strip() if payload is not None else ""
    return box


@dataclass
class Access:
    """The section's components."""

    token: gr.Textbox
    use: gr.Button
    forget: gr.Button
    account: gr.HTML


def build_access() -> Access:
    """Lay the closed section out in the current Blocks."""
    with gr.Accordion("Gated or private model?", open=False, elem_id="access"):
        gr.HTML(
            render("access", login=offers_login(), machine=machine_is_logged_in(), endpoint=constants.ENDPOINT),
            apply_default_css=False,
            js_on_load=_NO_AUTOFILL,
        )
        if offers_login():
            gr.LoginButton(elem_id="login", size="sm")
        with gr.Row(elem_id="access-row"):
            token = keep_nothing(
                gr.Textbox(
                    label="Read token",
                    type="password",
                    placeholder="hf_…",
                    lines=1,
                    max_lines=1,
                    min_width=200,
                    scale=4,
                    elem_id="token",
                )
            )
            use = gr.Button("Use it", min_width=90, scale=1, elem_id="use-token")
            forget = gr.Button("Forget it", min_width=90, scale=1, elem_id="forget-token")
        account = gr.HTML(apply_default_css=False, elem_id="account")
    return Access(token, use, forget, account)


def wire_access(access: Access) -> None:
    """Say whose token it is once it is used, until another is typed."""
    quietly: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    used = [access.token.submit, access.use.click]
    gr.on(used, account_html, access.token, access.account, trigger_mode="always_last", **quietly)
    gr.on([access.token.input, access.forget.click], None, None, access.account, js=FORGET, **quietly)


def account_html(typed: str) -> str:
    """The name of the account behind a typed token, or why it is not known."""
    if not typed:
        return ""
    try:
        return render("account", name=whoami(typed), refusal="")
    except QuantSpaceError as error:
        return render("account", name="", refusal=error.message)


def token_of(typed: str, oauth: gr.OAuthToken | None) -> str | None:
    """The token that a question goes with: the typed one, else that of signing in, else none."""
    return typed.strip() or (oauth.token if oauth is not None else None)


def offers_login() -> bool:
    """Whether this is a Space with `hf_oauth: true`, where people can sign in with Hugging Face."""
    return bool(os.environ.get("OAUTH_CLIENT_ID"))


def machine_is_logged_in() -> bool:
    """Whether questions without a token go with this machine's own login; never on a Space."""
    return not settings().on_space and get_token() is not None


def may_need_token(code: str, hint: str) -> bool:
    """Whether another token may help against a refusal.

    What is not there may be private, as its hint then says; a revision or a file that is not there is not.
    """
    return code in _TOKEN_HELPS or (code == ModelNotFound.code and "token" in hint)
