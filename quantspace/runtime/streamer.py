"""Tokens on their way from the thread that generates to the one that reads: kept as they come, decoded by the reader.

So the generating thread does nothing for a token but keep it, and decoding is paid once a frame.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer


class TokenStream(BaseStreamer):
    """The tokens of one answer, with when the first and the last came."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.first_at = self.last_at = 0.0
        self.ended = threading.Event()
        self._news = threading.Event()
        self._prompt_came = False

    def put(self, value: torch.Tensor) -> None:
        """Called by `generate`: with the prompt, then with each token."""
        if not self._prompt_came:
            self._prompt_came = True
            return
        self.last_at = time.monotonic()
        self.ids.extend(value.reshape(-1).tolist())
        if not self.first_at:
            self.first_at = self.last_at
            self._news.set()

    def end(self) -> None:
        """Called by `generate` after the last token; what is done with the answer then is still to come."""

    def close(self) -> None:
        """Let the reader go: all is done."""
        self.ended.set()
        self._news.set()

    def wait(self, seconds: float) -> None:
        """Until the first token, the end, or `seconds` from now."""
        self._news.wait(seconds)
        if not self.ended.is_set():
            self._news.clear()


class Words:
    """Text of a growing list of tokens, in pieces that never have to be taken back."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._shown = ""

    def more(self, ids: list[int], last: bool = False) -> str:
        """What `ids` say beyond the pieces before. A sign that is not whole yet waits, unless it is the `last`."""
        # Tidied text (`clean_up_tokenization_spaces`) would be other tokens when it is read again in the next turn.
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if not last:
            text = text.rstrip("\ufffd")
        if not text.startswith(self._shown):
            return ""
        piece = text[len(self._shown) :]
        self._shown = text
        return piece
