"""Rows of weights, indexes, adapters and pipelines: files whose headers and names lead astray."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from quantspace.errors import BadModelId, HubUnreachable, ModelUnavailable, ModelUnsupported
from tests.hub import SparseFile

from . import binaries
from .rows import ESTIMATE, Content, Hostile, sound
from .samples import LLAMA, TENSORS

# --- Files of weights ---------------------------------------------------------------------------------------------
# Of these repositories the config names no class that is built here, so that headers are read.
_CODE = json.dumps({**LLAMA, "model_type": "no-such-architecture"})


def _beside(**files: Any) -> Callable[[], Mapping[str, Content]]:
    """Files beside a config of an unknown architecture; `__` stands for a dot, `___` for a dash."""
    made = {name.replace("___", "-").replace("__", "."): make for name, make in files.items()}
    return lambda: {"config.json": _CODE} | {name: make() if callable(make) else make for name, make in made.items()}


_UNREADABLE = (ModelUnsupported, HubUnreachable)
_UNCOUNTED = {"safetensors": None}  # the Hub counts parameters of headers that it can read
HEADERS = [
    Hostile(f"safetensors-{name}", _UNREADABLE, _beside(model__safetensors=make), _UNCOUNTED)
    for name, make in binaries.SAFETENSORS.items()
]


def _indexed(index: Content) -> Callable[[], Mapping[str, Content]]:
    shard = SparseFile.safetensors(TENSORS)
    return lambda: {
        "config.json": _CODE,
        "model.safetensors.index.json": index,
        "model-00001-of-00002.safetensors": shard,
        "model-00002-of-00002.safetensors": shard,
    }


def _weight_map(**names: Any) -> str:
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": names})


_INDEXES: dict[str, Callable[[], Content]] = {
    "path-up": lambda: _weight_map(a="../../etc/passwd"),
    "absolute": lambda: _weight_map(a="/etc/passwd"),
    "link": lambda: _weight_map(a="https://evil.example/model.safetensors"),
    "missing": lambda: _weight_map(a="model-00009-of-00009.safetensors"),
    "number": lambda: _weight_map(a=5),
    "list": lambda: json.dumps({"weight_map": ["model-00001-of-00002.safetensors"]}),
    "no-map": lambda: "{}",
    "empty-map": lambda: _weight_map(),
    "not-json": lambda: "hello",
    "deep": lambda: '{"weight_map":' * 50_000 + "1" + "}" * 50_000,
    "40-MB": lambda: SparseFile(40 * 10**6),
    "million": lambda: _weight_map(**{f"t{i}": "model-00001-of-00002.safetensors" for i in range(500_000)}),
    "itself": lambda: _weight_map(a="model.safetensors.index.json"),
    "config": lambda: _weight_map(a="config.json"),
}
INDEXES = [
    Hostile(f"index-{name}", ModelUnsupported, lambda make=make: _indexed(make())(), _UNCOUNTED)
    for name, make in _INDEXES.items()
]

GGUFS = [
    Hostile(f"gguf-{name}", (ModelUnsupported, HubUnreachable), lambda make=make: {"model-Q4_K_M.gguf": make()})
    for name, make in binaries.GGUF.items()
]

_RANGES = {"status": 200, "body": b"\x10" * 100}
RANGES = [
    Hostile(
        f"range-{name}", (ModelUnsupported, ModelUnavailable),
        _beside(model__safetensors=SparseFile.safetensors(TENSORS)),
        _UNCOUNTED,
        faults=({"file": "model.safetensors", **fault},),
    )
    for name, fault in {
        "ignored": _RANGES,
        "416": {"status": 416},
        "503": {"status": 503},
        "endless": {"endless": True},
        "drips": {"bytes_per_second": 20},
        "closed": {"close": True},
        "loop": {"status": 307, "headers": {"Location": "?again"}},
    }.items()
]  # fmt: skip


# --- Adapters and pipelines ---------------------------------------------------------------------------------------
def _adapter(base: Any, **more: Any) -> Callable[[], Mapping[str, Content]]:
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 8, "target_modules": ["q_proj"], **more}
    weights = SparseFile.safetensors({"base_model.model.model.layers.0.q.lora_A.weight": ("F32", (8, 128))})
    return lambda: {"adapter_config.json": json.dumps(config), "adapter_model.safetensors": weights}


_REFUSES = (ModelUnsupported, ModelUnavailable, BadModelId)
ADAPTERS = [
    Hostile("adapter-path-up", _REFUSES, _adapter("../../etc/passwd")),
    Hostile("adapter-absolute", _REFUSES, _adapter("/root/.cache/model")),
    Hostile("adapter-number", _REFUSES, _adapter(5)),
    Hostile("adapter-nothing", _REFUSES, _adapter(None)),
    Hostile("adapter-list", _REFUSES, _adapter(["org/name"])),
    Hostile("adapter-long", _REFUSES, _adapter("o/" + "n" * 10_000)),
    Hostile("adapter-link", _REFUSES, _adapter("http://127.0.0.1:9/x")),
    Hostile("adapter-missing-base", _REFUSES, _adapter("nobody/nothing-is-here")),
    Hostile("adapter-of-itself", _REFUSES, _adapter("hostile/adapter-of-itself")),
    Hostile("adapter-loop-a", _REFUSES, _adapter("hostile/adapter-path-up")),
    Hostile("adapter-bad-revision", _REFUSES, _adapter("hostile/x", revision="../../main")),
    Hostile("adapter-not-json", _REFUSES, lambda: {"adapter_config.json": "hello"}),
    Hostile("adapter-list-of-nothing", _REFUSES, lambda: {"adapter_config.json": "[]"}),
]


def _pipeline(index: Any, **files: Content) -> Callable[[], Mapping[str, Content]]:
    return lambda: {"model_index.json": index if isinstance(index, str) else json.dumps(index), **files}


PIPELINES = [
    Hostile("pipeline-not-json", _REFUSES, _pipeline("hello")),
    Hostile("pipeline-list", _REFUSES, _pipeline([1])),
    Hostile("pipeline-path-up", _REFUSES, _pipeline({"_class_name": "X", "../../etc": ["diffusers", "UNet"]})),
    Hostile("pipeline-parts-numbers", _REFUSES, _pipeline({"_class_name": 5, "unet": 5, "vae": [1, 2, 3]})),
    Hostile("pipeline-many-parts", _REFUSES, _pipeline({f"p{i}": ["diffusers", "UNet"] for i in range(100_000)})),
    Hostile("pipeline-deep", _REFUSES, _pipeline('{"a":' * 50_000 + "1" + "}" * 50_000)),
]

# --- Repositories with nothing to read ----------------------------------------------------------------------------
REPOSITORIES = [
    Hostile(
        "repo-counted-with-a-broken-header",
        ESTIMATE,
        _beside(model__safetensors=binaries.SAFETENSORS["overlap"]),
        info={"safetensors": {"parameters": {"BF16": 10**9}, "total": 10**9}},
        says="no-such-architecture",
    ),
    Hostile("repo-empty", ModelUnsupported),
    Hostile("repo-words", ModelUnsupported, lambda: {"README.md": "words"}),
    Hostile("repo-gated", ModelUnavailable, sound, info={"gated": "manual"}),
    Hostile("repo-private", ModelUnavailable, sound, info={"private": True}),
    Hostile(
        "repo-pickle",
        (ESTIMATE, ModelUnsupported),
        lambda: {"pytorch_model.bin": b"\x80\x04cos\nsystem\n(S'true'\ntR."},
    ),
    Hostile("repo-many-files", (ESTIMATE, ModelUnsupported), lambda: {f"{i}.txt": b"x" for i in range(5000)}),
]
