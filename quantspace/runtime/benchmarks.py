"""Benchmarks that people quote, through EleutherAI's lm-eval on the loaded model. The harness is an optional extra.

The harness brings tasks, prompts and metrics, and fetches their data from the Hub. Here is which of them are offered,
and how one is run where the model is.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, MeasurementFailed, OutOfMemory, QuantSpaceError, shorten
from ..estimation.here import installed
from ..settings import settings
from .hands import Work, start
from .job import Done, Event, Phase

if TYPE_CHECKING:
    from .loader import LoadedModel

INSTALL = "pip install lm-eval"
SECONDS_A_QUESTION = 2.0  # on a GPU; a cautious guess, of what is asked of ZeroGPU
MAX_QUESTIONS = 1000
REPORT_EVERY = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark of the harness.

    Attributes:
        task: the harness's name of it.
        metric: the figure that is quoted, with the filter that the harness names it by.
        about: one sentence for people.
        runs_code: whether it executes what the model writes.
    """

    task: str
    label: str
    metric: str
    about: str
    runs_code: bool = False


OFFERED = (
    Benchmark("mmlu", "MMLU", "acc,none", "Multiple choice in 57 subjects; the limit is per subject."),
    Benchmark("gsm8k", "GSM8K", "exact_match,strict-match", "Grade-school mathematics, worked out in words."),
    Benchmark("truthfulqa_mc2", "TruthfulQA", "acc,none", "Whether it repeats what people commonly get wrong."),
    Benchmark("humaneval", "HumanEval", "pass@1,create_test", "Python functions, run against their tests.", True),
)


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """What the harness found.

    Attributes:
        value: of `metric`, from 0 to 1.
        stderr: its standard error, as the harness gives it; `None` where it gives none.
        questions: how many were asked.
        harness: version of lm-eval.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    questions: int
    seconds: float
    harness: str


def missing() -> str:
    """What keeps benchmarks from being run here; empty when nothing does."""
    return "" if installed("lm_eval") else f"The harness is not installed here. To add it: {INSTALL}."


def offered() -> dict[str, Benchmark]:
    """Benchmarks by their task; without those that run a model's code where anybody may visit."""
    found = [benchmark for benchmark in OFFERED if not (benchmark.runs_code and settings().on_space)]
    own = [Benchmark(task, task, "", "A task of this machine's own.") for task in settings().benchmark_tasks.split()]
    return {benchmark.task: benchmark for benchmark in (*found, *own)}


@dataclass(frozen=True, slots=True)
class BenchmarkTask:
    """Run one benchmark on the loaded model. `Done` brings a `BenchmarkResult`.

    Attributes:
        limit: questions to ask, of each of its parts.
    """

    benchmark: Benchmark
    limit: int

    @classmethod
    def of(cls, task: object, limit: object) -> BenchmarkTask:
        """The task of what a form says.

        Raises:
            BadInput: it is not offered here, or not with this limit.
            MeasurementFailed: the harness is missing.
        """
        if problem := missing():
            raise MeasurementFailed("Benchmarks can't be run.", problem)
        benchmark = offered().get(str(task))
        if benchmark is None:
            raise BadInput(f"“{shorten(str(task), 40)}” is not offered here.", f"Pick one of {', '.join(offered())}.")
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 1 <= limit <= MAX_QUESTIONS:
            raise BadInput(f"“{shorten(str(limit), 40)}” is no number of questions.", f"Give 1 to {MAX_QUESTIONS:,}.")
        return cls(benchmark, int(limit))

    def seconds(self) -> float:
        return self.limit * SECONDS_A_QUESTION

    def run(self, loaded: LoadedModel, crew: list[Work]) -> Iterator[Event]:
        """Yields progress in questions, and the result last; closing the iterator stops before the next question.

        Raises:
            MeasurementFailed, OutOfMemory: with what the harness said.
        """
        watch = Watch()
        results: queue.Queue[BenchmarkResult | BaseException] = queue.Queue()
        crew.append(start(_in_thread, self, loaded, watch, results))
        try:
            while True:
                doing = "questions answered" if watch.total else "fetching its questions from the Hub"
                yield Phase(f"{self.benchmark.label}, {doing}", watch.done, watch.total)
                try:
                    result = results.get(timeout=REPORT_EVERY)
                except queue.Empty:
                    continue
                if isinstance(result, BaseException):
                    raise result
                yield Done(result)
                return
        finally:
            watch.cancelled.set()


class Cancelled(Exception):
    """Raised inside the harness once nobody waits for its result."""


@dataclass
class Watch:
    """Between the thread that answers and the one that reports: how far it is, and whether it is still wanted."""

    done: int = 0
    total: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)

    def step(self, count: int = 1) -> None:
        if self.cancelled.is_set():
            raise Cancelled
        self.done = min(self.done + count, self.total)


def _in_thread(
    task: BenchmarkTask, loaded: LoadedModel, watch: Watch, results: queue.Queue[BenchmarkResult | BaseException]
) -> None:
    from . import harness

    started = time.monotonic()
    try:
        value, stderr, questions, version = harness.run(task.benchmark, task.limit, loaded, watch)
        results.put(
            BenchmarkResult(
                task.benchmark.task,
                task.benchmark.metric,
                value,
                stderr,
                questions,
                time.monotonic() - started,
                version,
            )
        )
    except BaseException as error:  # a thread's seam: the reading side raises it
        results.put(_as_ours(error, task.benchmark))


def _as_ours(error: BaseException, benchmark: Benchmark) -> BaseException:
    if isinstance(error, QuantSpaceError | Cancelled):
        return error
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OutOfMemory(f"Memory ran out during {benchmark.label}.", "Load a smaller precision, and try again.")
    return MeasurementFailed(
        f"{benchmark.label} ended with {type(error).__name__}: {shorten(str(error), 200)}",
        "Its data come from the Hub: see whether it can be reached, and try again.",
    )


def own_tasks() -> dict[str, Any]:
    """Where the harness finds tasks of this machine's own, as its `TaskManager` is told."""
    folder = settings().benchmark_folder
    return {"include_path": folder} if folder else {}
