"""The readout: what was promised beside what is held, and the dtype of every layer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..estimation.stored import LayerRow, StoredTensor, layer_table
from ..precision import label_of
from ..runtime.job import Job, LoadOptions, Readout
from .render import render

_MAX_LISTED = 4000  # tensors shown behind the layers; past that a browser suffers
_NUMBERED = re.compile(r"^(?P<stack>.*\.)(?P<number>\d+)$")


@dataclass(frozen=True)
class Comparison:
    """Estimated and measured bytes of one thing."""

    name: str
    about: str
    estimated: int
    measured: int

    @property
    def difference(self) -> int:
        return self.measured - self.estimated


@dataclass(frozen=True)
class Holder:
    """One device, and what it holds of a model.

    Attributes:
        estimated: bytes that it was to hold; `None` where no split was promised.
        share: of all bytes, in percent.
        modules: names, a run of numbered blocks as one: `model.layers.0–11`.
    """

    device: str
    estimated: int | None
    measured: int
    share: float
    modules: tuple[str, ...]


def compare(job: Job, readout: Readout) -> list[Comparison]:
    """Lay the estimate of this very variant, made before it was loaded, beside its readout."""
    return [
        Comparison("Footprint", "as get_memory_footprint() prints it", job.expected_footprint, readout.footprint_bytes),
        Comparison("Bytes held", "quantization constants included", job.expected_bytes, readout.held_bytes),
    ]


def readout_html(job: Job, readout: Readout, revision: str = "main") -> str:
    """The readout of a model that was asked for at `revision`."""
    layers = layer_table(readout.tensors)
    return render(
        "readout",
        readout=readout,
        revision=revision,
        label=label_of(readout.precision),
        comparisons=compare(job, readout),
        holders=holders(job, readout),
        options=options_in_words(readout.options),
        dtypes=_dtypes(layers),
        layers=layers,
        totals=_totals(layers),
        kept=bool(job.kept),
        listed=len(readout.tensors) <= _MAX_LISTED,
        shape=_shape,
    )


def holders(job: Job, readout: Readout) -> list[Holder]:
    """What each device holds, where there are several."""
    if len(readout.devices) < 2:
        return []
    promised = dict(job.expected_devices)
    return [
        Holder(
            device,
            promised.get(device, 0) if promised else None,
            held,
            100 * held / max(readout.held_bytes, 1),
            in_runs([name for name, at in readout.placement if at == device]),
        )
        for device, held in readout.devices
    ]


def in_runs(names: list[str]) -> tuple[str, ...]:
    """`layers.0`, `layers.1`, `norm` → `layers.0–1`, `norm`: what is numbered in a row becomes one."""
    runs: list[tuple[str, int, int] | str] = []
    for name in names:
        match = _NUMBERED.match(name)
        if match is None:
            runs.append(name)
            continue
        stack, number = match["stack"], int(match["number"])
        last = runs[-1] if runs else ""
        if isinstance(last, tuple) and last[0] == stack and last[2] == number - 1:
            runs[-1] = (stack, last[1], number)
        else:
            runs.append((stack, number, number))
    return tuple(run if isinstance(run, str) else _run(*run) for run in runs)


def options_in_words(options: LoadOptions) -> list[str]:
    """What the load was told besides its precision; empty where that was nothing."""
    words = []
    if options.compute_dtype:
        words.append(f"computes in {options.compute_dtype}")
    if options.double_quant is not None:
        words.append(f"double quant {'on' if options.double_quant else 'off'}")
    if options.skip:
        words.append(f"not quantized: {', '.join(options.skip)}")
    if options.attention:
        words.append(f"{options.attention} attention")
    if options.kv_dtype:
        words.append(f"KV cache in {options.kv_dtype}")
    if len(options.device_map) == 1:
        words.append(f"all on {options.device_map[0][1]}")
    return words


def _run(stack: str, first: int, last: int) -> str:
    return f"{stack}{first}" if first == last else f"{stack}{first}–{last}"


def _dtypes(layers: list[LayerRow]) -> list[str]:
    seen: dict[str, None] = {}
    for layer in layers:
        seen.update(dict.fromkeys(dtype for dtype, count in layer.bytes_by_dtype.items() if count))
    return list(seen)


def _totals(layers: list[LayerRow]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for layer in layers:
        for dtype, count in layer.bytes_by_dtype.items():
            totals[dtype] = totals.get(dtype, 0) + count
    return totals


def _shape(tensor: StoredTensor) -> str:
    return " × ".join(f"{size:,}" for size in tensor.shape) or "scalar"
