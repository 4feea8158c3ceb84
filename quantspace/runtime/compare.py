"""One prompt to several precisions of a model, one after another: answers, memory, speed, and the cost in quality.

The unquantized model goes first: it is the reference, and its outputs wait in a folder of their own on the disk until
the last precision has been compared with them. A precision that fails is a row with its sentence, and the others go
on. Nothing here imports torch: each precision is one job over the GPU seam.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from ..errors import BadInput, BadModelId, MeasurementFailed, ModelUnavailable, ModelUnsupported, QuantSpaceError
from ..hub.demo import DEMO_ID
from ..precision import LOADABLE, find_loadable
from ..settings import settings
from . import session
from .compare_task import AnswerAndMeasure
from .job import Done, Failed, Job, Loaded, LoadOptions, Message, Phase, Readout, Sampling, Stats, Text
from .kept import remember_quality
from .measured_speed import measurements
from .quality.figures import Quality, quality_of
from .quality.task import MAX_TOKENS, Measured, MeasureQuality, StoredLogits
from .quality.text import EvaluationText

ReferenceChoice = Literal["published", "fp32", "none"]
State = Literal["waiting", "running", "done", "failed", "cancelled"]
T = TypeVar("T")

MAX_PRECISIONS = 12
MIN_TEXT_TOKENS = 64
DEFAULT_TEXT_TOKENS = 2048
ABANDONED = 6 * 3600  # seconds after which a folder of outputs is nobody's: the process that made it was killed
_ROOT = "quantspace-compare"
_PUBLISHED = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be compared, and how.

    Attributes:
        precisions: ids of the rows wanted; the reference is added where it is not among them.
        text: that quality is measured on; `None`: answers alone.
        text_tokens: of it that are read, at most.
        reference: the unquantized model in the dtype it was published in, in float32, or none.

    Raises:
        BadInput: a value is out of its range, or there is nothing to compare.
    """

    model: str
    precisions: tuple[str, ...]
    prompt: str
    text: EvaluationText | None
    text_tokens: int = DEFAULT_TEXT_TOKENS
    reference: ReferenceChoice = "published"
    revision: str = "main"
    sampling: Sampling = field(default_factory=lambda: Sampling(greedy=True, max_new_tokens=128))
    options: LoadOptions = session.DEFAULT_OPTIONS

    def __post_init__(self) -> None:
        for precision in self.precisions:
            find_loadable(precision)
        if len(self.precisions) > MAX_PRECISIONS:
            raise BadInput(f"{len(self.precisions)} precisions are many.", f"Choose at most {MAX_PRECISIONS}.")
        if not self.prompt.strip():
            raise BadInput("There is no prompt.", "Write one that every precision is to answer.")
        if len(self.prompt) > settings().max_prompt_characters:
            limit = settings().max_prompt_characters
            raise BadInput(
                f"The prompt has {len(self.prompt):,} characters; at most {limit:,} are read.", "Shorten it."
            )
        if not MIN_TEXT_TOKENS <= self.text_tokens <= MAX_TOKENS:
            raise BadInput(
                f"Quality on {self.text_tokens:,} tokens is not measured.",
                f"Give a number from {MIN_TEXT_TOKENS} to {MAX_TOKENS:,}.",
            )


@dataclass(frozen=True, slots=True)
class Row:
    """One precision of a comparison, as far as it has come.

    Attributes:
        readout: without its list of tensors.
        answer: so far.
        error: what went wrong; what was measured before stays.
    """

    precision: str
    state: State = "waiting"
    reference: bool = False
    readout: Readout | None = None
    answer: str = ""
    stats: Stats | None = None
    quality: Quality | None = None
    error: Failed | None = None

    @property
    def label(self) -> str:
        """The precision's name to people."""
        return LOADABLE[self.precision].label if self.precision in LOADABLE else self.precision


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rows, the reference first; `ended` is when it was over, in seconds since 1970, 0 until then."""

    question: Question
    rows: tuple[Row, ...]
    sha: str = ""
    ended: float = 0.0
    cancelled: bool = False

    @property
    def reference(self) -> Row | None:
        """The row that the others are compared with."""
        return next((row for row in self.rows if row.reference), None)

    def cut(self) -> Comparison:
        """This one, cancelled now: what was measured stays, and rows that were not over say so."""
        if self.ended:
            return self
        over = ("done", "failed")
        rows = tuple(row if row.state in over else replace(row, state="cancelled") for row in self.rows)
        return replace(self, rows=rows, ended=time.time(), cancelled=True)


@dataclass(frozen=True, slots=True)
class Step:
    """A comparison as it stands, and what is going on; `phase` is `None` once it is over."""

    comparison: Comparison
    precision: str = ""
    phase: Phase | None = None


def compare(question: Question, token: str | None = None) -> Iterator[Step]:
    """Run a comparison; the last step holds all of it. Closing the iterator stops it and removes what is on the disk.

    Raises:
        QuantSpaceError: the model can't be had, so no row can.
    """
    reference = yield from _reference(question, token)
    rows = tuple(Row(precision, reference=precision == reference) for precision in _order(question, reference))
    if len(rows) < 2:
        raise BadInput("Fewer than two precisions are chosen, so there is nothing to compare.", "Choose at least two.")
    comparison, stored = Comparison(question, rows), None
    with _folder() as folder:
        for place, row in enumerate(rows):
            keep_at = str(folder / "reference.bin") if row.reference and question.text else ""
            task = AnswerAndMeasure(
                (Message("user", question.prompt.strip()),), question.sampling, _measuring(question, keep_at, stored)
            )
            for turn in _row(row, question, comparison.sha, task, token):
                comparison = _with(comparison, place, turn)
                stored = turn.stored or stored
                yield Step(comparison, row.precision, turn.phase)
    yield Step(replace(comparison, ended=time.time()))


def _measuring(question: Question, keep_at: str, stored: StoredLogits | None) -> MeasureQuality | None:
    if question.text is None:
        return None
    return MeasureQuality(question.text.content, question.text_tokens, keep_at, stored)


def _reference(question: Question, token: str | None) -> Generator[Step, None, str]:
    """The precision of the reference: for `published` what the checkpoint's config says; empty where there is none."""
    if question.reference != "published":
        return "fp32" if question.reference == "fp32" else ""
    nothing_yet = Comparison(question, ())
    yield Step(nothing_yet, "bf16", Phase("resolve"))
    preparing = session.prepare(question.model, "bf16", question.revision, token, question.options)
    try:
        job = yield from _told(preparing, lambda phase: Step(nothing_yet, "bf16", phase))
    except (ModelUnavailable, ModelUnsupported, BadModelId):
        raise
    except QuantSpaceError:  # such as a checkpoint that is stored quantized: there is no unquantized model of it
        return ""
    return _PUBLISHED.get(_stored_dtype(Path(job.folder)), "bf16")


