"""Which rows of an estimate are told first, and how a row is put into a few words. For images and the terminal."""

from __future__ import annotations

import re

from ..errors import BadInput, shorten
from ..estimation.calculator import Estimate
from ..estimation.fit import FitRow
from ..estimation.gguf.rows import asked_file
from ..estimation.verdict import Verdict
from ..estimation.workload import Hardware
from ..hub.reference import parse_reference
from ..units import gb
from .spelling import find_spelling

VERDICT_WORDS: dict[Verdict, str] = {"fits": "Fits", "tight": "Tight", "offload": "Offload", "no": "Does not fit"}
VERDICT_MARKS: dict[Verdict, str] = {"fits": "✓", "tight": "!", "offload": "⇄", "no": "✕"}

_MAKER = re.compile(r"^(?:NVIDIA|AMD|HF Spaces) (?:GeForce |Radeon |Instinct )?")


def main_rows(estimate: Estimate) -> tuple[FitRow, ...]:
    """What this app can load and what the model came in; all rows where neither is among them."""
    first = [row for row in estimate.rows if row.precision.usual]
    return tuple(first or estimate.rows)


def asked_precision(estimate: Estimate, model: str, precision: str = "") -> str:
    """The row that a question is about: the precision in it, else the GGUF file that its model names, else none.

    Args:
        model: as typed: `org/name:Q4_K_M` and the link of a file name one.

    Raises:
        ModelNotFound: the model has no such file.
    """
    if precision or not estimate.inventory.files:
        return precision
    asked = parse_reference(model)
    file = asked_file(estimate.inventory.files, asked.file, asked.quant)
    return file.id if file else ""


def row_of(estimate: Estimate, precision: str = "") -> FitRow | None:
    """The row asked for; else the recommended one; `None` where nothing was asked for and nothing fits.

    Args:
        precision: the id of a row or another spelling of it, or the label of a GGUF file: `UD-Q4_K_XL`.

    Raises:
        BadInput: the model has no such row.
    """
    if not precision:
        return estimate.row(estimate.recommended) if estimate.recommended else None
    wanted = {precision, find_spelling(precision)}
    for row in estimate.rows:
        if row.precision.id in wanted:
            return row
    for row in estimate.rows:
        if row.precision.label.lower() == precision.strip().lower():
            return row
    known = ", ".join(row.precision.id for row in estimate.rows)
    raise BadInput(
        f"{estimate.inventory.model_id} has no row “{shorten(precision, 60)}”.", f"Use one of {shorten(known, 300)}."
    )


def smallest_row(estimate: Estimate) -> FitRow:
    """Of the rows told first, the one that needs least: how far off the card is where nothing fits."""
    rows = main_rows(estimate)
    return min([row for row in rows if row.runs] or rows, key=lambda row: row.total_bytes)


def gpu_words(hardware: Hardware) -> str:
    """`2 × T4`: the card as people call it, without its maker and what stands in brackets."""
    name = _MAKER.sub("", re.sub(r"\s*\(.*?\)", "", hardware.gpu.name))
    return name if hardware.count == 1 else f"{hardware.count} × {name}"


def verdict_words(row: FitRow) -> str:
    """`fits, 11.1 GB free` or `no: needs 22.0 GB`; of several cards the fullest is meant."""
    if row.verdict in ("fits", "tight"):
        told = {"fits": "weights fit", "tight": "weights just fit"} if row.demand.inventory.weights_only else {}
        return f"{told.get(row.verdict, row.verdict)}, {brief(row.free_bytes // row.gpu_count)} free{_each(row)}"
    return f"{row.verdict}: {needs_words(row)}"


def needs_words(row: FitRow) -> str:
    """`needs 22.0 GB`; of several cards the fullest is meant."""
    return f"needs {brief(-(-row.total_bytes // row.gpu_count))}{_each(row)}"


def _each(row: FitRow) -> str:
    return " per card" if row.gpu_count > 1 else ""


def room_words(row: FitRow) -> str:
    """`4.8 GB free` or `1.2 GB short`, of the fullest card."""
    free = row.free_bytes // row.gpu_count
    return f"{brief(free)} free" if free >= 0 else f"{brief(-free)} short"


def brief(count: int) -> str:
    """Bytes with one decimal, as an image has room for: `11.1 GB`."""
    if 10**8 <= count < 10**11:
        return f"{count / 1e9:.1f} GB"
    return gb(count) if count >= 10**11 else f"{count / 1e6:,.0f} MB"
