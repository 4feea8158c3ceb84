"""What one pass through a model reads from memory, and how many multiplications it takes. Pure arithmetic.

A decode step reads every weight that its tokens pass: layers and norms, the output head, of an embedding only
the rows looked up (unless it is tied as the head), of the routed experts only those that are visited. It reads
neither a vision or audio tower nor an encoder. How fast that goes stands in `speed.py`.
"""

from __future__ import annotations

import re
import weakref
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any, Literal

from ...precision import DTYPE_BYTES, PRECISIONS, Precision
from ..inventory import Inventory, TensorSpec
from ..stored import layer_of
from ..weights import store, weight_bytes

# Named by what they are for, in all multimodal classes of transformers that the bundled configs build.
_TOWER = re.compile(
    r"(?:^|\.)(?:vision\w*|visual|audio\w*|image\w*|mm_\w+|multi_?modal\w*|patch_embed\w*|embed_(?:vision|audio)"
    r"|resampler|connector|aligner)(?:\.|$)"
)
_ENCODER = re.compile(r"^(?:model\.)?encoder\.")
_DECODER = re.compile(r"^(?:model\.)?decoder\.")
_ROUTED = re.compile(r"\.experts\.\d+\.")  # experts that were not fused into one tensor
_KIND = attrgetter(*(f.name for f in fields(TensorSpec) if f.name not in ("name", "tied_to")))

LINEARS = 7  # of a decoder layer, where a checkpoint's own names don't tell: q, k, v, o, gate, up, down

Part = Literal["layers", "head", "rows", "experts", "routed", "encoder"]


@dataclass(frozen=True, slots=True)
class Reads:
    """Bytes and elements of the parts that a pass of the text model touches, as held in one precision.

    Attributes:
        layers: bytes of all that each token passes, experts, head and embeddings aside.
        head: bytes of the output head, tied or not.
        row: bytes of the embedding rows that one token looks up.
        experts: bytes of all routed experts, as held.
        expert_copies: bytes of the fused experts once dequantized, which bitsandbytes does to all of them at
            each use (`bitsandbytes/nn/parametrize.py`); 0 where it doesn't.
        linear_copies: bytes of the quantized linear layers once dequantized.
        encoder: bytes of an encoder, which reads the prompt and takes no part in decoding.
        blocks: decoder layers; `expert_blocks` those of them with routed experts.
        linears: linear layers that a quantizer replaced.
        layer_elements: weights each token is multiplied with in those layers; `head_elements`,
            `expert_elements` and `encoder_elements` likewise.
    """

    layers: int = 0
    head: int = 0
    row: int = 0
    experts: int = 0
    expert_copies: int = 0
    linear_copies: int = 0
    encoder: int = 0
    blocks: int = 0
    expert_blocks: int = 0
    linears: int = 0
    layer_elements: int = 0
    head_elements: int = 0
    expert_elements: int = 0
    encoder_elements: int = 0


def expert_share(experts: int, experts_per_token: int, tokens: int) -> float:
    """The share of routed experts that `tokens` tokens visit together, if each chooses evenly and on its own.

    1 − (1 − k/E)^tokens, for k of E experts a token.
    """
    if not experts:
        return 0.0
    return 1 - (1 - min(experts_per_token / experts, 1)) ** tokens


def reads(inventory: Inventory, precision: Precision) -> Reads | None:
    """What a pass reads; kept for each inventory and precision, since a table asks once for every GPU.

    `None` where the checkpoint is to be taken as stored, and how it is stored isn't known.
    """
    kept = _kept(inventory)
    key = (precision.id, precision.dtype)
    if key not in kept.reads:
        kept.reads[key] = _reads(inventory, kept.outline, precision)
    return kept.reads[key]


@dataclass(frozen=True, slots=True)
class _Outline:
    """Like tensors counted, by the part that reads them."""

    parts: tuple[tuple[Part, TensorSpec, int], ...]
    blocks: int
    expert_blocks: int


@dataclass(slots=True)
class _Kept:
    outline: _Outline
    reads: dict[tuple[str, str], Reads | None] = field(default_factory=dict)


