"""How a cache grows, by the shapes of a checkpoint's attention layers, and by its config where they don't tell.

Keys and values have as many values a token as their projections have outputs; of a fused projection the config's
heads tell the share. Latent attention (MLA) keeps its latent, as transformers and vLLM do. A recurrent layer keeps
a state that does not grow: 4 bytes × inner size × state size, and its convolution's columns
(`transformers/models/mamba2/modeling_mamba2.py`, `qwen3_next/modeling_qwen3_next.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from ..inventory import CacheLayer, TensorSpec
from .classify import layer_of
from .plain_config import Numbers

_KEYS = frozenset("k_proj key wk k key_proj k_lin to_k k_linear key_layer".split())
_VALUES = frozenset("v_proj value wv v value_proj v_lin to_v v_linear value_layer".split())
_FUSED = frozenset(
    "qkv_proj qkv c_attn query_key_value Wqkv wqkv W_pack att_proj to_qkv in_proj in_proj_weight".split()
)
_KEYS_AND_VALUES = frozenset("kv_proj key_value c_kv wkv to_kv kv".split())
_LATENT = frozenset("kv_a_proj_with_mqa kv_a_proj wkv_a".split())
_PROJECTIONS = _KEYS | _VALUES | _FUSED | _KEYS_AND_VALUES | _LATENT
_RECURRENT = frozenset("A_log time_decay time_faaaa receptance dt_proj x_proj dt_bias in_proj_qkvz slope_rate".split())
_CONVOLVED = frozenset(("conv", "short_conv", "shortconv"))  # modules of a convolution that keeps its last columns
_NOT_CACHED = re.compile(r"vision|visual|\bvit\b|audio|image|speech|tower|\bmtp\b|nextn|draft|resampler|perceiver")
_CROSS = re.compile(r"EncDecAttention|encoder_attn|cross_attn|crossattention", re.IGNORECASE)
_STATE_SIZE = 4  # bytes: states are kept in float32


@dataclass(slots=True)
class _Attention:
    """The projections of one attention or recurrent module."""

    keys: int = 0
    values: int = 0
    both: int = 0  # keys and values in one
    fused: int = 0  # queries, keys and values in one
    latent: int = 0
    recurrent: bool = False
    convolution: tuple[int, ...] = ()
    decay: tuple[int, ...] = ()  # shape of A_log
    inner: int = 0  # columns of its way back
    told: bool = True  # whether the outputs of all its projections are known

    @property
    def stateful(self) -> bool:
        return self.recurrent or bool(self.convolution)


@dataclass(frozen=True, slots=True)
class Geometry:
    """What shapes and a config tell of a model's cache.

    Attributes:
        layers: of it; empty where neither tells.
        blocks: names of the modules that a split over devices keeps whole.
        latent: whether it is a latent that is kept.
        from_config: whether no shape told it.
        notes: for people: what is assumed, and what is left out.
    """

    layers: tuple[CacheLayer, ...]
    blocks: tuple[str, ...]
    latent: bool = False
    from_config: bool = False
    notes: tuple[str, ...] = field(default=())


def geometry(specs: Iterable[TensorSpec], numbers: Numbers) -> Geometry:
    """How the cache of a model with these tensors grows."""
    specs = list(specs)
    found = _modules(specs)
    blocks = _blocks(specs)
    notes: list[str] = []
    rows: list[CacheLayer] = []
    told = all(module.told or module.stateful for modules in found.values() for module in modules.values())
    for place, (stack, layer) in _places(found).items() if told else ():
        rows.extend(_layer_rows(place, layer, found[stack, layer], numbers, notes))
    if rows:
        latent = any(module.latent for modules in found.values() for module in modules.values())
        if latent:
            notes.append(
                "Attention keeps a latent for each token, as transformers and vLLM do; other code may keep all "
                "keys and values, which is far more."
            )
        if numbers.loose_window:
            notes.append(
                f"Its config speaks of a window of {numbers.window:,} tokens but not of which layers have it: all "
                "layers are counted with every token."
            )
        return Geometry(_grouped(rows), blocks, latent, notes=tuple(dict.fromkeys(notes)))
    layers = _by_config(numbers)
    return Geometry(layers, blocks, from_config=bool(layers))


def _modules(specs: list[TensorSpec]) -> dict[tuple[str, int], dict[str, _Attention]]:
    """(stack, layer) → module → its projections, of the layers that generate."""
    found: dict[tuple[str, int], dict[str, _Attention]] = {}
    for spec in specs:
        where = layer_of(spec.name)
        if where is None or _NOT_CACHED.search(where[0]):
            continue
        stack, layer, rest = where
        parts = rest.removesuffix(".weight").split(".")
        leaf, module = parts[-1], ".".join(parts[:-1])
        if leaf in ("conv1d", "out_proj", "o_proj", "conv") or leaf in _RECURRENT or spec.rows:
            _note_part(found.setdefault((stack, layer), {}).setdefault(module, _Attention()), leaf, spec)
    decoders = {stack for stack, _ in found if "decoder" in stack}
    kept = {
        key: {module: parts for module, parts in modules.items() if _counts(parts)}
        for key, modules in found.items()
        if not (decoders and "encoder" in key[0] and key[0] not in decoders)
    }
    return {key: modules for key, modules in kept.items() if modules}


def _note_part(module: _Attention, leaf: str, spec: TensorSpec) -> None:
    if spec.rows == 1 and leaf in _PROJECTIONS:  # no head is so narrow: packed, and of a shape that nothing tells
        module.told = False
    if leaf in _KEYS:
        module.keys = spec.rows
    elif leaf in _VALUES:
        module.values = spec.rows
    elif leaf in _LATENT:
        module.latent = spec.rows
    elif leaf in _KEYS_AND_VALUES:
        module.both = spec.rows
    elif leaf in _FUSED:
        module.fused = spec.rows
    elif leaf in ("conv1d", "conv") and len(spec.shape) == 3:
        module.convolution = spec.shape
    elif leaf in ("out_proj", "o_proj") and spec.rows > 1:
        module.inner = spec.columns
    if leaf in _RECURRENT:
        module.recurrent = True
        if leaf == "A_log":
            module.decay = spec.shape


def _counts(module: _Attention) -> bool:
    return bool(module.keys or module.both or module.fused or module.latent or module.recurrent or module.convolution)


def _places(found: dict[tuple[str, int], dict[str, _Attention]]) -> dict[int, tuple[str, int]]:
    """Place in the cache's list of layers → (stack, layer); those of the largest stack keep their numbers."""
    stacks: dict[str, list[int]] = {}
    for stack, layer in found:
        stacks.setdefault(stack, []).append(layer)
    places: dict[int, tuple[str, int]] = {}
    for stack, layers in sorted(stacks.items(), key=lambda item: (-len(item[1]), item[0])):
        after = max(places, default=-1) + 1
        places |= {after + layer: (stack, layer) for layer in sorted(layers)}
    return places


