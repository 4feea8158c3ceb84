"""One cell of the table of peaks, measured in a process of its own: load, fill, chat.

    python -m tests.bench.peak_cells '{"model": …, "folder": …, "precision": …, "contexts": […], "cap": …}'

Prints a line of JSON for each context, or one for a load that failed. `device` as the only argument prints
what is here to measure on. What is expected of it stands in `peak_report.py`.
"""

from __future__ import annotations

import functools
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from quantspace.errors import OutOfMemory, QuantSpaceError
from quantspace.estimation.meta.peak import LiveBytes
from quantspace.runtime.chat import answer
from quantspace.runtime.hands import Work
from quantspace.runtime.job import Job, Message, Sampling
from quantspace.runtime.loader import LoadedModel, load
from quantspace.runtime.memory import free_bytes
from quantspace.units import MIB

from .sparse_checkpoint import fill, prompt_of, words_tokenizer

NEW_TOKENS = 4
WARM_UP = 8  # tokens: on CPU the first pass of a 4-bit layer packs its weight anew, in place of the old one
Outcome = Literal["ran", "out of memory", "failed", "crashed", "skipped"]


@dataclass(frozen=True, slots=True)
class Device:
    """What is measured on. Bytes; `total_bytes` is what a process can have at most."""

    name: str
    cuda: bool
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What one cell held, in bytes; `None` where it was not got to, or where there is no such thing on CPU.

    Attributes:
        held: by weights, as the readout has it.
        load_peak: allocated at most while the weights were read.
        peak: allocated at most during the chat, weights included: `max_memory_allocated`; on CPU `held` and the
            most live bytes of tensors beside it.
        reserved: `max_memory_reserved` over load and chat.
        process: reserved, and what the process holds beside the allocator: context, kernels, libraries.
    """

    context: int
    outcome: Outcome
    held: int | None = None
    load_peak: int | None = None
    peak: int | None = None
    reserved: int | None = None
    process: int | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    load_seconds: float | None = None
    chat_seconds: float | None = None
    error: str = ""


class _Loading:
    """What is known once the weights are there; `others` bytes of the GPU were in use before."""

    def __init__(self, seconds: float, others: int) -> None:
        self.seconds, self.others = seconds, others
        self.peak = torch.cuda.max_memory_allocated()  # 0 without CUDA
        self.reserved = torch.cuda.max_memory_reserved()


def this_device() -> Device:
    """The GPU that the app would use, or this machine's memory."""
    if not torch.cuda.is_available():
        return Device("CPU", False, free_bytes())
    return Device(torch.cuda.get_device_name(), True, torch.cuda.mem_get_info()[1])


def measure(spec: dict[str, Any], tell: Callable[[Measured], None]) -> None:
    """Load a variant once and chat with it at each context, telling each as it is known."""
    contexts, others = spec["contexts"], _used_bytes()  # by others: this process has no context yet
    if torch.cuda.is_available():
        _cap(spec.get("cap"))
    began = time.monotonic()
    try:
        *_, loaded = load(Job(spec["model"], "local", spec["folder"], spec["precision"], 0, 0), [])
    except QuantSpaceError as error:
        for context in contexts:
            tell(Measured(context, _outcome(error), error=error.message))
        return
    loaded.tokenizer = words_tokenizer()  # some model types insist on a tokenizer class of their own
    fill(loaded.model)
    loading = _Loading(round(time.monotonic() - began, 2), others)
    watch = _on_cuda if torch.cuda.is_available() else _on_cpu
    for context in contexts:
        tell(watch(loaded, context, loading))


def _on_cuda(loaded: LoadedModel, context: int, loading: _Loading) -> Measured:
    torch.cuda.reset_peak_memory_stats()
    outcome, facts = _chat(loaded, context)
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    beside = total - free - loading.others - torch.cuda.memory_reserved()
    reserved = max(loading.reserved, torch.cuda.max_memory_reserved())
    found = Measured(
        context, outcome, loaded.readout.held_bytes, loading.peak, torch.cuda.max_memory_allocated(), reserved,
        reserved + beside, load_seconds=loading.seconds, **facts,
    )  # fmt: skip
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return found


def _on_cpu(loaded: LoadedModel, context: int, loading: _Loading) -> Measured:
    """The same, with a watch on tensors for what CUDA's allocator counts by itself."""
    model, generate = loaded.model, loaded.model.generate
    _chat(loaded, WARM_UP)
    peaks: list[int] = []
    watched = _allocated if loaded.readout.precision == "int8" else _live
    model.generate = functools.partial(watched, model, generate, peaks)
    try:
        outcome, facts = _chat(loaded, context)
    finally:
        del model.generate
    held = loaded.readout.held_bytes
    peak = held + max(peaks) if peaks else None
    return Measured(context, outcome, held, peak=peak, load_seconds=loading.seconds, **facts)


def _live(model: PreTrainedModel, generate: Callable[..., Any], peaks: list[int], **arguments: Any) -> Any:
    """By a watch on operations, outside of inference mode, which hides what is made inside of them.

    Values narrower than keys have no fused attention on CPU, as they have on a GPU: its inside stays hidden.
    """
    text = model.config.get_text_config()
    hidden = getattr(text, "v_head_dim", None) != getattr(text, "qk_head_dim", None)
    with torch.inference_mode(hidden), torch.no_grad(), LiveBytes(model) as live:
        result = generate(**arguments)
    peaks.append(max(live.timeline))
    return result


def _allocated(_: PreTrainedModel, generate: Callable[..., Any], peaks: list[int], **arguments: Any) -> Any:
    """By PyTorch's own account, which sees inside of operations: int8's hold most there."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = generate(**arguments)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    peaks.append(peak)
    return result


def _chat(loaded: LoadedModel, context: int) -> tuple[Outcome, dict[str, Any]]:
    began = time.monotonic()
    crew: list[Work] = []
    try:
        *_, stats = answer(loaded, [Message("user", prompt_of(context))], Sampling(max_new_tokens=NEW_TOKENS), crew)
    except QuantSpaceError as error:
        return _outcome(error), {"error": error.message}
    finally:
        for work in crew:
            work.join()
    seconds = round(time.monotonic() - began, 2)
    return "ran", {"prompt_tokens": stats.prompt_tokens, "new_tokens": stats.new_tokens, "chat_seconds": seconds}


def _outcome(error: QuantSpaceError) -> Outcome:
    return "out of memory" if isinstance(error, OutOfMemory) else "failed"


def _used_bytes() -> int:
    """Bytes in use on the first GPU, as its driver says, without a context of this process; 0 where it can't say."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    try:
        answered = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
        return int(answered.stdout) * MIB
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0


def _cap(limit: int | None) -> None:
    """Let the allocator have at most `limit` bytes, as a smaller card would."""
    if limit is not None:
        torch.cuda.set_per_process_memory_fraction(min(limit / torch.cuda.mem_get_info()[1], 1.0))


def _print(found: Measured) -> None:
    print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "device":
        print(json.dumps(asdict(this_device())))
    else:
        measure(json.loads(sys.argv[1]), _print)
