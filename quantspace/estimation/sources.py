"""Where an inventory comes from: the best source that a repository offers, and why no better one.

The model's class ▸ headers of safetensors files ▸ headers of GGUF files ▸ the Hub's counts ▸ sizes of files.
Adapters and pipelines of several models are told apart first. Nothing here is kept: `builder.py` does that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ..errors import ModelGated, ModelUnsupported
from ..hub.client import RepoFacts
from ..hub.json_files import fetch_config
from ..hub.safetensors_files import weight_files
from ..hub.safetensors_headers import read_headers
from .adapters import AdapterFacts, adapter_of, base_errors, with_adapter, with_adapter_size
from .gguf.repository import read_gguf_inventory, with_gguf_files
from .headers import inventory_from_counts, inventory_from_headers, inventory_from_sizes, refuse_too_many
from .inventory import Inventory
from .pipelines import fetch_embedding_config, is_pipeline, read_pipeline, uses_modules, why_no_class, with_modules

Build = Callable[[dict[str, Any], RepoFacts], Inventory]  # a config's class, in a process of its own
BaseOf = Callable[[AdapterFacts], Inventory]  # the model that an adapter is for

MAX_ADAPTED = 100_000  # tensors of an adapter; one of rank 8 on each expert of Qwen3-30B-A3B has 37,000
_GGUF = 2  # its place among the sources
Source = Callable[[str], Inventory]  # takes why no better one served


def read_inventory(facts: RepoFacts, token: str | None, build: Build, base_of: BaseOf, doubts: list[str]) -> Inventory:
    """The inventory of a repository whose files may be read.

    Args:
        doubts: takes what could not be fetched this time and may be the next.

    Raises:
        ModelUnsupported: none of its files tells what the model holds; why the best source did not serve.
        ModelUnavailable: the Hub does not give them.
    """
    adapter = adapter_of(facts, token)
    if adapter is not None:
        return _adapted(adapter, base_of, facts, token)
    if is_pipeline(facts):
        return read_pipeline(facts, token)
    return _first(facts, _sources(facts, token, build, doubts))


def inventory_without_files(facts: RepoFacts, refusal: ModelGated) -> Inventory:
    """What can be told of a model whose files are closed to who asks: the Hub's counts are open to everybody.

    Raises:
        ModelGated: the refusal itself, where the Hub has counted nothing.
    """
    try:
        return inventory_from_counts(facts, f"{refusal.message} {refusal.hint}")
    except ModelUnsupported:
        raise refusal from None


def _adapted(adapter: AdapterFacts, base_of: BaseOf, facts: RepoFacts, token: str | None) -> Inventory:
    with base_errors(adapter):
        base = base_of(adapter)
    if adapter.pickled:
        found = with_adapter_size(base, adapter)
    else:
        headers = read_headers(facts, token, paths=[adapter.weights])
        stored = [(tensor.name, tensor.dtype, tensor.shape) for header in headers for tensor in header.tensors]
        refuse_too_many(facts, len(stored), MAX_ADAPTED)
        found = with_adapter(base, adapter, stored)
    return replace(found, revision=facts.ref.revision, source_kind="adapter")


def _first(facts: RepoFacts, sources: Iterator[Source]) -> Inventory:
    refusals: list[ModelUnsupported] = []
    for source in sources:
        try:
            return source(refusals[0].message if refusals else "")
        except ModelUnsupported as error:
            refusals.append(error)
    in_gguf = any(path.endswith(".gguf") for path in facts.files)
    raise refusals[_GGUF if in_gguf else 0]


def _sources(facts: RepoFacts, token: str | None, build: Build, doubts: list[str]) -> Iterator[Source]:
    config: dict[str, Any] = {}

    def from_class(why: str) -> Inventory:
        if uses_modules(facts):
            return with_modules(build(fetch_embedding_config(facts, token), facts), facts, token)
        if reason := why_no_class(facts):
            raise ModelUnsupported(reason, "Only what its weights take can be told.")
        config.update(fetch_config(facts, token))
        found = replace(build(config, facts), safetensors=bool(weight_files(facts.files)))
        return with_gguf_files(found, facts, token, doubts=doubts)

    def from_headers(why: str) -> Inventory:
        found = inventory_from_headers(facts, read_headers(facts, token), config or None, why)
        return with_gguf_files(found, facts, token, doubts=doubts)

    yield from_class
    yield from_headers
    yield lambda why: read_gguf_inventory(facts, token, doubts=doubts)
    yield lambda why: inventory_from_counts(facts, why)
    yield lambda why: inventory_from_sizes(facts, config or None, why)
