"""The inventory of a model of which only sizes of files are known: PyTorch pickles, TensorFlow, Flax, ONNX.

Such files are never fetched: a pickle may run code when it is opened. Their size over the bytes of a value is the
number of parameters; the rest is assumed (`assumed.py`), or told by the config.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...errors import ModelUnsupported
from ...hub.client import RepoFacts
from ...units import gb
from ..inventory import Inventory
from .counts import assumed_inventory
from .plain_config import read_dtype, read_numbers

PICKLED = "Its weights are pickles, which can run code when they are opened: they are estimated and never loaded."

# Formats in which one model may lie beside itself, the one that is counted first; whether they are pickles.
_FORMATS = (
    ("PyTorch", re.compile(r"\.(bin|pt|pth|ckpt)$"), True),
    ("TensorFlow", re.compile(r"\.h5$"), False),
    ("Flax", re.compile(r"\.msgpack$"), False),
    ("ONNX", re.compile(r"\.onnx(_data)?$|\.onnx\.data$"), False),
)
_NO_MODEL = re.compile(r"(^|/)(training_args|optimizer|scheduler|rng_state|scaler|random_states|tokenizer|vocab)[^/]*$")
_SHARD = re.compile(r"^(?P<stem>.*?)(-\d+-of-\d+|\.\d{2,5})(?P<end>\.\w+)$")
_VARIANT = re.compile(r"\.(fp16|bf16|fp32|ema|non_ema|int8)(?=[.-])|_(fp16|q4|q4f16|quantized|int8|uint8|bnb4)(?=\.)")
_MAIN = ("pytorch_model.bin", "model.bin", "diffusion_pytorch_model.bin", "consolidated.pth", "tf_model.h5",
         "flax_model.msgpack", "model.onnx", "decoder_model.onnx")  # fmt: skip
_COPIES = ("original", "onnx", "coreml", "openvino", "runs", "checkpoint")
# Bytes of a value in a file.
_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "int8": 1}


def inventory_from_sizes(facts: RepoFacts, config: Mapping[str, Any] | None, why: str) -> Inventory:
    """What a model holds by the sizes of its files.

    Args:
        config: its parsed config.json; `None` where it has none.
        why: no better source could be used, in a sentence for people.

    Raises:
        ModelUnsupported: it has no such files.
    """
    found = [(name, _files_of(facts, pattern), pickled) for name, pattern, pickled in _FORMATS]
    name, chosen, pickled = next((one for one in found if one[1]), ("", {}, False))
    if not chosen:
        raise ModelUnsupported(
            f"{facts.ref.id} has no weights in a format that is known here.",
            "Pick a repository with safetensors or GGUF files.",
        )
    dtype, why_so = _dtype(config, name)
    total = sum(chosen.values())
    files = f"{name} file" if len(chosen) == 1 else f"{len(chosen):,} {name} files"
    notes = [
        why,
        PICKLED if pickled else "",
        f"The {gb(total)} of its {files} are taken as {dtype}, {why_so}: {_BYTES[dtype]} bytes a parameter.",
    ]
    numbers = read_numbers(config)
    parameters = max(total // _BYTES[dtype], 1)
    return assumed_inventory(facts, parameters, f"the size of its {files}", notes, kind="sizes", numbers=numbers)


def _dtype(config: Mapping[str, Any] | None, name: str) -> tuple[str, str]:
    """In which dtype files of a format are taken to be, and why."""
    told = read_dtype(config)
    if name == "PyTorch" and told in _BYTES:
        return told, "as its config tells"
    if config is None and name == "PyTorch":
        return "float16", "as no config tells and fewer parameters might promise too much"
    return "float32", "which is what is written where no other dtype is told"


def _files_of(facts: RepoFacts, pattern: re.Pattern[str]) -> dict[str, int]:
    return _one_copy({path: size for path, size in facts.files.items() if size > 0 and pattern.search(path)})


def _one_copy(files: Mapping[str, int]) -> dict[str, int]:
    """Of files of one format those that hold the model once: in each folder one model, its shards together."""
    folders: dict[str, dict[str, dict[str, int]]] = {}
    for path, size in files.items():
        if _NO_MODEL.search(path):
            continue
        folder, _, name = path.rpartition("/")
        shard = _SHARD.match(name)
        model = f"{shard['stem']}{shard['end']}" if shard else name.removesuffix("_data").removesuffix(".data")
        folders.setdefault(folder, {}).setdefault(model, {})[path] = size
    if "" in folders:
        folders = {"": folders[""]}
    first = {folder: models for folder, models in folders.items() if not folder.startswith(_COPIES)}
    chosen = [_main(models) for models in (first or folders).values()]
    return {path: size for model in chosen for path, size in model.items()}


def _main(models: Mapping[str, dict[str, int]]) -> dict[str, int]:
    """The model by its usual name, else the largest without a variant's."""
    for name in _MAIN:
        if name in models:
            return models[name]
    plain = {name: files for name, files in models.items() if not _VARIANT.search(name)} or models
    return max(plain.values(), key=lambda files: sum(files.values()))
