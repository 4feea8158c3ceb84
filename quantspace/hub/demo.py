"""The demo model that comes with the app: small, ours, and there without a network."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

DEMO_ID = "quantspace/demo"


def demo_folder() -> Path:
    """The folder that holds config, tokenizer and weights."""
    return Path(str(files("quantspace") / "data" / "demo"))


def demo_config() -> dict[str, Any]:
    """Its parsed `config.json`."""
    return json.loads((demo_folder() / "config.json").read_text(encoding="utf-8"))
