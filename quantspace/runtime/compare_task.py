"""What a worker is told for one precision of a comparison: answer the prompt, then measure quality, in one job.

One job, because on ZeroGPU a second one may find the model gone and load it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import QuantSpaceError
from .hands import Work
from .job import Done, Event, Failed, Loaded, Message, Phase, Sampling
from .quality.task import MeasureQuality

if TYPE_CHECKING:
    from .loader import LoadedModel

SECONDS_PER_TOKEN = 0.05


@dataclass(frozen=True, slots=True)
class AnswerAndMeasure:
    """Yields `Loaded`, the answer as a chat does, and `Done` with `Measured` last, or with `None`.

    An answer that fails is told by a `Failed` on the way, and quality is measured all the same.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    quality: MeasureQuality | None = None

    def seconds(self) -> float:
        return self.sampling.max_new_tokens * SECONDS_PER_TOKEN + (self.quality.seconds() if self.quality else 0)

    def run(self, loaded: LoadedModel, crew: list[Work]) -> Iterator[Event]:
        from .chat import answer
        from .quality.score import warm_up

        yield Loaded(loaded.readout)
        yield Phase("generate")
        try:
            warm_up(loaded)
            yield from answer(loaded, self.messages, self.sampling, crew)
        except QuantSpaceError as error:
            yield Failed(**error.as_data())
        loaded.prefix.drop()  # of the answer: what follows may need its memory
        if self.quality is None:
            yield Done(None)
        else:
            yield from self.quality.run(loaded, crew)
