"""What crosses the GPU seam: a job on its way in, events on their way out. All of it pickles; nothing imports torch."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..errors import BadInput, shorten
from ..estimation.stored import StoredTensor
from ..settings import settings
from .hands import Work

if TYPE_CHECKING:
    from .loader import LoadedModel

Key = tuple[Hashable, ...]
Ending = Literal["running", "eos", "length", "stopped"]
ChatRole = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `images` are paths of files on the disk that parent and worker share."""

    role: ChatRole
    content: str
    images: tuple[str, ...] = ()


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
class LoadOptions:
    """How a variant is loaded, beside its precision. What is left empty is chosen for the card and the model.

    Attributes:
        compute_dtype: `float32`, `bfloat16` or `float16`: of the computation and of what is not quantized.
        double_quant: of 4-bit weights: whether their scales are quantized again; `None` as the precision says.
        skip: names of modules that are not quantized, as transformers' `llm_int8_skip_modules` takes them.
        attention: `eager`, `sdpa` or `flash_attention_2`.
        kv_dtype: of the KV cache, as the form's field names it.
        device_map: where modules go, as pairs of a module's name and a device; empty: all on one device, or as
            `max_memory` allows.
        max_memory: bytes that each device may hold, as pairs; not empty means `device_map="auto"`.
    """

    compute_dtype: str = ""
    double_quant: bool | None = None
    skip: tuple[str, ...] = ()
    attention: str = ""
    kv_dtype: str = ""
    device_map: tuple[tuple[str, str], ...] = ()
    max_memory: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class GgufSource:
    """A GGUF file to load, in place of a folder in the transformers layout.

    Attributes:
        paths: of its parts in the job's folder, in their order.
        engine: `llama.cpp`, or `transformers`, which unpacks it.
        gpu_layers: how many layers llama.cpp puts on the GPU; −1 for all.
    """

    paths: tuple[str, ...]
    engine: Literal["llama.cpp", "transformers"]
    gpu_layers: int = -1

    @property
    def path(self) -> str:
        """The first part, which an engine is told to load."""
        return self.paths[0]


class Task(Protocol):
    """Work on a loaded model other than a chat; it pickles, and imports torch only when it runs."""

    def seconds(self) -> float:
        """GPU seconds that it may take, the load aside."""

    def run(self, loaded: LoadedModel, crew: list[Work]) -> Iterator[Event]:
        """Yields `Phase`s, and `Done` with what came of it last. What it starts beside goes into `crew`."""


@dataclass(frozen=True, slots=True)
class Job:
    """Everything a worker needs, so that it may be a new process each time.

    Attributes:
        folder: of the downloaded files, on the disk that parent and worker share.
        expected_footprint: what the estimate says `get_memory_footprint()` will print.
        expected_bytes: what the estimate says the weights will hold.
        loading_bytes: what loading takes besides, for the tensors in flight.
        expected_devices: of `expected_bytes`, what each device will hold; empty where all is on one.
        messages: the conversation to answer; empty to load only.
        task: what to do with the loaded model instead of a chat.
        kept: folder of the quantized copy on disk to load from; empty: quantize the original.
        gguf: the file to load, where the precision is one.
        context: tokens of a conversation that the estimate counted; 0 for as many as the model was made for.
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
    options: LoadOptions = field(default_factory=LoadOptions)
    task: Task | None = None
    kept: str = ""
    expected_devices: tuple[tuple[str, int], ...] = ()
    context: int = 0
    gguf: GgufSource | None = None

    @property
    def key(self) -> Key:
        """Jobs with the same key are served by the same loaded model."""
        context = self.context if self.gguf is not None else 0  # llama.cpp allocates the whole cache with the model
        return (self.model_id, self.sha, self.precision, self.options, self.gguf, context)


@dataclass(frozen=True, slots=True)
class Phase:
    """Progress of something long. `total` is 0 where it isn't known.

    Attributes:
        name: `resolve`, `download`, `wait`, `load` (in tensors), `generate`, or what a task says of itself.
    """

    name: str
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
        images: whether it reads images too.
        devices: bytes held by each device, the disk included; they sum to `held_bytes`.
        placement: modules and the device of each, in the model's order; empty where all is on one.
        options: what the load was told, defaults that differ from the row's own filled in.
        peak_bytes: most that was held at once while loading; `None` where it was not measured.
        expected_peak_bytes: what the estimate says of that.
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
    images: bool = False
    devices: tuple[tuple[str, int], ...] = ()
    placement: tuple[tuple[str, str], ...] = ()
    options: LoadOptions = field(default_factory=LoadOptions)
    peak_bytes: int | None = None
    expected_peak_bytes: int = 0


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
        reused_tokens: of the prompt, that were not computed again, since the turn before had read them.
        completion: whether the text was continued, since there is no chat template to answer by.
        footprint_bytes: of the model that answered, as its readout has it; 0 where it runs elsewhere.
    """

    prompt_tokens: int
    new_tokens: int
    first_token_s: float | None
    tokens_per_s: float | None
    ended: Ending
    dropped_turns: int = 0
    device: str = ""
    reused_tokens: int = 0
    completion: bool = False
    footprint_bytes: int = 0


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


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a task. It pickles."""

    result: Any


Event = Phase | Loaded | Text | Stats | Done | Failed
