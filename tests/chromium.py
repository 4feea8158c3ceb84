"""One real Chromium a test process: Playwright's loop runs in its thread, so a second one can't be started there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

ARTIFACTS = Path(__file__).parent / "artifacts"
# Chromium asks its maker's servers for updates at every start, which a closed network refuses one by one.
QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]

PATIENCE_MS = 60_000  # what a page may take on two busy processors; Playwright's own are 5 s to show and 30 s to act

expect.set_options(timeout=PATIENCE_MS)


def chromium_path() -> str | None:
    """An installed Chromium, or `None` for the one Playwright brings."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=QUIET)
        yield browser
        browser.close()
