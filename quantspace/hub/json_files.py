"""The JSON files of a repository that tell what it is: config.json above all."""

from __future__ import annotations

from typing import Any

from ..errors import ModelUnsupported
from ..settings import settings
from .client import RepoFacts
from .dense_json import parse_sendable
from .fetch import fetch_file

QUANTIZATION_FILE = "hf_quant_config.json"  # of checkpoints made with NVIDIA's modelopt


def fetch_config(facts: RepoFacts, token: str | None = None) -> dict[str, Any]:
    """The parsed `config.json` of a repository at its commit.

    Where another file beside it tells how the weights are quantized (NVIDIA's modelopt), that stands in it
    under `hf_quant_config`.

    Raises:
        ModelUnsupported: there is none, or it is not a JSON object, or too large to be one.
        ModelGated, HubUnreachable: it could not be fetched.
    """
    if "config.json" not in facts.files:
        raise ModelUnsupported(
            f"{facts.ref.id} has no config.json, so its architecture is not known.",
            "Pick a repository in the transformers format, or one with safetensors or GGUF files.",
        )
    config = fetch_json(facts, "config.json", token)
    if "quantization_config" not in config and QUANTIZATION_FILE in facts.files:
        config["hf_quant_config"] = fetch_json(facts, QUANTIZATION_FILE, token)
    return config


def fetch_json(facts: RepoFacts, path: str, token: str | None = None, limit: int | None = None) -> dict[str, Any]:
    """A JSON object of a repository at its commit.

    Args:
        limit: bytes; that of a config.json without it.

    Raises:
        ModelUnsupported: it is not a JSON object, or too large to be one.
        ModelUnavailable: it could not be fetched.
    """
    body = fetch_file(facts, path, settings().max_config_bytes if limit is None else limit, token)
    broken = ModelUnsupported(
        f"The {path} of {facts.ref.id} is not a JSON object.", "The repository may be broken; try another revision."
    )
    try:
        found = parse_sendable(body)
    except ValueError as error:
        raise broken from error
    if not isinstance(found, dict):
        raise broken
    return found
