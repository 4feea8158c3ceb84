"""A picture of a card, for where SVG is not shown: link previews, chats, slides.

By resvg (https://github.com/linebender/resvg, MIT or Apache-2.0), which `resvg-py` brings as one binary without
dependencies for Linux, macOS and Windows. It takes the fonts of `fonts/` and no others, so that a picture is the same
on every machine and a bare one needs none installed.
"""

from __future__ import annotations

from importlib.resources import as_file, files

from .lettering import FONTS


def png(svg: str) -> bytes:
    """The picture of an SVG in the size that it gives itself.

    Raises:
        ValueError: the text is no SVG.
    """
    import resvg_py  # late: links and badges need none of it

    with as_file(files("quantspace.share").joinpath("fonts")) as folder:
        return resvg_py.svg_to_bytes(
            svg_string=svg,
            skip_system_fonts=True,
            font_files=[str(folder / name) for name in FONTS],
            font_family="DejaVu Sans",
            sans_serif_family="DejaVu Sans",
        )
