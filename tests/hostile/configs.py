"""Rows of config.json: files that are no JSON, and configs that ask for what no model has."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from quantspace.errors import HubUnreachable, ModelUnsupported
from tests.hub import SparseFile
from tests.hub.files import BytesFile

from .rows import ESTIMATE, Content, Hostile, raw_config, sound, with_config
from .samples import LLAMA


# --- JSON that is none --------------------------------------------------------------------------------------------
def _utf16() -> bytes:
    return json.dumps(LLAMA).encode("utf-16")


@cache
def gzip_bomb() -> bytes:
    """300 kB that become 300 MB."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(10**6)) for _ in range(300)) + packer.flush()


_BODIES: dict[str, tuple[Any, Callable[[], Content]]] = {
    "words": (ModelUnsupported, lambda: "hello"),
    "empty": (ModelUnsupported, lambda: BytesFile(b"")),
    "list": (ModelUnsupported, lambda: "[1, 2]"),
    "null": (ModelUnsupported, lambda: "null"),
    "binary": (ModelUnsupported, lambda: b"\xff\xfe\x00\x80"),
    "pickle": (ModelUnsupported, lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR."),
    "deep-objects": (ModelUnsupported, lambda: '{"a":' * 100_000 + "1" + "}" * 100_000),
    "deep-lists": (ModelUnsupported, lambda: '{"model_type":"llama","a":' + "[" * 900 + "]" * 900 + "}"),
    "cut-off": (ModelUnsupported, lambda: json.dumps(LLAMA)[:-20]),
    "trailing": (ModelUnsupported, lambda: json.dumps(LLAMA) + "}" * 5),
    "long-number": (ModelUnsupported, lambda: '{"model_type":"llama","vocab_size":' + "9" * 100_000 + "}"),
    "9-MB": (ModelUnsupported, lambda: SparseFile(9 * 2**20)),
    "100-MB": (ModelUnsupported, lambda: SparseFile(100 * 10**6)),
    "million-objects": (ModelUnsupported, lambda: '{"model_type":"llama","a":[' + "{}," * 2_000_000 + "{}]}"),
    "million-keys": (
        ModelUnsupported,
        lambda: json.dumps({"model_type": "llama", **{f"k{i}": 0 for i in range(500_000)}}),
    ),
    "byte-order-mark": (ESTIMATE, lambda: b"\xef\xbb\xbf" + json.dumps(LLAMA).encode()),
    "utf-16": ((ESTIMATE, ModelUnsupported), _utf16),
}
JSON_FILES = [
    Hostile(f"json-{name}", right, lambda make=make: {"config.json": make()}) for name, (right, make) in _BODIES.items()
] + [
    Hostile(
        "json-100-MB-without-length", (ModelUnsupported, HubUnreachable), sound,
        faults=({"file": "config.json", "body": b'{"a": "' + b"x" * 2**20, "endless": True},),
    ),
    Hostile(
        "json-gzip-bomb", (ModelUnsupported, HubUnreachable), sound,
        faults=({"file": "config.json", "headers": {"Content-Encoding": "gzip"}, "status": 200,
                 "body": gzip_bomb},),
    ),
    Hostile(
        "api-gzip-bomb", HubUnreachable, sound,
        faults=({"on": "info", "headers": {"Content-Encoding": "gzip", "Content-Type": "application/json"},
                 "status": 200, "body": gzip_bomb},),
    ),
]  # fmt: skip

# --- Configs ------------------------------------------------------------------------------------------------------
_HUGE, _ENDLESS_TIME = 10**10, 10**18
_REFUSED: dict[str, Mapping[str, Any]] = {
    "no-type": {"model_type": None},
    "type-empty": {"model_type": ""},
    "type-number": {"model_type": 5},
    "type-list": {"model_type": ["llama"]},
    "type-path": {"model_type": "../../llama"},
    "type-long": {"model_type": "llama" * 1000},
    "type-unknown": {"model_type": "no-such-architecture"},
    "type-dunder": {"model_type": "__class__"},
    "layers-ten-billion": {"num_hidden_layers": _HUGE},
    "layers-700": {"num_hidden_layers": 700},
    "layers-negative": {"num_hidden_layers": -1},
    "layers-none-at-all": {"num_hidden_layers": 0},
    "layers-text": {"num_hidden_layers": "two"},
    "layers-float": {"num_hidden_layers": 2.5},
    "layers-nan": {"num_hidden_layers": float("nan")},
    "layers-infinite": {"num_hidden_layers": float("inf")},
    "layers-truth": {"num_hidden_layers": True},
    "layers-list": {"num_hidden_layers": [2] * 1000},
    "layers-object": {"num_hidden_layers": {"value": 2}},
    "layers-float-code": {"num_hidden_layers": {"__float__": "Infinity"}},
    "hidden-huge": {"hidden_size": 2**40},
    "hidden-negative": {"hidden_size": -128},
    "hidden-zero": {"hidden_size": 0},
    "hidden-text": {"hidden_size": "wide"},
    "heads-zero": {"num_attention_heads": 0},
    "heads-negative": {"num_attention_heads": -4},
    "heads-huge": {"num_attention_heads": 10**6},
    "heads-that-do-not-divide": {"num_attention_heads": 3, "num_key_value_heads": 2, "hidden_size": 128},
    "key-heads-negative": {"num_key_value_heads": -2},
    "head-dim-huge": {"head_dim": 10**12},
    "vocabulary-huge": {"vocab_size": 10**12},
    "vocabulary-negative": {"vocab_size": -1},
    "vocabulary-zero": {"vocab_size": 0},
    "context-huge": {"max_position_embeddings": _ENDLESS_TIME},
    "context-negative": {"max_position_embeddings": -8192},
    "context-text": {"max_position_embeddings": "long"},
    "window-huge": {"sliding_window": _ENDLESS_TIME},
    "window-text": {"sliding_window": "all"},
    "experts-huge": {"model_type": "mixtral", "num_local_experts": 10**9},
    "experts-negative": {"model_type": "mixtral", "num_local_experts": -8},
    "labels-by-the-million": {"num_labels": 10**9},
    "label-names-by-the-million": {"id2label": {str(i): "x" for i in range(150_000)}},
    "number-beyond-floats": {"rope_theta": float("nan")},
    "number-of-digits": {"rope_theta": 10**4000},
    "text-of-a-megabyte": {"hidden_act": "x" * 2**20},
    "activation-unknown": {"hidden_act": "no_such_function"},
    "activation-list": {"hidden_act": ["silu"]},
    "key-of-a-megabyte": {"k" * 2**20: 1},
    "class-of-its-own": {"__class__": "Evil"},
    "dict-of-its-own": {"__dict__": {}},
    "method-hidden": {"get_text_config": 3},
    "method-hidden-deep": {"text_config": {"to_dict": []}},
    "attributes-mapped": {"attribute_map": {"hidden_size": "hidden_size"}},
    "sub-configs-of-its-own": {"sub_configs": {"x": "y"}},
    "dtype-unknown": {"torch_dtype": "float17"},
    "dtype-object": {"torch_dtype": {"a": {}}},
    "dtype-function": {"dtype": "load"},
    "quantization-list": {"quantization_config": [1]},
    "quantization-text": {"quantization_config": "nf4"},
    "architectures-of-lists": {"architectures": [["LlamaForCausalLM"]]},
    "architectures-text": {"architectures": "LlamaForCausalLM"},
    "kernel-of-a-repository": {"_attn_implementation": "kernels-community/flash-attn"},
    "nested-33": json.loads('{"a":' * 40 + "1" + "}" * 40),
    "text-config-list": {"model_type": "gemma3", "text_config": [1]},
    "vision-config-text": {"model_type": "llava", "vision_config": "clip"},
    "vision-config-of-no-kind": {"model_type": "llava", "vision_config": {"model_type": "no-such"}},
    "vision-layers": {"model_type": "llava", "vision_config": {"num_hidden_layers": _HUGE}},
    "rope-list": {"rope_scaling": [1, 2]},
}  # fmt: skip
# Each of these is answered as it is, or refused with a sentence: what matters is that it is answered.
_EITHER_WAY = (ESTIMATE, ModelUnsupported)
_EITHER: dict[str, Mapping[str, Any]] = {
    "rope-of-zero": {"rope_scaling": {"rope_type": "linear", "factor": 0}},
    "rope-of-text": {"rope_scaling": {"rope_type": "yarn", "factor": "wide"}},
    "rope-unknown": {"rope_scaling": {"rope_type": "no-such", "factor": 2.0}},
    "layer-types-longer": {"layer_types": ["full_attention"] * 500},
    "layer-types-numbers": {"layer_types": [1, 2]},
    "version-nonsense": {"transformers_version": ["never"]},
    "version-far": {"transformers_version": "999.0.0"},
    "refers-to-itself": {"$ref": "#", "text_config": {"$ref": "#/text_config"}},
    "epsilon-text": {"rms_norm_eps": "small"},
    "tokens-text": {"eos_token_id": "end"},
    "pad-beyond": {"pad_token_id": 10**9},
    "quantization-empty": {"quantization_config": {}},
    "quantization-unknown": {"quantization_config": {"quant_method": "no-such"}},
    "quantization-method-list": {"quantization_config": {"quant_method": ["fp8"]}},
    "quantization-block-zero": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [0, 0]}},
    "quantization-block-negative": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [-128, 128]}},
    "quantization-group-zero": {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 0}},
    "quantization-bits-text": {"quantization_config": {"quant_method": "gptq", "bits": "four", "group_size": 128}},
    "quantization-pattern": {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {
                "group_0": {
                    "targets": [r"re:(\w+\.?)*(\w+\.?)*(\w+\.?)*(\w+\.?)*!"],
                    "weights": {"num_bits": 4, "group_size": 128, "type": "int", "symmetric": True},
                }
            },
            "ignore": [r"re:((\w+)+\.?)+!"],
        }
    },
    "pruned-heads": {"pruned_heads": {"0": list(range(4)), "99999": [0]}},
    "labels-and-names": {"num_labels": 3, "id2label": {"a": 1}, "label2id": {"b": "c"}},
    "per-layer": {"per_layer_config": {"0": {"hidden_size": 7}}},
    "dtype-null": {"torch_dtype": None},
    "tie-text": {"tie_word_embeddings": "maybe"},
}
CONFIGS = (
    [Hostile(f"config-{name}", ModelUnsupported, with_config(**changes)) for name, changes in _REFUSED.items()]
    + [Hostile(f"config-{name}", _EITHER_WAY, with_config(**changes)) for name, changes in _EITHER.items()]
    + [
        Hostile("config-1e400", ModelUnsupported, raw_config(json.dumps(LLAMA)[:-1] + ', "num_hidden_layers": 1e400}')),
        Hostile("config-auto-map", ESTIMATE, with_config(auto_map={"AutoModel": "evil.Model"}), says="never run"),
        Hostile(
            "config-code-only", (ESTIMATE, ModelUnsupported),
            lambda: {"config.json": json.dumps({"model_type": "evil", "auto_map": {"AutoModel": "evil.Model"}}),
                     "evil.py": "import os; os.system('touch /tmp/owned')"},
            says="own code",
        ),
        Hostile(
            "config-slow-build", (ESTIMATE, ModelUnsupported),
            with_config(model_type="deepseek_v4", num_hidden_layers=640, num_nextn_predict_layers=0),
        ),
        Hostile("config-hidden-quantization", ModelUnsupported,
                lambda: {"config.json": json.dumps(LLAMA), "hf_quant_config.json": "[1]"}),
    ]
)  # fmt: skip
