"""One thread: these models are small, and the tests of a run share the machine."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def always_one_thread(one_thread: None) -> None:
    pass
