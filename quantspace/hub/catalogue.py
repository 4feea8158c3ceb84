"""The models whose `config.json` comes with the app: what can be estimated without the Hub.

Each entry is a file of `data/models`, named for its Hub id; `data/README.md` tells how they were
gathered. The names are read from the folder, and a file only when its model is asked for. Nothing here
touches the network: whoever can reach the Hub should prefer what it says today.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Any, Literal

# Other names under which the Hub itself serves a model: the old one redirects to the new one.
ALIASES: Mapping[str, str] = {
    # Models without an organization moved into one in 2024.
    "gpt2": "openai-community/gpt2",
    "t5-small": "google-t5/t5-small",
    # Meta renamed Meta-Llama-3.1-* to Llama-3.1-*; copies came under either name.
    "meta-llama/Meta-Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Meta-Llama-3.1-70B": "meta-llama/Llama-3.1-70B",
    "meta-llama/Meta-Llama-3.1-70B-Instruct": "meta-llama/Llama-3.1-70B-Instruct",
    "meta-llama/Llama-3.1-405B": "meta-llama/Meta-Llama-3.1-405B",
    "meta-llama/Meta-Llama-3.1-405B-Instruct-FP8": "meta-llama/Llama-3.1-405B-Instruct-FP8",
    # The organization was renamed.
    "dphn/dolphin-2.5-mixtral-8x7b": "cognitivecomputations/dolphin-2.5-mixtral-8x7b",
}

_FIRST = ("google", "meta-llama", "Qwen", "mistralai", "openai", "deepseek-ai", "microsoft", "HuggingFaceTB")


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model as the app knows it without the Hub."""

    id: str
    config: dict[str, Any]  # its config.json
    official_parameters: int | None  # as counted elsewhere; never taken from the config
    official_source: str | None  # says where, and whether a hand may have typed it
    match: Literal["MATCH", "DIFF", "no-official"]  # whether the class that transformers builds has as many
    difference: str | None  # by how many and why, where it has not
    source: str  # of the config


def bundled_models() -> tuple[str, ...]:
    """The ids of all bundled models, the families asked for most first, each in alphabetical order."""
    return tuple(sorted(_files(), key=_rank))


def find_bundled(model_id: str) -> CatalogueEntry | None:
    """The bundled entry of a model, whatever the case of its id, or `None`. Reads one file."""
    known = _ids_by_lower_case().get(model_id.strip().lower())
    if known is None:
        return None
    text = _files()[known].read_text(encoding="utf-8")
    return CatalogueEntry(**json.loads(text))


def _rank(model_id: str) -> tuple[int, str]:
    organization = model_id.partition("/")[0]
    return (_FIRST.index(organization) if organization in _FIRST else len(_FIRST), model_id.lower())


@lru_cache(maxsize=1)
def _files() -> Mapping[str, Traversable]:
    """Id → its file: `google__gemma-3-4b-it.json` holds `google/gemma-3-4b-it`."""
    folder = files("quantspace").joinpath("data/models")
    found = [file for file in folder.iterdir() if file.name.endswith(".json")]
    return MappingProxyType({file.name.removesuffix(".json").replace("__", "/", 1): file for file in found})


@lru_cache(maxsize=1)
def _ids_by_lower_case() -> Mapping[str, str]:
    known = {alias.lower(): model_id for alias, model_id in ALIASES.items()}
    return MappingProxyType(known | {model_id.lower(): model_id for model_id in _files()})
