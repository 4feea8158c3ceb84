"""What is going on, in words and a bar: bytes while downloading, tensors while loading."""

from __future__ import annotations

import time

from ..hub.download import seconds_left
from ..runtime.job import Phase
from ..units import gb
from .render import render


class ProgressView:
    """Turns the phases of one load into HTML; keeps when each began, to say how long it still takes."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.phase = ""
        self.started = time.monotonic()

    def html(self, phase: Phase) -> str:
        if phase.name != self.phase:
            self.phase, self.started = phase.name, time.monotonic()
        words = getattr(self, f"_{phase.name}", self._task)(phase)
        share = 100 * phase.done / phase.total if phase.total else None
        return render("progress", title=self.title, words=words, share=share)

    def _resolve(self, _: Phase) -> str:
        return "Looking the model up…"

    def _download(self, phase: Phase) -> str:
        left = seconds_left(phase.done, phase.total, self.started)
        words = f"Downloading: {gb(phase.done)} of {gb(phase.total)}"
        return words + (f", about {left:.0f} s left" if left and left >= 1 else "")

    def _wait(self, _: Phase) -> str:
        return "The machine is busy with another load or answer; waiting for a turn…"

    def _load(self, phase: Phase) -> str:
        if not phase.total:
            return "Building the model…"
        return f"Loading layers: {phase.done:,} of {phase.total:,} tensors"

    def _generate(self, _: Phase) -> str:
        return "Reading the prompt…"

    def _task(self, phase: Phase) -> str:
        return f"{phase.name}: {phase.done:,} of {phase.total:,}" if phase.total else f"{phase.name}…"
