"""The terminal: the page's table, for people and for programs, with an exit code to rely on."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantspace.estimation.calculator import estimate
from quantspace.estimation.hardware import gpus
from quantspace.share.rows import main_rows

ROOT = Path(__file__).parent.parent
GEMMA = "google/gemma-3-4b-it"


def run(*arguments, **environment):
    variables = {**os.environ, "NO_COLOR": "", "COLUMNS": "80", **environment}
    variables = {name: value for name, value in variables.items() if value is not None}
    return subprocess.run(
        [sys.executable, "-m", "quantspace", *arguments],
        cwd=ROOT, env=variables, capture_output=True, text=True, encoding="utf-8", timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([GEMMA, "--gpu", "t4"], 0),
        ([GEMMA, "--gpu", "t4", "--precision", "nf4-dq"], 0),
        ([GEMMA, "--gpu", "t4", "--precision", "NF4_DQ"], 0),
        ([GEMMA, "--gpu", "t4", "--precision", "Q4_K_M"], 0),
        ([GEMMA, "--gpu", "t4", "--precision", "fp32"], 1),
        ([GEMMA, "--gpu", "t4", "--precision", "fp32", "--allow-offload"], 0),
        ([GEMMA, "--gpu", "t4", "--precision", "fp32", "--allow-offload", "--ram", "0"], 1),
        (["meta-llama/Llama-3.1-70B-Instruct", "--gpu", "t4"], 1),
        (["meta-llama/Llama-3.1-70B-Instruct", "--gpu", "a100-80gb", "--gpus", "4", "--context", "32k"], 0),
        ([GEMMA, "--gpu", "voodoo2"], 2),
        ([GEMMA, "--context", "many"], 2),
        ([GEMMA, "--gpus", "9"], 2),
        ([GEMMA, "--precision", "int3"], 2),
        ([GEMMA, "--precision", "native"], 2),
        ([GEMMA, "--markdown", "--csv"], 2),
        (["../../etc/passwd"], 2),
        ([], 2),
        ([GEMMA, "--colour"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_the_exit_code_says_whether_it_fits(arguments, code):
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert bool(done.stdout) == (code != 2)
    assert bool(done.stderr) == (code == 2)
    assert "Traceback" not in done.stderr


def test_the_table_is_that_of_the_page_and_has_room_in_eighty_columns():
    done = run(GEMMA, "--gpu", "t4")
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    assert "\x1b" not in done.stdout
    found = estimate(GEMMA, "t4")
    for row in found.rows:
        shown = next((line for line in done.stdout.splitlines() if line.startswith(f"{row.precision.label} ")), None)
        assert bool(shown) == (row in main_rows(found))
        if shown:
            assert f"{row.total_bytes / 1e9:.2f} GB" in shown
    assert f"* {found.row(found.recommended).precision.label}: {found.row(found.recommended).reason}" in done.stdout
    assert "google/gemma-3-4b-it on T4: 15.64 GB usable, 8,192 tokens × 1" in done.stdout


@pytest.mark.parametrize("columns", [100, 78, 77, 58, 57, 46, 45, 36, 35, 26])
def test_precision_and_verdict_have_room_in_every_terminal(columns):
    done = run("meta-llama/Llama-3.1-70B-Instruct", "--gpu", "t4", COLUMNS=str(columns))
    assert max(len(line) for line in done.stdout.splitlines()) <= columns
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("INT8 ")]
    assert row.rstrip().endswith("✕ Does not fit")
    assert ("78.58 GB" in row) == (columns >= 46) and ("−62.94 GB" in row) == (columns >= 36)


def test_the_cards_are_listed_without_a_model():
    done = run("--list-gpus")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(gpus())
    assert "15.64 GB  NVIDIA T4" in done.stdout


def test_other_formats_are_shown_on_demand():
    assert "Q4_K_M" not in run(GEMMA).stdout
    assert "Q4_K_M" in run(GEMMA, "--all").stdout


def test_json_is_the_answer_of_the_api():
    done = run(GEMMA, "--gpu", "l4", "--gpus", "2", "--context", "32k", "--batch", "2", "--kv", "fp16", "--json")
    asked = {"gpu": "l4", "gpu_count": 2, "context": 32768, "batch": 2, "kv_dtype": "float16"}
    assert json.loads(done.stdout) == estimate(GEMMA, **asked).as_data()


def test_an_error_is_json_too_where_json_was_asked_for():
    done = run(GEMMA, "--gpu", "voodoo2", "--json")
    assert json.loads(done.stdout)["error"]["code"] == "unknown_gpu"
    assert "voodoo2" in done.stderr and done.returncode == 2


def test_a_wrong_option_is_json_too_where_json_was_asked_for():
    done = run(GEMMA, "--colour", "--json")
    assert json.loads(done.stdout)["error"]["message"].startswith("No such option")
    assert "--colour" in done.stderr and done.returncode == 2


@pytest.mark.parametrize(("fault", "code"), [("RuntimeError('a bug')", 3), ("KeyboardInterrupt()", 130)])
def test_a_crash_is_not_taken_for_nothing_fits(fault, code):
    script = (
        "import sys, quantspace.cli as cli\n"
        f"def broken(*_): raise {fault}\n"
        f"cli.estimate, sys.argv = broken, ['quantspace', '{GEMMA}', '--json']\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == code and done.stdout == ""
    assert ("a bug" in done.stderr) == (code == 3)


def test_csv_and_markdown_go_to_standard_output():
    assert len(list(csv.DictReader(io.StringIO(run(GEMMA, "--csv").stdout)))) == len(estimate(GEMMA).rows)
    assert run(GEMMA, "--markdown").stdout.startswith(f"**{GEMMA}** on NVIDIA T4")


def test_an_error_says_what_to_do():
    done = run(GEMMA, "--context", "-5")
    assert "Context is -5" in done.stderr and "Give a whole number from 1" in done.stderr


def test_colours_are_for_terminals_that_want_them():
    assert "\x1b[" in run(GEMMA, FORCE_COLOR="1", NO_COLOR=None).stdout
    assert "\x1b[3" not in run(GEMMA, FORCE_COLOR="1", NO_COLOR="1").stdout


def test_a_terminal_without_unicode_gets_words_all_the_same():
    done = run(GEMMA, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0 and "Fits" in done.stdout and "BF16" in done.stdout


def test_what_a_name_holds_is_not_obeyed_by_the_terminal():
    done = run("\x1b[31mred\x07")
    assert done.returncode == 2 and "\x1b" not in done.stderr and "\x07" not in done.stderr


def test_a_bundled_model_is_answered_without_torch():
    heavy = "torch, transformers, gradio, bitsandbytes, jinja2, PIL, resvg_py"
    code = (
        "import sys, quantspace.cli as cli\n"
        f"sys.argv = ['quantspace', '{GEMMA}', '--json']\n"
        "try: cli.main()\n"
        f"finally: print(sorted(set('{heavy}'.split(', ')) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"


def test_a_bundled_model_is_answered_within_one_and_a_half_seconds_of_the_processor():
    """Of the processor: what else a machine does lengthens the wall time, which `tests/bench/cli.py` measures."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run(GEMMA, "--gpu", "t4").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 1.5


def test_a_model_of_the_hub_is_answered_without_a_word_of_the_libraries(hub, tiny_checkpoint):
    hub.add_repo("terminal/tiny", folder=tiny_checkpoint("llama-untied"))
    done = run("terminal/tiny", "--gpu", "t4", "--context", "64")
    assert done.returncode == 0 and "terminal/tiny on T4" in done.stdout
    assert done.stderr == ""


def test_a_model_that_is_not_there_says_what_to_do(hub):
    done = run("terminal/nothing-here")
    assert done.returncode == 2 and "terminal/nothing-here" in done.stderr and len(done.stderr.splitlines()) >= 2
