"""What crosses the GPU seam: a job on its way in, events on their way out. All of it pickles; nothing imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..errors import BadInput, shorten
from ..estimation.stored import StoredTensor
from ..settings import settings

ChatRole = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    role: ChatRole
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; `greedy` overrides temperature and top-p.

    Raises:
        BadInput: a value is out of its range.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    max_new_tokens: int = 256
    greedy: bool = False

    def __post_init__(self) -> None:
        _check("Temperature", self.temperature, 0, 100)
        _check("Top-p", self.top_p, 0, 1)
        _check("Max new tokens", self.max_new_tokens, 1, settings().max_new_tokens)


def _check(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadInput(f"{name} is “{shorten(str(value), 40)}”.", f"Give a number from {low:g} to {high:g}.")


@dataclass(frozen=True, slots=True)
class Job:
    """Everything a worker needs, so that it may be a new process each time.

    Attributes:
        folder: of the downloaded files, on the disk that parent and worker share.
        expected_footprint: what the estimate says `get_memory_footprint()` will print.
        expected_bytes: what the estimate says the weights will hold.
        loading_bytes: what loading takes besides, for the tensors in flight.
        messages: the conversation to answer; empty to load only.
    """

    model_id: str
    sha: str
    folder: str
    precision: str
    expected_footprint: int
    expected_bytes: int
    loading_bytes: int = 0
    messages: tuple[Message, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def key(self) -> tuple[str, str, str]:
        """Jobs with the same key are served by the same loaded model."""
        return (self.model_id, self.sha, self.precision)


@dataclass(frozen=True, slots=True)
class Phase:
    """Progress of something long. `total` is 0 where it isn't known."""

    name: Literal["resolve", "download", "wait", "load", "generate"]
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Readout:
    """What a loaded model really holds, read from its tensors.

    Attributes:
        footprint_bytes: as `model.get_memory_footprint()` returns it.
        held_bytes: storages of all parameters, buffers and quantization constants, each once.
        seconds: from the first byte read to a model that can answer; the download is not in it.
        chat_template: whether the tokenizer brings one; without it the model completes text.
    """

    model_id: str
    sha: str
    precision: str
    architecture: str
    device: str
    footprint_bytes: int
    held_bytes: int
    tensors: tuple[StoredTensor, ...]
    seconds: float
    chat_template: bool
    max_context: int | None


@dataclass(frozen=True, slots=True)
class Loaded:
    readout: Readout


@dataclass(frozen=True, slots=True)
class Stats:
    """Of one answer. `tokens_per_s` counts from the first token on; `None` when there is but one.

    Attributes:
        ended: `eos` (the model ended it), `length` (max new tokens), `stopped` (the reader did), or `running`.
        dropped_turns: oldest messages left out, because the conversation outgrew the context.
        device: where it ran, as PyTorch names it.
    """

    prompt_tokens: int
    new_tokens: int
    first_token_s: float | None
    tokens_per_s: float | None
    ended: Literal["running", "eos", "length", "stopped"]
    dropped_turns: int = 0
    device: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer, with the statistics so far: a stopped answer ends without a last word."""

    piece: str
    so_far: Stats


@dataclass(frozen=True, slots=True)
class Failed:
    """An error as data: exceptions do not cross the seam."""

    code: str
    message: str
    hint: str


Event = Phase | Loaded | Text | Stats | Failed
