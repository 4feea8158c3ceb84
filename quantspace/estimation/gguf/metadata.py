"""What the metadata of a GGUF file says of a model's cache, layer by layer, as llama.cpp keeps it.

Keys are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; what is made of them follows llama.cpp's
`src/llama-hparams.cpp` (`n_embd_k_gqa`, `n_embd_r`, `n_embd_s`, `set_swa_pattern`, `has_kv`), `src/llama-kv-cache.cpp`
(no values beside the latent of MLA) and the hyperparameters that `src/models/*.cpp` set. Which layers attend and
which are recurrent is seen from their tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...hub.gguf_header import GgufHeader
from ..inventory import CacheLayer

MAX_LAYERS = 1024  # llama.cpp stops at 512 (LLAMA_MAX_LAYERS)
_MOST = 2**31  # of any number taken from metadata

BLOCK = re.compile(r"^(?:(?:enc|dec)\.)?blk\.(\d{1,4})\.(.+)$")
_CACHED = ("attn_k.", "attn_kv_a_mqa.", "attn_kv_b.", "attn_k_b.")
_RECURRENT = ("ssm_", "shortconv.", "time_mix_")

# Every so many layers one sees all tokens, the others a window: (layers, window where the file names none).
_PERIODS: Mapping[str, tuple[int, int]] = {
    "gemma2": (2, 4096),
    "gemma3": (6, 0),
    "gemma3n": (5, 0),
    "cohere2": (4, 0),
    "gpt-oss": (2, 0),
    "llama4": (4, 8192),
    "olmo2": (4, 0),
    "exaone4": (4, 0),
    "plamo3": (8, 0),
    "afmoe": (4, 0),
}
_WINDOWS_UNUSED = ("phi3", "phimoe")  # the key is there, and llama.cpp passes over it
_OWN_CACHES = {"gemma3n": 20}  # layers from the first on that keep keys and values; the others use theirs

# Of llama.cpp's architectures those that have no cache there: embedding models and diffusing language models.
WITHOUT_CACHE = frozenset(
    "bert nomic-bert nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 modern-bert eurobert gemma-embedding t5encoder "
    "wavtokenizer-dec dream llada llada-moe rnd1".split()
)
ENCODERS = WITHOUT_CACHE - {"dream", "llada", "llada-moe", "rnd1"}  # which have no output head
# Those whose keys were compared with what llama.cpp makes of them.
KNOWN = frozenset(
    "afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bitnet bloom chameleon chatglm codeshell cogvlm "
    "cohere2 command-r dbrx deci deepseek deepseek2 deepseek2-ocr dots1 ernie4_5 ernie4_5-moe exaone exaone-moe "
    "exaone4 falcon falcon-h1 gemma gemma2 gemma3 gemma3n gemma4 glm4 glm4moe gpt-oss gpt2 gptj gptneox granite "
    "granitehybrid granitemoe grok grovemoe hunyuan-dense hunyuan-moe hunyuan_vl internlm2 jais jais2 jamba "
    "kimi-linear lfm2 lfm2moe llama llama4 maincoder mamba mamba2 minicpm minicpm3 minimax-m2 mistral3 mistral4 mpt "
    "nemotron nemotron_h nemotron_h_moe olmo olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe "
    "plamo plamo2 plamo3 plm qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe qwen3moe qwen3next qwen3vl qwen3vlmoe "
    "refact rwkv6 rwkv6qwen2 rwkv7 seed_oss smollm3 stablelm starcoder starcoder2 t5 xverse".split()
) | WITHOUT_CACHE  # fmt: skip


def number(value: Any, default: int = 0) -> int:
    """A count from metadata; `default` where it is none that a model could have."""
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST
    return value if sound else default


def layer_count(header: GgufHeader) -> int:
    """Blocks of the model; 0 where the file does not say, or not soundly."""
    found = number(header.get("block_count"))
    return found if found <= MAX_LAYERS else 0


def largest(header: GgufHeader, key: str) -> int:
    """The value of a key that may be a list, one for each layer: then the largest."""
    value = header.get(key)
    return max(map(number, value), default=0) if isinstance(value, list) else number(value)


def cache_rows(header: GgufHeader, layers: int) -> tuple[CacheLayer, ...]:
    """How the cache of each layer grows, like layers together.

    Args:
        layers: number of blocks.
    """
    if header.architecture in WITHOUT_CACHE:
        return ()
    names = _names_by_layer(header, layers)
    attention = _attention(header, layers)
    state = _state(header)
    alike: dict[tuple[Any, ...], list[int]] = {}
    for layer, inside in enumerate(names):
        recurrent = any(name.startswith(_RECURRENT) for name in inside)
        attends = any(name.startswith(_CACHED) for name in inside) or (
            not recurrent and any(name.startswith("attn_qkv.") for name in inside)
        )
        tokens, window = attention[layer] if attends else (0, None)
        held = state if recurrent else (0, 0)
        if tokens or any(held):
            kind = _KINDS[bool(any(held)), bool(tokens), window is not None]
            alike.setdefault((kind, window, tokens, *held), []).append(layer)
    return tuple(
        CacheLayer(kind, tuple(places), window, tokens, 0, elements, held)
        for (kind, window, tokens, elements, held), places in alike.items()
    )


_KINDS = {
    (False, True, False): "DynamicLayer",
    (False, True, True): "DynamicSlidingWindowLayer",
    (True, False, False): "LinearAttentionLayer",
    (True, True, False): "LinearAttentionAndFullAttentionLayer",
    (True, True, True): "LinearAttentionAndSlidingWindowAttentionLayer",
}


def _names_by_layer(header: GgufHeader, layers: int) -> list[list[str]]:
    names: list[list[str]] = [[] for _ in range(layers)]
    for tensor in header.tensors:
        match = BLOCK.match(tensor.name)
        if match and int(match[1]) < layers and not tensor.name.startswith("enc."):
            names[int(match[1])].append(match[2])
    return names


def _attention(header: GgufHeader, layers: int) -> list[tuple[int, int | None]]:
    """Of each layer the values that it keeps a token, and its window; (0, None) where it keeps none."""
    heads = _by_layer(header.get("attention.head_count"), layers, 0)
    shared = _by_layer(header.get("attention.head_count_kv"), layers, None)
    windows = _windows(header, layers)
    keeping = _keeping(header, layers)
    found = []
    for layer in range(layers):
        own = heads[layer] if shared[layer] is None else shared[layer]
        window = windows[layer]
        values = own * _head_values(header, max(heads, default=0), window is not None) if layer < keeping else 0
        found.append((values + _index_values(header), window) if values else (0, None))
    return found


def _keeping(header: GgufHeader, layers: int) -> int:
    """Layers from the first on that keep keys and values of their own: not those that predict ahead (MTP)."""
    own = _OWN_CACHES.get(header.architecture, layers - number(header.get("attention.shared_kv_layers")))
    return min(own, layers - number(header.get("nextn_predict_layers")))


def _head_values(header: GgufHeader, heads: int, windowed: bool) -> int:
    """Values of one head's key and value; of MLA those of the latent, which serves as both."""
    width = number(header.get("embedding_length")) // heads if heads else 0
    suffix = "_swa" if windowed and header.get("attention.key_length_swa") is not None else ""
    key = number(header.get(f"attention.key_length{suffix}"), width)
    value = number(header.get(f"attention.value_length{suffix}"), width)
    latent = header.get("attention.kv_lora_rank") and header.get("attention.key_length_mla")
    return key if latent else key + value


