"""What a config.json may ask for before any class is built from it: it is somebody else's file.

Every limit is at least four times what the largest published model asks for (`largest`, of the configs that come
with the app and of some hundred others). What stays below them and still takes too long, or too much memory, is
ended by `worker_pool.py`. What a value means is not looked at here: that is the class's affair.

No torch, no transformers: this runs where the answer to the next person is made, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ModelUnsupported, shorten

MAX_DEPTH = 32  # objects and lists inside each other; the deepest published has 8
MAX_VALUES = 300_000  # in all; 67,072 in the largest published, which names the format of every expert
MAX_ENTRIES = 100_000  # of one list or object; 22,422 published
MAX_TEXT = 100_000  # characters of one text, a chat template at the most; 480 published
MAX_KEY = 1_000  # characters
MAX_NUMBER = 10**40  # tokenizers write 10³⁰ for “no limit”

_CHECK = "Check the file: it may be broken, or not be meant to be read."
_CODE_NOTE = "The repository brings code of its own (auto_map); it is never run here."


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """How much of something a config may ask for.

    Attributes:
        what: the thing, in words.
        keys: a pattern of the whole key, in lower case; the first limit whose pattern matches holds.
        least: the smallest number that means something there.
        most: the largest that is accepted.
        largest: asked for by a published model.
        typed: whether anything but whole numbers, lists of them and null is refused.
    """

    what: str
    keys: re.Pattern[str]
    least: int
    most: int
    largest: int
    typed: bool = True


def _limit(what: str, keys: str, least: int, most: int, largest: int, typed: bool = True) -> SizeLimit:
    return SizeLimit(what, re.compile(keys), least, most, largest, typed)


_CONTEXT = (
    r"(original_)?max_position_embeddings|n_positions|n_ctx|max_seq_len|max_sequence_length|seq_length|"
    r"initial_context_length|max_(source|target)_positions|num_position_embeddings|position_embedding_size"
)
SIZE_LIMITS = (
    _limit("layers", r"num_hidden_layers|n_layers?", 1, 640, 126),
    _limit("layers", r"num_(\w+_)?layers|(encoder|decoder)_layers|depths?|num_hidden_groups", 0, 640, 126),
    _limit("layers", r"(?!.*(index|indices|idx|drop)).*_layers?", -640, 640, 98, typed=False),
    _limit("experts", r"(n|num|moe_num)_(\w+_)?experts?(_per_tok(en)?)?|experts_per_token|moe_top_?k", 0, 4096, 512),
    _limit("heads", r"(n|num|kv_n)_(\w+_)?heads?(_kv)?|heads|(\w+_)?attention_heads", 0, 2048, 256),
    _limit("rows of a vocabulary", r"vocab_size|padded_vocab_size", 1, 2**22, 262_208),
    _limit("rows of a vocabulary", r"\w*vocab_size\w*|num_embeds|embedding_size", -1, 2**22, 262_144),
    _limit("tokens", _CONTEXT, -1, 2**26, 10_485_760),
    _limit("tokens of a window", r"(?!use_)(\w+_)?sliding_window|window_size|attention_chunk_size", -1, 2**26, 262_144),
    _limit("labels", r"num_labels", 0, 100_000, 21_843),
    _limit("pixels", r"(image|patch|tile|max_image|min_image)_size|image_(height|width)", 0, 2**16, 2016, typed=False),
    _limit("columns", r"hidden_size|d_model|n_embd|n_embed", 1, 2**18, 16_384),
    _limit("columns", r"intermediate_size|moe_intermediate_size|d_ff|d_inner|ffn_dim|head_dim", 0, 2**18, 53_248),
    _limit("columns", r"(\w+_)?(size|dims?|rank|channels)|d_\w+|n_inner", -1, 2**20, 151_936, typed=False),
    _limit("bits", r"(num_|w_|weight_)?bits?", 1, 64, 8, typed=False),
    _limit("buckets", r"\w+_buckets", 0, 2**16, 32, typed=False),
)

# Attributes of transformers' `PreTrainedConfig` that a config.json does not set: methods, which a value of that
# name would hide, and tables of the class. `tests/hostile/test_limits.py` compares them with the class itself.
_NOT_SETTINGS = frozenset(
    """convert_rope_params_to_dict default_config_fields dict_dtype_to_str from_dict from_json_file from_pretrained
    get_config_dict get_mtp_config get_text_config is_custom_code is_remote_code nested_rope_parameter_keys push_to_hub
    register_for_auto_class save_pretrained standardize_rope_params to_dict to_diff_dict to_json_file to_json_string
    update update_from_string validate validate_architecture validate_layer_type validate_output_attentions
    validate_rope validate_token_ids sub_configs sub_configs_defaults attribute_map base_config_key base_model_ep_plan
    base_model_fsdp_plan base_model_pp_plan base_model_tp_plan extra_files extra_config_files per_layer_attributes
    ignore_keys_at_rope_validation allow_global_per_layer_attribute_access is_heterogeneous use_return_dict
    serialize_explicit_per_layer_config default_rope_type default_theta _auto_class""".split()
)
_PRIVATE = re.compile(r"__.*|_(check|decode|dict|encode|get|getattr|hasattr|iter|remove|update|upload|validate)_\w+")
_SPECIAL_FLOAT = "__float__"  # how transformers writes infinities: {"__float__": "Infinity"}

_TYPE = re.compile(r"[\w.\- ]{0,100}")
_DTYPES = frozenset(
    """auto float16 half bfloat16 float32 float float64 double int8 uint8 int16 int32 int64 bool float8_e4m3fn
    float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2 fp8 fp16 bf16 fp32 int4 uint4""".split()
)
_OBJECTS = ("quantization_config", "hf_quant_config", "text_config", "vision_config", "audio_config", "llm_config")


def check(config: dict[str, Any]) -> tuple[str, ...]:
    """Refuse what no published model asks for.

    Args:
        config: a parsed config.json.

    Returns:
        what people should know of it though it is accepted, as sentences.

    Raises:
        ModelUnsupported: naming the value and what is accepted.
    """
    _check_size(config)
    _check_object(config)
    return (_CODE_NOTE,) if config.get("auto_map") else ()


def _check_size(config: dict[str, Any]) -> None:
    """Depth, count and lengths, without recursion: the rest may then recurse."""
    values, level, depth = 1, [config], 0
    while level:
        depth += 1
        values += sum(len(holder) for holder in level)
        if depth > MAX_DEPTH:
            raise _refused(f"objects nested deeper than {MAX_DEPTH}", "the deepest published one has 8 levels")
        if values > MAX_VALUES:
            raise _refused(f"more than {MAX_VALUES:,} values", "the largest published one has 67,072")
        if any(len(holder) > MAX_ENTRIES for holder in level):
            raise _refused(f"a list of more than {MAX_ENTRIES:,} entries", "the longest published one has 22,422")
        inner = [value for holder in level for value in (holder.values() if isinstance(holder, dict) else holder)]
        if any(len(value) > MAX_TEXT for value in inner if isinstance(value, str)):
            raise _refused(f"a text of more than {MAX_TEXT:,} characters", "no published one comes near")
        level = [value for value in inner if isinstance(value, dict | list)]


def _check_object(config: Mapping[str, Any]) -> None:
    """One object of a config, and all objects in it."""
    for key, value in config.items():
        _check_key(key)
        _check_value(key, value)
        for inner in _flat(value):
            if isinstance(inner, dict):
                _check_object(inner)


def _check_key(key: str) -> None:
    if key == _SPECIAL_FLOAT:
        return
    if len(key) > MAX_KEY:
        raise _refused(f"a key of {len(key):,} characters", f"{MAX_KEY:,} are read at most")
    if key in _NOT_SETTINGS or _PRIVATE.fullmatch(key):
        raise _refused(f"the key {shorten(key, 60)}", "which is a part of the class that reads it, and no setting")


def _check_value(key: str, value: Any) -> None:
    if (checker := _CHECKERS.get(key)) is not None:
        checker(key, value)
    limit = next((one for one in SIZE_LIMITS if one.keys.fullmatch(key.lower())), None)
    for number in _flat(value):
        if isinstance(number, dict):  # looked at by itself
            continue
        _check_number(key, number)
        if limit is not None:
            _check_limit(limit, key, number)


def _flat(value: Any) -> list[Any]:
    """A value, or the values of a list and of lists in it."""
    found, left = [], [value]
    while left:
        one = left.pop()
        if isinstance(one, list):
            left.extend(one)
        else:
            found.append(one)
    return found


def _check_number(key: str, value: Any) -> None:
    if isinstance(value, float) and math.isnan(value):
        raise _refused(f"{shorten(key, 60)} as NaN", "which is not a number")
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise _refused(f"{shorten(key, 60)} with {len(str(abs(value))):,} digits", "41 are read at most")


def _check_limit(limit: SizeLimit, key: str, value: Any) -> None:
    if value is None or (not limit.typed and isinstance(value, str | bool)):
        return
    accepted = f"{limit.least:,} to {limit.most:,} {limit.what} can be read"
    if limit.typed and (isinstance(value, bool | str) or value != value or not float(value).is_integer()):
        raise _refused(f"{_shown(value)} as {shorten(key, 60)}", f"where {accepted}")
    if not limit.least <= value <= limit.most:
        raise _refused(
            f"{_shown(value)} as {shorten(key, 60)}",
            f"where {accepted}",
            f"Check the file: the largest published model has {limit.largest:,} {limit.what}.",
        )


def _check_type(key: str, value: Any) -> None:
    if value is not None and not (isinstance(value, str) and _TYPE.fullmatch(value)):
        raise _refused(f"{_shown(value)} as model_type", "which transformers does not build: a type is one plain word")


def _check_texts(key: str, value: Any) -> None:
    if value is not None and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise _refused(f"{_shown(value)} as {key}", "where a list of names belongs")


def _check_dtype(key: str, value: Any) -> None:
    for one in value.values() if isinstance(value, dict) else (value,):  # by part, as composite models may have it
        if one is not None and not (isinstance(one, str) and one.removeprefix("torch.") in _DTYPES):
            raise _refused(f"{_shown(one)} as {key}", "which is no dtype")


def _check_is_object(key: str, value: Any) -> None:
    if value is not None and not isinstance(value, dict):
        raise _refused(f"{_shown(value)} as {key}", "where an object belongs")


def _check_implementation(key: str, value: Any) -> None:
    """transformers fetches a kernel of that name from the Hub and runs it, where it names a repository."""
    for one in value.values() if isinstance(value, dict) else (value,):
        if isinstance(one, str) and re.search(r"[/:@\\]", one):
            raise _refused(f"{_shown(one)} as {key}", "which is code of a repository: none is run here")


_CHECKERS = {
    "model_type": _check_type,
    "architectures": _check_texts,
    "dtype": _check_dtype,
    "torch_dtype": _check_dtype,
    **dict.fromkeys(_OBJECTS, _check_is_object),
    **dict.fromkeys(
        ("_attn_implementation", "attn_implementation", "_experts_implementation", "experts_implementation"),
        _check_implementation,
    ),
}


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int | float):
        return f"{value:,}" if abs(value) < 1e15 else f"{value:.3g}" if abs(value) < 1e300 else "a number beyond 10³⁰⁰"
    kind = {str: "the text", list: "a list", dict: "an object"}[type(value)]
    return f"{kind} “{shorten(value, 40)}”" if isinstance(value, str) else kind


def _refused(found: str, why: str, hint: str = _CHECK) -> ModelUnsupported:
    return ModelUnsupported(f"Its config.json has {found}, {why}.", hint)
