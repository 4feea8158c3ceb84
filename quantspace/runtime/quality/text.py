"""The text that quality is measured on: the one that comes with the app, or a visitor's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files

from ...errors import BadInput
from ...hub.demo import DEMO_ID

MIN_CHARACTERS = 400  # about 100 tokens: fewer say nothing
MAX_CHARACTERS = 200_000


@dataclass(frozen=True, slots=True)
class EvaluationText:
    """A text and the name under which figures on it are told.

    Raises:
        BadInput: it is too short to measure anything on, or too long to be read.
    """

    name: str
    content: str

    def __post_init__(self) -> None:
        size = len(self.content.strip())
        if size < MIN_CHARACTERS:
            raise BadInput(
                f"The text has {size:,} characters: too few to measure quality on.",
                f"Give at least {MIN_CHARACTERS}, better some thousand; or take the bundled text.",
            )
        if size > MAX_CHARACTERS:
            raise BadInput(f"The text has {size:,} characters; at most {MAX_CHARACTERS:,} are read.", "Shorten it.")

    @property
    def digest(self) -> str:
        """SHA-256 of its UTF-8 bytes, in hexadecimal."""
        return sha256(self.content.encode()).hexdigest()


def bundled_text(model_id: str = "") -> EvaluationText:
    """Short passages of many kinds, written for this app; for the demo model, which knows one subject, its lessons."""
    return _bundled("demo" if model_id == DEMO_ID else "passages")


def own_text(text: str) -> EvaluationText:
    """A visitor's own text.

    Raises:
        BadInput: it is too short or too long.
    """
    return EvaluationText("own text", text.strip())


_NAMES = {"passages": "bundled passages", "demo": "the demo model's lessons"}


@lru_cache(maxsize=len(_NAMES))
def _bundled(name: str) -> EvaluationText:
    file = files("quantspace") / "data" / "quality" / f"{name}.txt"
    return EvaluationText(_NAMES[name], file.read_text(encoding="utf-8"))
