"""What the README promises: to Hugging Face in its head, to people in its text."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

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


def test_the_python_example_gives_what_its_comments_say(capsys):
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    exec(example, {})  # the example as it is printed
    assert capsys.readouterr().out.split() == re.findall(r"# (\S+)$", example, re.MULTILINE)


def test_the_number_of_compared_architectures_is_the_true_one():
    from quantspace.precision import LOADABLE
    from tests.tiny_models import ARCHITECTURES

    told = re.search(r"load (\d+) architectures at (\d+) precisions", README)
    assert (int(told[1]), int(told[2])) == (len(ARCHITECTURES), len(LOADABLE))


def test_nothing_but_the_house_stands_at_the_top_level():
    import subprocess

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {line.split("/")[0] for line in listed.splitlines()}
    visible = {name for name in top if not name.startswith(".")}
    assert visible == {"app.py", "quantspace", "tests", "requirements.txt", "README.md", "LICENSE"}
