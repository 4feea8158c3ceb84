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
).set(  # what is small or stands on colour in Gradio's light mode, at a contrast of 4.5
    block_title_text_color="*primary_700",
    block_label_text_color="*primary_700",
    block_info_text_color="*neutral_600",
    body_text_color_subdued="*neutral_600",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
)
CSS = (files("quantspace.ui") / "page.css").read_text(encoding="utf-8")
DESCRIPTION = "Will this model fit my GPU, at which precision? Exact bytes, then proof."
HEAD = f'<meta name="description" content="{DESCRIPTION}">'
