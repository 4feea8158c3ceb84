"""How the page looks: Gradio's own theme in our colours, and the styles of our components."""

from __future__ import annotations

from importlib.resources import files

import gradio as gr

THEME = gr.themes.Soft(
    primary_hue="indigo",
    secondary_hue="amber",
    neutral_hue="slate",
    font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
)
CSS = (files("quantspace.ui") / "page.css").read_text(encoding="utf-8")
HEAD = '<meta name="description" content="Will this model fit my GPU, at which precision? Exact bytes, then proof.">'
