"""What all tests share: a Hub over HTTP, tiny checkpoints made once a run, and nothing of this machine's own."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock

from tests.app_server import NOWHERE, running_app
from tests.chromium import browser as browser
from tests.hub import LocalHub

# An example that waits for a busy processor is not a slow one.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")

_stack = ExitStack()
_hub = LocalHub()


def pytest_configure(config: pytest.Config) -> None:
    """Point huggingface_hub at the local Hub before anything imports it: it reads its variables once."""
    home = Path(_stack.enter_context(tempfile.TemporaryDirectory(prefix="quantspace-tests-")))
    os.environ |= {
        "HF_ENDPOINT": _stack.enter_context(_hub.running()),
        "HF_HOME": str(home / "hf"),
        "GRADIO_TEMP_DIR": str(home / "gradio"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "TOKENIZERS_PARALLELISM": "false",
    }
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        os.environ.pop(name, None)


def pytest_unconfigure(config: pytest.Config) -> None:
    _stack.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="run the long profiles too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--nightly"):
        skip = pytest.mark.skip(reason="a long profile: tests/run --nightly")
        for item in items:
            if "nightly" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _nobody_keeps_the_turn() -> None:
    """What a failed test left half-way holds the worker's one turn, and its traceback holds that: let both go."""
    worker = sys.modules.get("quantspace.runtime.worker")
    if worker is not None and worker._busy.locked():
        for name in ("last_exc", "last_type", "last_value", "last_traceback"):
            vars(sys).pop(name, None)
        gc.collect()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """The models of tests are too small for more, which would only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def hub() -> LocalHub:
    """The Hub that the client under test talks to; add repositories under ids of your own."""
    return _hub


@pytest.fixture(scope="session")
def offline_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an app that has no network and no token."""
    with running_app(NOWHERE, tmp_path_factory.mktemp("app") / "offline.log") as url:
        yield url


@pytest.fixture(scope="session")
def online_app(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an app whose Hub is the local one."""
    with running_app(os.environ["HF_ENDPOINT"], tmp_path_factory.mktemp("app") / "online.log") as url:
        yield url


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all xdist workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def tiny_checkpoint(run_folder: Path) -> Iterator[Callable[[str], Path]]:
    """Give the folder of a tiny checkpoint by its name in `tests.tiny_models`; each is made once a run."""
    from quantspace.hub.demo import demo_folder
    from tests.tiny_models import save_tiny

    def checkpoint(name: str) -> Path:
        folder = run_folder / "tiny" / name
        with FileLock(run_folder / f"{name}.lock"):
            if not folder.exists():
                draft = run_folder / "drafts" / name
                save_tiny(name, draft)
                for file in demo_folder().glob("*token*"):
                    shutil.copy(file, draft)
                folder.parent.mkdir(exist_ok=True)
                draft.rename(folder)
        return folder

    yield checkpoint
