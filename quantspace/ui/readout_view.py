"""The readout: what was promised beside what is held, and the dtype of every layer."""

from __future__ import annotations

from dataclasses import dataclass

from ..estimation.stored import LayerRow, StoredTensor, layer_table
from ..precision import PRECISIONS
from ..runtime.job import Job, Readout
from .render import render

_MAX_LISTED = 4000  # tensors shown behind the layers; past that a browser suffers


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
        label=PRECISIONS[readout.precision].label,
        comparisons=compare(job, readout),
        dtypes=_dtypes(layers),
        layers=layers,
        totals=_totals(layers),
        listed=len(readout.tensors) <= _MAX_LISTED,
        shape=_shape,
    )


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
