"""What a worker is told in order to measure quality, and what comes back. It pickles; torch is imported where it runs.

The reference goes first and leaves its outputs in a file; each other precision reads them. Whoever made the file's
name removes the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..hands import Work
from ..job import Event
from .figures import TokenScores

if TYPE_CHECKING:
    from ..loader import LoadedModel

MAX_STORED_BYTES = 10**9  # of the reference's outputs
WINDOW = 512  # tokens
MAX_TOKENS = 16_384
SECONDS_PER_TOKEN = 0.004  # a cautious rate of reading and scoring on a GPU


@dataclass(frozen=True, slots=True)
class StoredLogits:
    """The reference's outputs in a file: a row a scored token.

    Attributes:
        dtype: as torch names it, such as `bfloat16`.
    """

    path: str
    tokens: int
    vocabulary: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured, and where the outputs are for others to be compared with, if they were to be kept."""

    scores: TokenScores
    stored: StoredLogits | None = None


@dataclass(frozen=True, slots=True)
class MeasureQuality:
    """Read a text with the loaded model and score each of its tokens; ends with `Done(Measured)`.

    Attributes:
        tokens: of the text that are read, at most.
        keep_at: where to write the outputs, if this model is the reference; empty: they are not kept.
        reference: what to compare with.
    """

    text: str
    tokens: int
    keep_at: str = ""
    reference: StoredLogits | None = None

    def seconds(self) -> float:
        return 5 + self.tokens * SECONDS_PER_TOKEN

    def run(self, loaded: LoadedModel, crew: list[Work]) -> Iterator[Event]:
        from .score import measure

        yield from measure(loaded, self)
