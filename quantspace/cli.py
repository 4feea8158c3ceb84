"""The terminal: the page's table for one model and card, and an exit code that a script can ask before it rents.

    python -m quantspace google/gemma-3-4b-it --gpu t4
    python -m quantspace google/gemma-3-4b-it --gpu t4 --precision nf4-dq --json

0: the row asked for, else the recommended one, fits or is tight. 1: nothing does. 2: the question was wrong, or the
model could not be had; what and why is on stderr. 3: a mistake of this program, with its trace, so that a crash is
never taken for an answer.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .errors import BadInput, QuantSpaceError
from .estimation.calculator import DEFAULT_RAM_GB, Estimate, estimate
from .estimation.fit import FitRow
from .estimation.hardware import gpus
from .estimation.verdict import Verdict
from .settings import settings
from .share.rows import VERDICT_MARKS, VERDICT_WORDS, asked_precision, gpu_words, main_rows, row_of
from .share.tables import as_csv, as_json, as_markdown
from .units import gb

NOTHING_FITS, BAD_QUESTION, OUR_MISTAKE, INTERRUPTED = 1, 2, 3, 130
_STYLES: dict[Verdict, str] = {"fits": "green", "tight": "yellow", "offload": "magenta", "no": "red"}
_FORMATS: dict[str, Callable[[Estimate], str]] = {"json": as_json, "csv": as_csv, "markdown": as_markdown}
_COLUMNS: dict[str, Callable[[FitRow], int]] = {
    "Weights": lambda row: row.weights.held,
    "Cache": lambda row: row.cache_bytes,
    "Other": lambda row: row.activation_bytes + row.overhead_bytes,
    "Total": lambda row: row.total_bytes,
    "Free": lambda row: row.free_bytes,
}
# From how many signs a line has, which of them are told: the verdict is what was asked, and never left out.
_ROOM = {78: tuple(_COLUMNS), 58: ("Weights", "Total", "Free"), 46: ("Total", "Free"), 36: ("Free",), 0: ()}


def main() -> None:
    """Answer the command line of this process, and exit."""
    logging.disable(logging.WARNING)  # of libraries, when a class must be built
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # where a terminal can't show a sign
    try:
        answer.main(prog_name="python -m quantspace", standalone_mode=False)
    except click.UsageError as wrong:
        wrong.show()
        if "--json" in sys.argv:
            _print_error(BadInput(wrong.format_message(), "See --help."))
        raise SystemExit(BAD_QUESTION) from None
    except click.Abort:
        raise SystemExit(INTERRUPTED) from None
    except Exception:  # a seam: Python's own exit code would say that nothing fits
        traceback.print_exc()
        raise SystemExit(OUR_MISTAKE) from None


def _list_gpus(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    if not asked or context.resilient_parsing:
        return
    for gpu in gpus().values():
        click.echo(f"{gpu.id:22} {gb(gpu.usable_bytes):>9}  {gpu.name}")
    context.exit()


# Numbers are taken as texts: what is wrong with them is told in the words of the page.
@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("model")
@click.option("--gpu", default=settings().default_gpu, help="Card, such as t4, l4, a100-80gb or rtx-4090.")
@click.option("--gpus", "gpu_count", default="1", help="How many of it.")
@click.option("--context", default=str(settings().default_context), help="Tokens in each sequence: 8192, 32k.")
@click.option("--batch", default="1", help="Sequences at once.")
@click.option("--kv", default="auto", help="Dtype of the cache: auto, bf16, fp16, fp32, fp8, int4, int2.")
@click.option("--ram", default=str(DEFAULT_RAM_GB), help="System memory for layers left over, in GB.")
@click.option("--images", default="0", help="Images in the prompt of each sequence.")
@click.option("--revision", default="main", help="Branch, tag or commit.")
@click.option("--precision", default="", show_default=False, help="The row that must fit, such as nf4-dq or Q4_K_M.")
@click.option("--allow-offload", is_flag=True, help="Layers in system memory are fine.")
@click.option(
    "--list-gpus",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_gpus,
    help="List the cards with what is usable of each, and exit.",
)
@click.option("--all", "every", is_flag=True, help="Show what-ifs in other formats too.")
@click.option("--json", "json_", is_flag=True, help="The API's object, as JSON.")
@click.option("--csv", "csv_", is_flag=True, help="A line a row, as CSV.")
@click.option("--markdown", "markdown_", is_flag=True, help="A table for a README.")
def answer(
    model: str, gpu: str, gpu_count: str, context: str, batch: str, kv: str, ram: str, images: str, revision: str,
    precision: str, allow_offload: bool, every: bool, json_: bool, csv_: bool, markdown_: bool,
) -> None:  # fmt: skip
    """Tell which precisions of MODEL fit a GPU, byte for byte: an id on the Hugging Face Hub, or the link of its page.

    Exits with 0 where the row asked for (else the recommended one) fits or is tight, with 1 where nothing does, with
    2 where the question is wrong or the model can't be had, and with 3 where this program fails.
    """
    chosen = [name for name, asked in zip(_FORMATS, (json_, csv_, markdown_), strict=True) if asked]
    try:
        if len(chosen) > 1:
            raise BadInput(f"--{' and --'.join(chosen)} are two answers.", "Ask for one of them.")
        with Console(stderr=True).status(f"Reading {_plain(model)}"):
            found = estimate(model, gpu, gpu_count, context, batch, kv, revision, ram, images)  # type: ignore[arg-type]
        row = row_of(found, asked_precision(found, model, precision))
    except QuantSpaceError as error:
        _complain(error, json_)
        raise SystemExit(BAD_QUESTION) from None
    if chosen:
        sys.stdout.write(_FORMATS[chosen[0]](found))
    else:
        _print_table(found, row, every)
    raise SystemExit(exit_code(found, row, allow_offload))


def exit_code(found: Estimate, row: FitRow | None, allow_offload: bool = False) -> int:
    """0 where the row fits or is tight, else 1; with `allow_offload`, layers in system memory will do.

    Args:
        row: what was asked for, or is recommended; `None` where nothing was asked for and nothing fits.
    """
    enough: set[Verdict] = {"fits", "tight", "offload"} if allow_offload else {"fits", "tight"}
    rows = main_rows(found) if row is None and allow_offload else [row]
    return 0 if any(each is not None and each.verdict in enough for each in rows) else NOTHING_FITS


def _print_table(found: Estimate, chosen: FitRow | None, every: bool) -> None:
    console = Console(highlight=False)
    workload, hardware = found.workload, found.hardware
    console.print(
        Text(
            f"{_plain(found.inventory.model_id)} on {gpu_words(hardware)}: {gb(hardware.usable_bytes)} usable, "
            f"{workload.context:,} tokens × {workload.batch}",
            style="bold",
        )
    )
    console.print()
    rows = list(found.rows if every else main_rows(found))
    if chosen is not None and chosen not in rows:
        rows.append(chosen)
    console.print(_table(rows, chosen, _columns(console.width)))
    console.print()
    console.print(Text(_plain(_conclusion(found, chosen))))
    exact = "Exact" if found.inventory.exact else "Estimated"
    left_out = (found.inventory.weights_only,) if found.inventory.weights_only else ()
    for note in (f"{exact}: {found.inventory.source}.", *left_out, *found.notes, *(chosen.notes if chosen else ())):
        console.print(Text(_plain(note), style="dim"))


def _table(rows: list[FitRow], chosen: FitRow | None, columns: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("Precision", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True, min_width=9)
    table.add_column("Verdict", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(
                f"{_plain(row.precision.label)}{' *' if row is chosen else ''}", style="bold" if row is chosen else ""
            ),
            *(gb(_COLUMNS[name](row)).replace("-", "−") for name in columns),
            Text(f"{VERDICT_MARKS[row.verdict]} {VERDICT_WORDS[row.verdict]}", style=_STYLES[row.verdict]),
        )
    return table


def _columns(width: int) -> tuple[str, ...]:
    """The figures that a terminal of so many signs has room for, beside precision and verdict."""
    return next(names for least, names in _ROOM.items() if width >= least)


def _conclusion(found: Estimate, chosen: FitRow | None) -> str:
    if chosen is not None:
        return f"* {chosen.precision.label}: {chosen.reason}"
    rows = main_rows(found)
    furthest = max(rows, key=lambda row: row.max_context)
    if furthest.max_context:
        return (
            f"Nothing fits at {found.workload.context:,} tokens × {found.workload.batch}. "
            f"{furthest.precision.label} fits up to {furthest.max_context:,} tokens."
        )
    least = min(rows, key=lambda row: row.total_bytes)
    return f"Nothing fits, even for one token. {least.precision.label}: {least.reason}"


def _complain(error: QuantSpaceError, as_json: bool) -> None:
    if as_json:
        _print_error(error)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text(_plain(error.message), style="red"))
    if error.hint:
        console.print(Text(_plain(error.hint)))


def _print_error(error: QuantSpaceError) -> None:
    sys.stdout.write(json.dumps({"error": error.as_data()}, indent=2, ensure_ascii=False) + "\n")


def _plain(text: str) -> str:
    """`text` without what a terminal would obey."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
