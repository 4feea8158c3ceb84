"""The badge: one line for a model card, `T4 · NF4 · fits, 11.1 GB free`. Readable on dark and light pages alike."""

from __future__ import annotations

from typing import Literal

from ..errors import QuantSpaceError, shorten
from ..estimation.calculator import Estimate
from ..estimation.verdict import Verdict
from .drawing import draw
from .lettering import FAMILY, clean, fitted, width
from .rows import gpu_words, needs_words, row_of, smallest_row, verdict_words

SIZE = 12  # of the letters, in pixels
HEIGHT = 24
PADDING = 9
MOST = 420  # pixels of either half
_TOLD = 600  # characters of an error, to who can't see it

# White has a contrast of at least 5 on each of them, and they stand out from GitHub's white and its #0d1117.
COLOURS: dict[Verdict | Literal["error"], str] = {
    "fits": "#15803d", "tight": "#b45309", "offload": "#6d28d9", "no": "#b91c1c", "error": "#475569",
}  # fmt: skip
_SUBJECT = "#57606a"
_SAID = {  # in few words, what an error is about; others say their own sentence
    "bad_model_id": "not a model id",
    "unknown_gpu": "unknown GPU",
    "model_not_found": "model not found",
    "model_gated": "gated model",
    "not_signed_in": "gated model",
    "model_unsupported": "model not supported",
    "hub_unreachable": "Hub unreachable",
}


def badge_svg(estimate: Estimate, precision: str = "") -> str:
    """The badge of the recommended row, or of the one asked for; of the smallest where nothing fits.

    Raises:
        BadInput: the model has no such row.
    """
    chosen = row_of(estimate, precision)
    row = chosen or smallest_row(estimate)
    verdict = row.verdict if chosen else "no"
    subject = f"{gpu_words(estimate.hardware)} · {row.precision.label}"
    said = verdict_words(row) if chosen else f"no: {needs_words(row)}"
    workload = estimate.workload
    title = f"{estimate.inventory.model_id} on {subject}, {workload.context:,} tokens × {workload.batch}: {said}"
    return _badge(subject, said, COLOURS[verdict], title)


def error_badge(error: QuantSpaceError) -> str:
    """The badge where there is no answer, with what is wrong."""
    return _badge("QuantSpace", _SAID.get(error.code, error.message), COLOURS["error"], shorten(str(error), _TOLD))


def _badge(subject: str, said: str, colour: str, title: str) -> str:
    parts = [fitted(clean(text), SIZE, MOST) for text in (subject, said)]
    left, right = (round(width(part, SIZE), 1) for part in parts)
    return draw(
        "badge",
        title=clean(title), subject=parts[0], said=parts[1], left=left, right=right, pad=PADDING, height=HEIGHT,
        size=SIZE, family=FAMILY, colour=colour, subject_colour=_SUBJECT,
    )  # fmt: skip
