"""The model field with its type-ahead: recent ones, bundled ones at once, and what the Hub finds as one types.

The list and its keys are `model_field.js`; what is typed stays what is asked, whatever is suggested.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib.resources import files
from typing import Any

import gradio as gr

from ..hub.catalogue import bundled_models
from ..hub.demo import DEMO_ID
from ..hub.search import bundled_matches, search_models
from .render import render

BUNDLED_SHOWN = 6
FOUND_SHOWN = 8
LEAST_LETTERS = 2  # before the Hub is asked
MOST_LETTERS = 200
_SCRIPT = (files("quantspace.ui") / "model_field.js").read_text(encoding="utf-8")
# Before another field asks: the model that is meant, first of the values, where half a name was left in its own field.
SETTLED_MODEL = """(model, ...others) => {
  const { draft, settled } = document.querySelector('#model input').dataset;
  return [draft !== undefined && draft === model ? settled : model, ...others];
}"""


def build_model_field() -> gr.Textbox:
    """The field in the current Blocks; its `.submit` fires when a model is settled on, by key, click or blur."""
    with gr.Column(scale=3, min_width=260, elem_id="model-field"):
        field = gr.Textbox(
            DEMO_ID,
            label="Model",
            info="An id on the Hub, or the link of its page",
            lines=1,
            max_lines=1,
            html_attributes=gr.InputHTMLAttributes(
                autocomplete="off", autocapitalize="off", autocorrect="off", spellcheck=False, enterkeyhint="go"
            ),
            elem_id="model",
        )
        gr.HTML(
            render("suggestions"),
            apply_default_css=False,
            js_on_load=_SCRIPT,
            server_functions=[known, found],
            elem_id="suggestions",
        )
    return field


def known(text: object) -> list[dict[str, Any]]:
    """Bundled models for what was typed so far, all of them for nothing: `[{"id", "bundled"}]`."""
    words = _typed(text).strip()
    matches = bundled_matches(words, BUNDLED_SHOWN) if words else [DEMO_ID, *bundled_models()]
    return [{"id": model_id, "bundled": True} for model_id in matches]


def found(given: object) -> list[dict[str, Any]]:
    """What the Hub finds for `[text, token]`; nothing where it can't be reached, or too little was typed."""
    text, token = given if isinstance(given, list) and len(given) == 2 else ("", "")
    words = _typed(text).strip()
    if len(words) < LEAST_LETTERS:
        return []
    asked_with = token if isinstance(token, str) and token.strip() else None
    return [asdict(model) for model in search_models(words, FOUND_SHOWN, asked_with)]


def _typed(text: object) -> str:
    return text[:MOST_LETTERS] if isinstance(text, str) else ""
