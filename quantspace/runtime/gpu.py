"""The one GPU seam: the same call on ZeroGPU, a dedicated GPU, a local GPU and a CPU.

Only this module imports `spaces`. Off ZeroGPU its decorator returns the function unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import shorten
from ..quiet import quiet_libraries
from ..settings import settings
from .job import Event, Failed, Job

try:
    import spaces
except ImportError:  # a local install may do without
    spaces = None

LOAD_BYTES_PER_SECOND = 1_000_000_000  # a cautious rate of reading, quantizing and moving weights
SECONDS_PER_TOKEN = 0.05
LARGE_BYTES = 42 * 2**30  # what fits the smaller of ZeroGPU's two sizes with room for a cache


def seconds_for(job: Job) -> int:
    """GPU seconds to ask for: a cold load and the whole answer, within what visitors are given."""
    load = job.expected_bytes / LOAD_BYTES_PER_SECOND
    work = job.sampling.max_new_tokens * SECONDS_PER_TOKEN if job.messages else 0
    if job.task is not None:
        work = job.task.seconds()
    return int(min(max(load + work, settings().gpu_seconds_min), settings().gpu_seconds_max))


def on_zero_gpu() -> bool:
    """Whether this process is the parent of ZeroGPU workers; `torch.cuda` lies there."""
    return spaces is not None and spaces.config.Config.zero_gpu


def _serve_large(job: Job) -> Iterator[Event]:
    from .worker import serve

    yield from serve(job)


def _serve_xlarge(job: Job) -> Iterator[Event]:
    from .worker import serve

    yield from serve(job)


# Two functions, since decorating one twice returns the first wrapper (spaces/zero/decorator.py).
if spaces is not None:
    _serve_large = spaces.GPU(duration=seconds_for, size="large")(_serve_large)
    _serve_xlarge = spaces.GPU(duration=seconds_for, size="xlarge")(_serve_xlarge)


def warm_up() -> None:
    """Import what a load needs, so that neither the first visitor nor a forked worker waits for it."""
    quiet_libraries()
    from . import worker  # noqa: F401


def run(job: Job) -> Iterator[Event]:
    """Serve a job where the GPU is. Closing the iterator stops it at its next event.

    What ZeroGPU itself refuses (no GPU free, a visitor's quota spent) or breaks comes as `Failed` too.
    """
    serve = _serve_xlarge if job.expected_bytes > LARGE_BYTES else _serve_large
    try:
        yield from serve(job)
    except Exception as error:  # `spaces` raises Gradio's errors, which end a stream without a word of ours
        if not on_zero_gpu():
            raise
        words = shorten(str(getattr(error, "message", error)), 300)
        yield Failed("gpu_unavailable", f"ZeroGPU did not serve this: {words}", "Wait a minute and try again.")