def _layer_rows(
    place: int, layer: int, modules: dict[str, _Attention], numbers: Numbers, notes: list[str]
) -> Iterator[CacheLayer]:
    """What one layer caches: for its own tokens, and apart from them for those of an encoder."""
    kind = numbers.kinds[layer] if layer < len(numbers.kinds) else "full_attention"
    own = [module for name, module in modules.items() if not _CROSS.search(name)]
    linear = "linear" in kind or "mamba" in kind or "recurrent" in kind
    states = [_state(module, numbers, notes) for module in own if module.stateful]
    elements = sum(_token_elements(module, numbers, notes) for module in own if not module.stateful)
    if linear and elements and not states:
        notes.append("The states of its linear attention, which do not grow with the context, are left out.")
        elements = 0
    if elements or states:
        window = {"sliding_attention": numbers.window, "chunked_attention": numbers.chunk}.get(kind)
        yield CacheLayer(
            kind=_kind(kind, bool(elements), window, bool(states)),
            layers=(place,),
            window=window if elements else None,
            token_elements=elements,
            state_elements=sum(columns for columns, _ in states),
            state_bytes=sum(held for _, held in states),
        )
    for name, module in modules.items():
        if _CROSS.search(name) and (crossed := _token_elements(module, numbers, notes)):
            yield CacheLayer("full_attention", (place,), None, crossed)