# By identity: hashing an inventory would hash all of its tensors.
_KEPT: dict[int, _Kept] = {}


def _kept(inventory: Inventory) -> _Kept:
    key = id(inventory)
    found = _KEPT.get(key)
    if found is None:
        found = _KEPT[key] = _Kept(_outline(inventory.tensors))
        weakref.finalize(inventory, _KEPT.pop, key, None)
    return found


def _outline(tensors: Sequence[TensorSpec]) -> _Outline:
    tied_as_head = {t.tied_to for t in tensors if t.role == "head"}
    encodes = any(_DECODER.match(t.name) for t in tensors)
    counts: Counter[tuple[Part, Any]] = Counter()
    example: dict[Hashable, TensorSpec] = {}
    blocks, expert_blocks = set(), set()
    for t in tensors:
        if t.tied_to is not None or t.role == "buffer" or _TOWER.search(t.name):
            continue
        part: Part = "encoder" if encodes and _ENCODER.match(t.name) else _part(t)
        key = (part, _KIND(t))
        counts[key] += 1
        example.setdefault(key, t)
        if part == "rows" and t.name in tied_as_head:
            counts["head", key[1]] += 1
            example.setdefault(("head", key[1]), t)
        layer = layer_of(t.name)
        if layer[-1:].isdigit() and part != "encoder":
            blocks.add(layer)
            if part in ("experts", "routed"):
                expert_blocks.add(layer)
    parts = tuple((key[0], example[key], count) for key, count in counts.items())
    return _Outline(parts, len(blocks), len(expert_blocks))


def _part(t: TensorSpec) -> Part:
    if t.role == "head":
        return "head"
    if t.role == "embedding":
        return "rows"
    if t.role == "experts":
        return "experts"
    return "routed" if _ROUTED.search(t.name) else "layers"


def _reads(inventory: Inventory, outline: _Outline, precision: Precision) -> Reads | None:
    if precision.method == "gguf":
        return _scaled(inventory, outline, precision)
    if precision.method != "stored":
        return _summed(outline, precision)
    if not inventory.native:
        return None
    # Packed tensors tell bytes; what tokens are multiplied with stands in the model as it is built.
    logical, held = _summed(outline, PRECISIONS["bf16"]), _summed(_outline(inventory.native), precision)
    return replace(logical, **{name: getattr(held, name) for name in _BYTES}, linears=logical.blocks * LINEARS)


def _scaled(inventory: Inventory, outline: _Outline, precision: Precision) -> Reads:
    """A GGUF mix as if it were even: every part smaller by as much as the whole."""
    whole = _summed(outline, PRECISIONS["bf16"])
    share = weight_bytes(inventory, precision).held / weight_bytes(inventory, PRECISIONS["bf16"]).held
    return replace(whole, **{name: round(getattr(whole, name) * share) for name in _BYTES})


def _summed(outline: _Outline, precision: Precision) -> Reads:
    sums: Counter[str] = Counter(blocks=outline.blocks, expert_blocks=outline.expert_blocks)
    for part, spec, count in outline.parts:
        held = store(spec, precision)
        packed = held.storage_dtype != held.logical_dtype
        copies = count * spec.elements * DTYPE_BYTES[held.logical_dtype] if packed else 0
        if part == "rows":
            sums["row"] += count * held.held_bytes // max(spec.shape[0], 1)
            continue
        sums["experts" if part == "routed" else part] += count * held.held_bytes
        sums[_ELEMENTS[part]] += count * spec.elements
        if part == "experts":
            sums["expert_copies"] += copies if precision.method == "4bit" else 0
        elif packed and part != "encoder":
            sums["linear_copies"] += copies
            sums["linears"] += count
    return Reads(**sums)


_BYTES = ("layers", "head", "row", "experts", "encoder")
_ELEMENTS: dict[Part, str] = {
    "layers": "layer_elements",
    "head": "head_elements",
    "experts": "expert_elements",
    "routed": "expert_elements",
    "encoder": "encoder_elements",
}
