"""What the page says of the source of an answer, of what it leaves out, and of the files of a repository."""

from dataclasses import replace

import pytest

from quantspace import estimate
from quantspace.estimation.calculator import Estimate
from quantspace.estimation.fit import fit_table, recommend
from quantspace.estimation.gguf.file import GgufFile
from quantspace.hub.reference import parse_reference
from quantspace.ui.fit_table import headline, table_html

MODEL = "Qwen/Qwen3-8B"
LAYERS = 36


@pytest.fixture(scope="module")
def asked() -> Estimate:
    return estimate(MODEL, "rtx-3060-12gb")


def told(asked: Estimate, **changes) -> Estimate:
    """The same question, had its inventory been read otherwise."""
    inventory = replace(asked.inventory, **changes)
    rows = tuple(fit_table(inventory, asked.hardware, asked.workload))
    return replace(asked, inventory=inventory, rows=rows, recommended=recommend(rows), notes=inventory.notes)


def file(label: str, size: int) -> GgufFile:
    """A file of which the size alone is known, as it is shared out over layers."""
    layer = size // (LAYERS + 2)
    return GgufFile(
        paths=(f"Qwen3-8B-{label}.gguf",),
        label=label,
        size=size + 6_000_000,
        weights=size,
        tensors=399,
        layers=(layer,) * LAYERS,
        input=layer,
        output=size - (LAYERS + 1) * layer,
    )


FILES = (file("Q8_0", 8_700_000_000), file("Q4_K_M", 5_030_000_000), file("F16", 16_400_000_000))


@pytest.mark.parametrize(
    ("kind", "exact", "words"),
    [
        ("class", True, "<b>Exact</b> weights: "),
        ("headers", True, "<b>Exact</b> weights, <b>from headers</b>: "),
        ("headers", False, "<b>Estimated</b> weights, <b>from headers</b>: "),
        ("adapter", True, "<b>Exact</b> weights, <b>base and adapter</b>: "),
        ("counts", False, "<b>Estimated</b> weights, <b>from the Hub&#39;s counts</b>: "),
        ("sizes", False, "<b>Estimated</b> weights, <b>from file sizes</b>: "),
    ],
)
def test_the_source_is_named_with_how_sure_it_is(asked, kind, exact, words):
    html = table_html(told(asked, source_kind=kind, exact=exact, notes=("The reason.",)))
    assert words in html and f'data-source="{kind}"' in html and "The reason." in html


@pytest.mark.parametrize(("kind", "buttons"), [("class", 10), ("headers", 0), ("counts", 0), ("sizes", 0)])
def test_only_what_the_class_was_read_of_can_be_loaded(asked, kind, buttons):
    assert table_html(told(asked, source_kind=kind)).count('class="qs-load"') == buttons


def test_an_answer_about_weights_alone_says_what_it_leaves_out(asked):
    left_out = "Weights only: what it takes to compute on images is not counted."
    html = table_html(told(asked, weights_only=left_out, generates=False, cache=()))
    assert left_out in html
    legend = html.partition('<div class="qs-legend"')[2].partition("</div>")[0]
    assert "weights" in legend and "cache" not in legend and "activations" not in legend
    assert "Longest context" not in html and "Cache as transformers" not in html and 'class="qs-load"' not in html


def test_files_of_a_repository_are_rows_beside_what_can_be_loaded(asked):
    html = table_html(told(asked, files=FILES))
    loaded = [row.precision.id for row in told(asked, files=FILES).rows if row.loadable]
    assert html.count('class="qs-load"') == len(loaded) and "gguf:Qwen3-8B-F16.gguf" in loaded
    folded = html.partition('id="files"')[2].partition("</details>\n  <details")[0]
    assert "3 GGUF files of this repository" in folded
    assert folded.index("F16") < folded.index("Q8_0") < folded.index("Q4_K_M")
    assert "8.71 GB on disk" in folded


def test_where_there_are_files_alone_they_are_the_table(asked):
    only = told(asked, files=FILES, source_kind="gguf")
    html = table_html(only)
    assert 'id="files"' not in html and "Other formats" not in html and html.count('class="qs-load"') == 3
    assert html.count('class="qs-row qs-file') == 3
    assert headline(only).startswith("Take Q8_0: it ") and "It runs in llama.cpp" in headline(only)


def test_a_file_that_fits_in_part_says_how_many_layers(asked):
    only = told(asked, files=FILES, source_kind="gguf")
    row = only.row("gguf:Qwen3-8B-F16.gguf")
    assert row.verdict == "offload" and 0 < row.gpu_layers < row.layers
    assert f"{row.gpu_layers} of {row.layers} layers on the GPU</small>" in table_html(only)


@pytest.mark.parametrize("text", [f"{MODEL}:q4_k_m", f"https://huggingface.co/{MODEL}/blob/main/Qwen3-8B-Q4_K_M.gguf"])
def test_the_file_that_was_asked_for_stands_out(asked, text):
    html = table_html(told(asked, files=FILES), parse_reference(text))
    marked = html.partition("qs-asked")[2]
    assert html.count("qs-asked") == 1 and marked.startswith('" data-row="gguf:Qwen3-8B-Q4_K_M.gguf"')
    assert '<details class="qs-others" id="files" open>' in html


def test_a_file_that_is_not_there_is_told(asked):
    html = table_html(told(asked, files=FILES), parse_reference(f"{MODEL}:Q2_K"))
    assert "qs-asked" not in html and "There is no GGUF file" in html


def test_many_files_are_counted_before_they_are_opened(asked):
    many = tuple(file(f"Q4_{number}", 4_000_000_000 + number) for number in range(25))
    assert "25 GGUF files of this repository: 25 of them fit" in table_html(told(asked, files=many))