def _kind(kind: str, grows: bool, window: int | None, stateful: bool) -> str:
    """In the words of transformers' `layer_types`; of layers with a state, its cache class."""
    if stateful:
        return "LinearAttentionAndFullAttentionLayer" if grows else "LinearAttentionLayer"
    return kind if window else "full_attention"


def _token_elements(module: _Attention, numbers: Numbers, notes: list[str]) -> int:
    if module.latent:
        return module.latent
    if module.keys:  # an index of keys has no values
        return module.keys + module.values
    return module.both or _share_of(module.fused, numbers, notes)


def _share_of(fused: int, numbers: Numbers, notes: list[str]) -> int:
    """Keys and values among the outputs of a fused projection."""
    heads = numbers.heads if numbers.even else None
    head = numbers.head_dim or (numbers.hidden or 0) // (heads or 1)
    if heads and head:
        for kept in (numbers.key_value_heads or heads, heads):
            if fused == (heads + 2 * kept) * head:
                return 2 * kept * head
    if fused:
        notes.append("Its config does not tell how many heads keys and values have: as many as queries are counted.")
    return -(-2 * fused // 3)


def _state(module: _Attention, numbers: Numbers, notes: list[str]) -> tuple[int, int]:
    """Columns of a convolution (in the cache's dtype), and bytes of a recurrent state, of one layer."""
    channels, kernel = (module.convolution[0], module.convolution[-1]) if module.convolution else (0, 0)
    if not module.recurrent:
        return channels * kernel, 0
    if len(module.decay) == 2:  # Mamba: a row for each channel
        return channels * kernel, _STATE_SIZE * module.decay[0] * module.decay[1]
    state = numbers.state or max(channels - module.inner, 0) // 2
    if not (state and module.inner):
        notes.append("The states of its recurrent layers, which do not grow with the context, are left out.")
        return channels * kernel, 0
    return channels * kernel, _STATE_SIZE * module.inner * state


def _by_config(numbers: Numbers) -> tuple[CacheLayer, ...]:
    """Grouped-query attention in every layer, by the config's own words; empty where it has none."""
    if not (numbers.layers and numbers.heads and numbers.key_value_heads):
        return ()
    head = numbers.head_dim or (numbers.hidden or 0) // numbers.heads
    if not head:
        return ()
    elements = 2 * numbers.key_value_heads * head
    kinds = numbers.kinds if len(numbers.kinds) == numbers.layers else ("full_attention",) * numbers.layers
    windows = {"sliding_attention": numbers.window, "chunked_attention": numbers.chunk}
    return _grouped(
        CacheLayer(kind if windows.get(kind) else "full_attention", (place,), windows.get(kind), elements)
        for place, kind in enumerate(kinds)
    )


def _blocks(specs: list[TensorSpec]) -> tuple[str, ...]:
    """Layers by name, where there are several and each has weights of its own."""
    weights: dict[str, dict[int, int]] = {}
    for spec in specs:
        if (where := layer_of(spec.name)) is not None:
            counted = weights.setdefault(where[0], {})
            counted[where[1]] = counted.get(where[1], 0) + 1
    return tuple(
        f"{stack}.{layer}"
        for stack, layers in weights.items()
        if len(layers) > 1 and sum(layers.values()) >= 3 * len(layers)
        for layer in sorted(layers)
    )


def _grouped(layers: Iterable[CacheLayer]) -> tuple[CacheLayer, ...]:
    """Layers that differ in nothing but their place, together."""
    places: dict[CacheLayer, tuple[int, ...]] = {}
    for layer in layers:
        like = replace(layer, layers=())
        places[like] = places.get(like, ()) + layer.layers
    return tuple(replace(like, layers=found) for like, found in places.items())
