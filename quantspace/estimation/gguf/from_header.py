"""From the header of a GGUF file to what it holds by type and layer, and to the inventory of its model.

How its cache grows is the matter of `metadata.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ...errors import shorten
from ...hub.client import RepoFacts
from ...hub.gguf_files import GgufPaths, commonest_type, header_label
from ...hub.gguf_header import GgufHeader, TensorInfo
from ..inventory import Inventory, Role, TensorSpec
from .file import GgufFile, Part, TypeSum
from .metadata import BLOCK, ENCODERS, KNOWN, WITHOUT_CACHE, cache_rows, largest, layer_count, number

# Of llama.cpp's `LLM_TENSOR_LAYER_INPUT` (src/llama-arch.cpp), which it keeps in system memory.
_INPUT = re.compile(r"^(token_embd|token_embd_norm|position_embd|token_types|per_layer_token_embd)\.")
_EMBEDDING = re.compile(r"^(token_embd|position_embd|token_types|per_layer_token_embd)\.weight$")
_HEAD = "output.weight"
_TOKENS = "token_embd.weight"
_NUMBERED = re.compile(r"^(?:[^0-9][^.]*\.)*[0-9]+\.")  # `blk.3.`, `enc.blk.3.`, `double_blocks.3.`
_PARTS: tuple[Part, ...] = ("layers", "input", "output")


def file_of(paths: GgufPaths, header: GgufHeader, tensors: Sequence[TensorInfo], own: bool = False) -> GgufFile:
    """What a file holds.

    Args:
        header: of a file of the same model.
        tensors: of this file.
        own: whether `header` is its own.
    """
    layers = [0] * layer_count(header)
    sums: dict[Part, int] = dict.fromkeys(_PARTS, 0)
    counts: Counter[tuple[Part, str]] = Counter()
    elements: Counter[tuple[Part, str]] = Counter()
    held: Counter[tuple[Part, str]] = Counter()
    tied = is_tied(header, tensors)
    for tensor in tensors:
        layer = _layer(tensor.name, len(layers))
        part: Part = "layers" if layer is not None else "input" if _INPUT.match(tensor.name) else "output"
        if layer is not None:
            layers[layer] += tensor.bytes
        sums[part] += tensor.bytes
        shown: Part = "output" if tied and tensor.name == _TOKENS else part
        counts[shown, tensor.type] += 1
        elements[shown, tensor.type] += tensor.elements
        held[shown, tensor.type] += tensor.bytes
    types = [TypeSum(*key, counts[key], elements[key], held[key]) for key, _ in held.most_common()]
    again = sum(tensor.bytes for tensor in tensors if tied and tensor.name == _TOKENS)
    return GgufFile(
        paths.paths,
        paths.label or (header_label(header) if own else commonest_type(tensors)),
        paths.size,
        sum(sums.values()),
        len(tensors),
        sums["input"],
        tuple(layers) if sums["layers"] else (),
        sums["output"] + again,
        tuple(types),
    )


def file_by_size(paths: GgufPaths, like: GgufFile) -> GgufFile:
    """What a file holds by its size alone, shared out as in another file of the model."""
    weights = max(paths.size - (like.size - like.weights), 0)
    input_bytes, *layers = (part * weights // like.weights for part in (like.input, *like.layers))
    on_gpu = like.on_gpu * weights // like.weights
    return GgufFile(
        paths.paths,
        paths.label or "GGUF",
        paths.size,
        weights,
        like.tensors,
        input_bytes,
        tuple(layers),
        on_gpu - sum(layers),
        exact=False,
    )


def is_tied(header: GgufHeader, tensors: Iterable[TensorInfo]) -> bool:
    """Whether the token embeddings are the output head too: llama.cpp then loads them twice."""
    names = {tensor.name for tensor in tensors if tensor.name in (_HEAD, _TOKENS)}
    return names == {_TOKENS} and header.architecture not in ENCODERS


def same_model(header: GgufHeader, tensors: Iterable[TensorInfo]) -> bool:
    """Whether tensors are those of the model of `header`: most by name, none in another shape, in the same layers."""
    known = {tensor.name: tensor.shape for tensor in header.tensors}
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    common = known.keys() & shapes.keys()
    alike = 2 * len(common) > len(known) and all(known[name] == shapes[name] for name in common)
    return alike and _numbered(known) == _numbered(shapes)


def _numbered(names: Iterable[str]) -> set[str]:
    """The layers that tensors are in, each as the beginning of their names: `blk.3.`."""
    return {match[0] for name in names if (match := _NUMBERED.match(name))}


def inventory_from_gguf(facts: RepoFacts, header: GgufHeader, files: Sequence[GgufFile]) -> Inventory:
    """The inventory of the model of a GGUF file, with a row to come for each file.

    Args:
        header: of one of `files`.
    """
    layers = layer_count(header)
    cache = cache_rows(header, layers)
    tokens = next((tensor for tensor in header.tensors if tensor.name == _TOKENS), None)
    width = number(header.get("embedding_length")) or (tokens.shape[-1] if tokens else 0)
    return Inventory(
        model_id=facts.ref.id,
        revision=facts.ref.revision,
        sha=facts.sha,
        architecture=_shown(header) or "unknown",
        tensors=tuple(_specs(header)),
        cache=cache,
        peak=(),
        source=f"the header of {shorten(header.path, 160)} on the Hub, read by range request",
        source_kind="gguf",
        weights_only=_left_out(header, bool(cache)),
        peak_measured=False,
        max_context=number(header.get("context_length")) or None,
        prequantized="gguf",
        blocks=tuple(f"blk.{layer}" for layer in range(layers)),
        attention_heads=largest(header, "attention.head_count") or None,
        key_value_heads=largest(header, "attention.head_count_kv") or largest(header, "attention.head_count") or None,
        hidden_size=width or None,
        vocab_size=tokens.shape[0] if tokens and len(tokens.shape) > 1 else None,
        experts=number(header.get("expert_count")),
        experts_per_token=number(header.get("expert_used_count")),
        files=tuple(files),
        notes=tuple(_notes(facts, header)),
    )


def _specs(header: GgufHeader) -> Iterator[TensorSpec]:
    for tensor in header.tensors:
        yield TensorSpec(tensor.name, tensor.shape, _role(tensor))
    if is_tied(header, header.tensors):
        tokens = next(tensor for tensor in header.tensors if tensor.name == _TOKENS)
        yield TensorSpec(_HEAD, tokens.shape, "head", tied_to=_TOKENS)


def _role(tensor: TensorInfo) -> Role:
    if _EMBEDDING.match(tensor.name):
        return "embedding"
    if tensor.name == _HEAD:
        return "head"
    if tensor.name.startswith("rope_"):
        return "buffer"
    if "_exps." in tensor.name:
        return "experts"
    if "norm" in tensor.name:
        return "norm"
    if tensor.name.endswith(".bias"):
        return "bias"
    return "linear" if len(tensor.shape) > 1 else "other"


def _layer(name: str, layers: int) -> int | None:
    match = BLOCK.match(name)
    return int(match[1]) if match and int(match[1]) < layers else None


def _shown(header: GgufHeader) -> str:
    """The architecture as it may be shown: a file's text can be anything."""
    return shorten(header.architecture)


def _left_out(header: GgufHeader, cached: bool) -> str:
    if cached:
        return ""
    if header.architecture in WITHOUT_CACHE:
        return f"Weights and llama.cpp's buffer alone: it keeps no cache for {header.architecture} models."
    name = _shown(header) or "which it does not name"
    return f"Weights alone, without a cache: how that of its architecture ({name}) grows is not known here."


def _notes(facts: RepoFacts, header: GgufHeader) -> Iterator[str]:
    if header.architecture and header.architecture not in KNOWN:
        yield (
            f"llama.cpp's architecture {_shown(header)} is not known here: its cache is counted "
            "by the keys that most of them share."
        )
    if facts.base_models:
        yield f"For other precisions see the model that these files were made from: {', '.join(facts.base_models)}."