def _index_values(header: GgufHeader) -> int:
    """Values of a sparse attention's index key (DeepSeek-V3.2), one head a layer."""
    return number(header.get("attention.indexer.key_length"))


def _windows(header: GgufHeader, layers: int) -> Sequence[int | None]:
    """The window of each layer; `None` where it sees all tokens.

    A window that is named without a pattern, in an architecture that isn't known to use it, is passed over: to
    count all tokens errs on the safe side.
    """
    period, assumed = _PERIODS.get(header.architecture, (0, 0))
    window = number(header.get("attention.sliding_window"), assumed)
    pattern = header.get("attention.sliding_window_pattern")
    if not window or header.architecture in _WINDOWS_UNUSED or (header.architecture == "exaone4" and layers != 64):
        return [None] * layers
    if isinstance(pattern, list):
        return [window if layer < len(pattern) and pattern[layer] else None for layer in range(layers)]
    period = number(pattern, period)
    return [window if period and layer % period < period - 1 else None for layer in range(layers)]


def _state(header: GgufHeader) -> tuple[int, int]:
    """Of a recurrent layer the values of its convolution's state, and the bytes of the rest, both in float32."""
    width, kernel = number(header.get("embedding_length")), number(header.get("ssm.conv_kernel"))
    before = max(kernel - 1, 0)
    if head := number(header.get("wkv.head_size")):  # RWKV
        return number(header.get("token_shift_count"), 2) * width, 4 * width * head
    if columns := number(header.get("shortconv.l_cache")):  # LFM2
        return width * (columns - 1), 0
    if head := number(header.get("kda.head_dim")):  # Kimi Linear
        heads = largest(header, "attention.head_count")
        return 3 * before * heads * head, 4 * heads * head * head
    inner, state = number(header.get("ssm.inner_size")), number(header.get("ssm.state_size"))
    groups = number(header.get("ssm.group_count"))
    return before * (inner + 2 * groups * state), 4 * inner * state


def _by_layer(value: Any, layers: int, default: int | None) -> list[Any]:
    """A value for each layer of one that may be a list; `default` where it says nothing."""
    if isinstance(value, list):
        return [number(value[layer]) if layer < len(value) else default for layer in range(layers)]
    return [number(value) if isinstance(value, int) else default] * layers
