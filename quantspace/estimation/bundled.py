"""The inventories that come with the app: every bundled model is answered for without torch.

Each is a file of `data/inventories`, named as the model's config in `data/models`. They hold for one version
of transformers; where another is installed, `builder.py` builds the class instead. To write all of them anew,
after a change of transformers or of what is read from a class:

    python -m quantspace.estimation.bundled
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path

from ..hub.catalogue import bundled_models, find_bundled
from .inventory import Inventory
from .inventory_file import dump, load

SOURCE = "the model's own class, built without data from the bundled config.json"
REGENERATE = "python -m quantspace.estimation.bundled"
WORKERS = 2

_FOLDER = files("quantspace").joinpath("data/inventories")


@cache
def bundled_inventory(model_id: str) -> Inventory | None:
    """The stored inventory of a bundled model; `None` where none suits the installed transformers."""
    file = _FOLDER.joinpath(_file_name(model_id))
    return load(file.read_text(encoding="utf-8")) if file.is_file() else None


def build_bundled(model_id: str) -> Inventory:
    """The same inventory, read anew from the model's class. Imports torch.

    Raises:
        KeyError: the model is not bundled.
        ModelUnsupported: transformers cannot build its class.
    """
    from .meta.reader import inventory_from_config

    entry = find_bundled(model_id)
    if entry is None:
        raise KeyError(model_id)
    return inventory_from_config(entry.config, entry.id, source=SOURCE)


def write_all(folder: Path) -> None:
    """Write the inventory of every bundled model into `folder`, and take away what is not one of them."""
    folder.mkdir(exist_ok=True)
    names = {_file_name(model_id) for model_id in bundled_models()}
    for file in folder.glob("*.json"):
        if file.name not in names:
            file.unlink()
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn"), initializer=_quiet) as pool:
        for model_id, text in zip(bundled_models(), pool.map(_text, bundled_models()), strict=True):
            (folder / _file_name(model_id)).write_text(text, encoding="utf-8", newline="\n")
            print(f"{len(text):>7,} B  {model_id}", file=sys.stderr)


def _text(model_id: str) -> str:
    return dump(build_bundled(model_id))


def _file_name(model_id: str) -> str:
    return f"{model_id.replace('/', '__', 1)}.json"


def _quiet() -> None:
    from ..quiet import quiet_libraries

    quiet_libraries()


if __name__ == "__main__":
    write_all(Path(str(_FOLDER)))