def _stored_dtype(folder: Path) -> str:
    """The dtype that a checkpoint's config names, of the whole or of its text part; empty where it names none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    parts = [part for part in (config, config.get("text_config")) if isinstance(part, dict)]
    named = [part.get(key) for part in parts for key in ("dtype", "torch_dtype")]
    return next((name for name in named if isinstance(name, str)), "")


def _order(question: Question, reference: str) -> list[str]:
    """The reference, then what was asked for in the table's order, each once."""
    wanted = [precision for precision in LOADABLE if precision in question.precisions and precision != reference]
    return [reference, *wanted] if reference else wanted


@dataclass(frozen=True, slots=True)
class _Turn:
    """What came of an event of a row."""

    row: Row
    phase: Phase
    sha: str = ""
    stored: StoredLogits | None = None


def _row(row: Row, question: Question, sha: str, task: AnswerAndMeasure, token: str | None) -> Iterator[_Turn]:
    phase = Phase("resolve")
    row = replace(row, state="running")
    yield _Turn(row, phase)
    try:
        preparing = session.prepare(question.model, row.precision, sha or question.revision, token, question.options)
        job = yield from _told(preparing, lambda phase: _Turn(row, phase))
    except (ModelUnavailable, ModelUnsupported, BadModelId):
        raise
    except QuantSpaceError as error:
        yield _Turn(replace(row, state="failed", error=Failed(**error.as_data())), phase)
        return
    pinned = "" if job.model_id == DEMO_ID else job.sha  # the rows that follow are of the same commit
    for event in session.perform(job, task):
        stored = None
        if isinstance(event, Phase):
            phase = event
        elif isinstance(event, Loaded):
            row = replace(row, readout=replace(event.readout, tensors=(), placement=()))
        elif isinstance(event, Text):
            row = replace(row, answer=row.answer + event.piece, stats=event.so_far)
        elif isinstance(event, Stats):
            row = replace(row, stats=event)
            measurements.record(event.device, job.model_id, job.precision, event)
        elif isinstance(event, Failed):
            row = replace(row, error=event)
        elif isinstance(event, Done):
            row, stored = _measured(row, event.result)
            if row.quality is not None:
                remember_quality(job, row.quality)
        yield _Turn(row, phase, pinned, stored)
    yield _Turn(replace(row, state="failed" if row.error else "done"), phase, pinned)


def _told(preparing: Generator[Phase, None, Job], tell: Callable[[Phase], T]) -> Generator[T, None, Job]:
    """Prepare a job, and tell its phases as the caller does."""
    while True:
        try:
            yield tell(next(preparing))
        except StopIteration as end:
            return end.value


def _measured(row: Row, result: Measured | None) -> tuple[Row, StoredLogits | None]:
    if result is None:
        return row, None
    return replace(row, quality=quality_of(result.scores)), result.stored


def _with(comparison: Comparison, place: int, turn: _Turn) -> Comparison:
    rows = (*comparison.rows[:place], turn.row, *comparison.rows[place + 1 :])
    return replace(comparison, rows=rows, sha=turn.sha or comparison.sha)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for the reference's outputs, removed at the end; those that killed processes left go too.

    Raises:
        MeasurementFailed: the disk takes none.
    """
    root = Path(tempfile.gettempdir()) / _ROOT
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        for old in root.iterdir():
            with suppress(FileNotFoundError):  # another comparison ended just now
                if time.time() - old.stat().st_mtime > ABANDONED:
                    shutil.rmtree(old, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=root))
    except OSError as error:
        raise MeasurementFailed(
            f"There is no room for temporary files: {error.strerror or error}.", "Free some on this machine's disk."
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
