"""What an author pastes to embed the calculator, and where which of it works.

Pure text; the page around it is `templates/embed_builder.html`.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from ..share.links import badge_url, card_url
from .embed_asked import Asked

# A frame is not as tall as its content by itself: the page in it says how tall it is, and this listens. Only the
# frame that a message came from is changed, so that no other page in the author's can.
HOST_SCRIPT = """\
<script>addEventListener("message", ({ source, data }) => {
  for (const frame of document.querySelectorAll("iframe.quantspace")) if (frame.contentWindow === source && data?.type === "quantspace:height") frame.style.height = `${Number(data.height)}px`;
});</script>"""  # noqa: E501 (three lines to paste)
FIRST_HEIGHT = 720  # pixels, until the page has said its own


@dataclass(frozen=True)
class Snippet:
    """Something to copy: an id, what it is, the text, and the address on this server of the image in it."""

    id: str
    title: str
    text: str
    image: str = ""


@dataclass(frozen=True)
class Place:
    """Somewhere to put it: what works there, how, and who says so."""

    name: str
    works: str
    how: str
    source: str


PLACES = (
    Place(
        "A page of your own", "frame, images", "Paste the frame with its script into the page’s HTML.",
        "https://developer.mozilla.org/docs/Web/HTML/Reference/Elements/iframe",
    ),
    Place(
        "Jekyll, GitHub Pages", "frame, images",
        "Paste the frame into the Markdown as it is, with an empty line before and after: kramdown passes HTML on.",
        "https://kramdown.gettalong.org/syntax.html#html-blocks",
    ),
    Place(
        "Hugo", "frame after a setting, images",
        "HTML in Markdown is left out by default. Set markup.goldmark.renderer.unsafe = true in the site’s "
        "configuration, or put the frame into a shortcode of your own.",
        "https://gohugo.io/configuration/markup/#rendererunsafe",
    ),
    Place(
        "Notion", "frame by its address, images",
        "Type /embed and paste the address alone. The script is not there, so drag the block to its height.",
        "https://www.notion.com/help/embed-and-connect-other-apps",
    ),
    Place(
        "Medium", "picture with a link",
        "Takes no HTML, and embeds only what Embedly knows. Upload the card as a picture and link it to the page.",
        "https://help.medium.com/hc/en-us/articles/214981378-Embeds",
    ),
    Place(
        "README on GitHub", "images",
        "Frames and scripts are filtered out. Paste the Markdown of the badge or of the card.",
        "https://github.github.com/gfm/#disallowed-raw-html-extension-",
    ),
    Place(
        "Model card on Hugging Face", "images",
        "A card is a README in Markdown; nothing promises that it keeps frames. Paste the Markdown of the badge.",
        "https://huggingface.co/docs/hub/model-cards",
    ),
)  # fmt: skip


def snippets(asked: Asked, gpu: str) -> tuple[Snippet, ...]:
    """The texts to copy.

    Args:
        gpu: the card's name, as people read it.
    """
    return (
        Snippet("frame", "Frame", frame(asked, gpu)),
        Snippet("badge", "Markdown with the badge", *_markdown(asked, gpu, badge_url("", asked.state))),
        Snippet("card", "Markdown with the card", *_markdown(asked, gpu, _card(asked))),
        Snippet("address", "Address alone", asked.embed),
    )


def frame(asked: Asked, gpu: str) -> str:
    """The `<iframe>` and the script that gives it its height."""
    title = escape(f"Which precisions of {asked.state.model} fit {gpu}")
    return (
        f'<iframe class="quantspace" src="{escape(asked.embed)}" title="{title}" loading="lazy"\n'
        f'  style="width:100%;height:{FIRST_HEIGHT}px;border:0;border-radius:12px"></iframe>\n{HOST_SCRIPT}'
    )


def _card(asked: Asked) -> str:
    return card_url("", asked.state, "png", "dark" if asked.options.theme == "dark" else "light")


def _markdown(asked: Asked, gpu: str, image: str) -> tuple[str, str]:
    """An image that leads to the full page, and its address. A bracket would end an address (CommonMark, 6.3)."""
    words = " ".join(f"Does {asked.state.model} fit {gpu}?".split())
    for sign in "\\[]<>*_`|":
        words = words.replace(sign, f"\\{sign}")
    address, page = (url.replace("(", "%28").replace(")", "%29") for url in (asked.base + image, asked.page))
    return f"[![{words}]({address})]({page})", image
