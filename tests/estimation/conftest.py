"""Tiny models beside their inventories. What knows the Hub is imported late: its address is set after this is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def model_of(tiny_checkpoint: Callable[[str], Path]) -> Callable[[str], tuple[Any, Any]]:
    """Give a tiny model in bfloat16 and its inventory, by its name; the last one is kept."""
    import torch

    from quantspace.estimation.architecture import model_class, parse_config
    from quantspace.estimation.meta.reader import inventory_from_config

    known: dict[str, tuple[Any, Any]] = {}

    def build(name: str) -> tuple[Any, Any]:
        if name not in known:
            folder = tiny_checkpoint(name)
            raw = json.loads((folder / "config.json").read_text())
            model = model_class(parse_config(raw)).from_pretrained(folder, dtype=torch.bfloat16)
            known.clear()
            known[name] = model, inventory_from_config(raw, name)
        return known[name]

    return build
