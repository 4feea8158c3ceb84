"""What the README promises: to Hugging Face in its head, to people in its text."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from shutil import which

import httpx
import pytest
import yaml

from tests.site import served

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
METADATA = yaml.safe_load(README.split("---")[1])


def test_the_space_runs_the_gradio_that_is_pinned():
    pinned = re.search(r"^gradio\S*==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[1]
    assert METADATA["sdk_version"] == pinned == version("gradio")


def test_the_short_description_is_one_the_hub_accepts():
    assert len(METADATA["short_description"]) <= 60


def test_the_space_asks_for_a_python_that_zerogpu_has():
    assert METADATA["python_version"] == "3.12"


@pytest.mark.parametrize(
    "path", [*re.findall(r"`((?:quantspace|tests)/[\w./]+)`", README), "app.py", ".github/page.png"]
)
def test_files_that_are_named_are_there(path):
    assert (ROOT / path).exists()


PROGRAMS = README.partition("## Ask it from a program")[2].partition("\n## ")[0]
EXAMPLES = re.findall(r"```(\w+)\n(.*?)```", PROGRAMS, re.DOTALL)
ADDRESS = "http://127.0.0.1:7860"  # Gradio's own; the tests' apps stand at other ports


def run_python(example):
    return subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=120)


def run_javascript(example):
    return subprocess.run(["node", "--input-type=module", "-e", example], capture_output=True, text=True, timeout=60)


def run_in_a_page(browser, example, site):
    """What a page of another site prints: its address is not the app's."""
    printed = []
    page = browser.new_page()
    page.goto(site)
    page.on("console", lambda message: message.type == "log" and printed.append(message.text))
    page.evaluate(f"async () => {{ {example} }}")
    page.close()
    return printed


def run_console(example):
    commands = re.findall(r"^\$ ((?:.*\\\n)*.*)$", example, re.MULTILINE)
    script = "\n".join(["set -e", *commands])
    here = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", script], cwd=ROOT, env=here, capture_output=True, text=True, timeout=60)


def told(language, example):
    """What an example says that it prints."""
    if language == "console":
        shown = re.sub(r"^\$ (?:.*\\\n)*.*\n", "", example, flags=re.MULTILINE)
        return shown.splitlines()
    return re.findall(r"(?:#|//) (.+)$", example, re.MULTILINE)


RUNNERS = {"python": run_python, "javascript": run_javascript, "console": run_console}


def test_programs_are_shown_in_every_language_that_is_promised():
    assert {language for language, _ in EXAMPLES} == set(RUNNERS)
    assert {"gradio_client", "mcp", "quantspace"} <= set(re.findall(r"^from (\w+)", PROGRAMS, re.MULTILINE))


@pytest.mark.xdist_group("app")
@pytest.mark.parametrize(("language", "example"), EXAMPLES, ids=[f"{n}-{one[0]}" for n, one in enumerate(EXAMPLES)])
def test_an_example_prints_what_it_says(language, example, offline_app):
    if language == "javascript" and not which("node"):
        pytest.skip("there is no node here; a page runs it below")
    expected = told(language, example)
    done = RUNNERS[language](example.replace(ADDRESS, offline_app))
    assert done.returncode == 0, done.stderr[-2000:]
    assert expected and done.stdout.splitlines() == expected


@pytest.mark.browser
@pytest.mark.xdist_group("app")
def test_the_javascript_runs_in_a_page_of_another_site(browser, offline_app, tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html><title>A blog</title>")
    (example,) = (example for language, example in EXAMPLES if language == "javascript")
    with served(tmp_path) as site:
        assert run_in_a_page(browser, example.replace(ADDRESS, offline_app), site) == told("javascript", example)


@pytest.mark.xdist_group("app")
@pytest.mark.parametrize(
    "path", [*re.findall(r"`(/v1/[\w./-]+|/healthz)`", PROGRAMS), *re.findall(r"`(/\w+\.\w+)`", PROGRAMS)]
)
def test_a_route_that_is_named_is_there(path, offline_app):
    answer = httpx.get(offline_app + path, params={"model": "google/gemma-3-4b-it"}, timeout=60)
    assert answer.status_code == 200


def test_the_number_of_compared_architectures_is_the_true_one():
    from quantspace.precision import LOADABLE
    from tests.tiny_models import ARCHITECTURES

    told = re.search(r"load (\d+) architectures at (\d+) precisions", README)
    assert (int(told[1]), int(told[2])) == (
        len(ARCHITECTURES),
        len(LOADABLE) - 1,
    )  # stored checkpoints have tests of their own


def test_nothing_but_the_house_stands_at_the_top_level():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {line.split("/")[0] for line in listed.splitlines()}
    visible = {name for name in top if not name.startswith(".")}
    assert visible == {"app.py", "quantspace", "tests", "requirements.txt", "README.md", "LICENSE"}
