"""An answer that another thread gets, word by word, for the one that reads: in pieces that a browser can draw.

For engines that give text. What transformers generates here comes as tokens (`streamer.py`).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import QuantSpaceError
from .job import Ending, Stats, Text

FRAME = 0.1  # seconds between two pieces, which may be empty: a sign of life


@dataclass
class WordStream:
    """Words on their way, and what is known of them so far.

    Attributes:
        device: where they come from, as people know it.
        stop: set by the reader, once nobody wants more.
        error: what ended them, raised by the reader.
        tokens: of the answer; counted as words come, unless who sends them knows better.
    """

    device: str
    stop: threading.Event = field(default_factory=threading.Event)
    error: QuantSpaceError | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    ended: Ending = "eos"

    def __post_init__(self) -> None:
        self._words: queue.Queue[str | None] = queue.Queue()
        self._started = time.monotonic()
        self._first_at = self._last_at = 0.0

    def put(self, word: str) -> None:
        """Called for each token's text by the thread that gets them."""
        self._last_at = time.monotonic()
        self._first_at = self._first_at or self._last_at
        self.tokens += 1
        self._words.put(word)

    def close(self) -> None:
        """Called when no word will come."""
        self._words.put(None)

    def events(self) -> Iterator[Text | Stats]:
        """Pieces as they come, and the statistics last. Closing the iterator tells the other thread to stop.

        Raises:
            QuantSpaceError: `error`.
        """
        try:
            for piece in self._frames():
                yield Text(piece, self.stats("running"))
            if self.error is not None:
                raise self.error
            yield self.stats(self.ended)
        finally:
            self.stop.set()

    def stats(self, ended: Ending) -> Stats:
        """What is known so far."""
        spent = self._last_at - self._first_at
        return Stats(
            prompt_tokens=self.prompt_tokens,
            new_tokens=self.tokens,
            first_token_s=self._first_at - self._started if self._first_at else None,
            tokens_per_s=(self.tokens - 1) / spent if self.tokens > 1 and spent > 0 else None,
            ended=ended,
            device=self.device,
        )

    def _frames(self) -> Iterator[str]:
        ended = False
        while not ended:
            pieces: list[str] = []
            deadline = time.monotonic() + FRAME
            while not ended and (left := deadline - time.monotonic()) > 0:
                try:
                    word = self._words.get(timeout=left)
                except queue.Empty:
                    break
                ended = word is None
                pieces.append(word or "")
            yield "".join(pieces)
