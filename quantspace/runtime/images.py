"""Images that a conversation brings: opened once they are known to be images, and no larger than is read."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, ImageOps

from ..errors import BadInput, shorten
from ..settings import settings

DECODED_PIXELS = 100_000_000  # a file of a few kB may unfold to gigabytes
_BROKEN = (OSError, SyntaxError, ValueError)  # what Pillow raises for broken files


def opened(path: str) -> Image.Image:
    """The image in a file: upright, in RGB on white, made smaller where it has more pixels than are read.

    Raises:
        BadInput: the file is gone, is no image, or is too large.
    """
    name = shorten(Path(path).name, 60)
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        raise BadInput(f"The image {name} is not there any more.", "Attach it again.") from error
    if size > settings().max_image_bytes:
        limit = settings().max_image_bytes
        raise BadInput(f"The image {name} has {size:,} bytes; at most {limit:,} are read.", "Attach a smaller one.")
    try:
        return _read(path, name)
    except Image.DecompressionBombError as error:  # far beyond our own limit
        raise _too_many(name, "more") from error
    except _BROKEN as error:
        raise BadInput(
            f"{name} can't be read as an image: it is broken, or not an image.", "Attach a PNG, JPEG or WebP file."
        ) from error


def _read(path: str, name: str) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours
        with Image.open(path) as image:
            width, height = image.size
            if width * height > DECODED_PIXELS:
                raise _too_many(name, f"{width:,} × {height:,}")
            upright = ImageOps.exif_transpose(image)
            return _bounded(_on_white(upright))


def _too_many(name: str, pixels: str) -> BadInput:
    return BadInput(
        f"The image {name} has {pixels} pixels; at most {DECODED_PIXELS:,} are opened.", "Attach a smaller one."
    )


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")


def _bounded(image: Image.Image) -> Image.Image:
    pixels = image.width * image.height
    if pixels <= settings().max_image_pixels:
        return image
    scale = (settings().max_image_pixels / pixels) ** 0.5
    return image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))), Image.Resampling.LANCZOS)
