"""What loads a row of the fit table outside of this app: Python to paste, and the lines that serve it.

A row has no Python where nothing that is installed from PyPI loads it as it was counted: a format that is made ahead
of time, a GGUF file, code of a repository's own, or fused experts in NF4, which transformers can't make while loading.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from ..estimation.calculator import Estimate
from ..estimation.fit import FitRow
from ..estimation.loadable import can_compute, refusal_to_load
from ..estimation.placement import Split
from ..estimation.quantized_cache import FORMATS, can_quantize
from ..hub.demo import DEMO_ID
from ..precision import LAYOUTS, Layout, Method, Precision
from ..units import exact
from .commands import commands

_DEMO_FOLDER = "quantspace/data/demo"  # from the top of this repository: the demo is not on the Hub
_STABLE = "torchao.quantization"
_TORCHAO = {  # of each layout: the module and the class of its config, and what it is told
    LAYOUTS["int8-ao"]: (_STABLE, "Int8WeightOnlyConfig", ()),
    LAYOUTS["fp8-ao"]: (_STABLE, "Float8WeightOnlyConfig", ()),
    LAYOUTS["int4-ao"]: ("torchao.prototype.quantization.int4", "PrototypeInt4WeightOnlyConfig", ("group_size=128",)),
    LAYOUTS["int4-ao-tiles"]: (_STABLE, "Int4WeightOnlyConfig", ('int4_packing_format="tile_packed_to_4d"',)),
}
_DEVICES = {"gpu": "cuda", "apple": "mps", "cpu": "cpu"}


@dataclass(frozen=True, slots=True)
class Snippet:
    """A piece of code for one row.

    Attributes:
        title: of whom it is for: `Python: transformers + bitsandbytes`, `vLLM`.
        language: of the code, as Markdown's fences name it.
        packages: of PyPI that it needs; empty for other programs.
        notes: what a reader should know before pasting it.
    """

    title: str
    language: Literal["python", "console"]
    code: str
    packages: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def snippets(estimate: Estimate, row: FitRow) -> tuple[Snippet, ...]:
    """All that loads or serves a row: Python first, then the engines that hold it as it was counted."""
    python = python_snippet(estimate, row)
    found = [python] if python is not None else []
    for command in commands(estimate, row):
        found.append(Snippet(command.title, "console", command.code, notes=command.notes))
    return tuple(found)


def python_snippet(estimate: Estimate, row: FitRow) -> Snippet | None:
    """The Python that loads a row; `None` where there is none.

    It says what `Precision.transformers_kwargs` tells the loader, with the very class that was counted.
    """
    if not _loads(estimate, row):
        return None
    offloads = row.verdict == "offload" and row.split is not None
    quantization = _quantization(row.demand.precision, offloads)
    model = estimate.inventory.architecture
    imports = {"import torch", *(quantization.imports if quantization else ())}
    names = sorted({model, *(quantization.classes if quantization else ())})
    cache = tuple(_cache_lines(estimate))
    body = [
        f"model = {model}.from_pretrained(",
        *_indented(_arguments(estimate, row, quantization)),
        ")",
        *cache,
        f'print(f"{{model.get_memory_footprint():,}} B")  # {_promise(row, offloads)}',
    ]
    head = [*_sorted_imports(imports), f"from transformers import {', '.join(names)}"]
    before = [*_device_map_lines(row.split), ""] if offloads and row.split else []
    return Snippet(
        title=f"Python: {' + '.join(_packages(row.precision, cache))}",
        language="python",
        code="\n".join([*head, "", *before, *body]) + "\n",
        packages=("accelerate", *_packages(row.precision, cache)),
        notes=tuple(_notes(estimate, row, offloads)),
    )


@dataclass(frozen=True, slots=True)
class _Quantization:
    """The `quantization_config` as code: of what classes, and its lines."""

    classes: tuple[str, ...]
    lines: tuple[str, ...]
    imports: tuple[str, ...] = ()


def _loads(estimate: Estimate, row: FitRow) -> bool:
    inventory, precision = estimate.inventory, row.precision
    if inventory.source_kind != "class":
        return False
    if precision.method == "stored":
        return inventory.native_runs
    if inventory.prequantized:
        return False
    if refusal_to_load(inventory) is not None:
        return False
    kind: Literal["cpu", "cuda"] = "cuda" if row.demand.gpu.kind == "gpu" else "cpu"
    return not (precision.missing or precision.experts) and can_compute(inventory, precision, kind)


def _arguments(estimate: Estimate, row: FitRow, quantization: _Quantization | None) -> Iterator[str]:
    inventory = estimate.inventory
    yield f"{_literal(_DEMO_FOLDER if inventory.model_id == DEMO_ID else inventory.model_id)},"
    if inventory.revision != "main":
        yield f"revision={_literal(inventory.revision)},"
    yield f"dtype=torch.{row.precision.dtype},"
    if quantization is not None:
        yield from _joined("quantization_config=", quantization.lines)
    yield f"device_map={_device_map(estimate, row)},"


def _device_map(estimate: Estimate, row: FitRow) -> str:
    if row.verdict == "offload" and row.split is not None:
        return "device_map"
    return _literal("auto" if row.gpu_count > 1 else _DEVICES[estimate.hardware.gpu.kind])


def _quantization(precision: Precision, offloads: bool) -> _Quantization | None:
    makers: dict[Method, Callable[[], _Quantization]] = {
        "int8": lambda: _bitsandbytes(["load_in_8bit=True"], offloads),
        "4bit": lambda: _bitsandbytes(
            [
                "load_in_4bit=True",
                f"bnb_4bit_quant_type={_literal(precision.quant_type)}",
                *(["bnb_4bit_use_double_quant=True"] if precision.double_quant else []),
                f"bnb_4bit_compute_dtype=torch.{precision.dtype}",
            ],
            offloads,
        ),
        "torchao": lambda: _torchao(precision.layout),
    }
    maker = makers.get(precision.method)
    return maker() if maker else None


def _bitsandbytes(options: list[str], offloads: bool) -> _Quantization:
    if offloads:
        options = [*options, "llm_int8_enable_fp32_cpu_offload=True"]
    return _Quantization(("BitsAndBytesConfig",), tuple(_call("BitsAndBytesConfig", options)))


def _torchao(layout: Layout | None) -> _Quantization:
    assert layout is not None
    module, config, told = _TORCHAO[layout]
    options = ", ".join((*told, "set_inductor_config=False"))
    return _Quantization(
        ("TorchAoConfig",), (f"TorchAoConfig({config}({options}))",), (f"from {module} import {config}",)
    )


def _cache_lines(estimate: Estimate) -> Iterator[str]:
    """What makes `generate` keep its cache quantized, where that was asked for and can be."""
    kind = estimate.workload.kv_dtype
    if kind not in FORMATS or not can_quantize(estimate.inventory, kind):
        return
    row = FORMATS[kind]
    config = {"backend": row.backend} | ({} if row.bits is None else {"nbits": row.bits})
    yield 'model.generation_config.cache_implementation = "quantized"'
    yield f"model.generation_config.cache_config = {_literal(config)}"


def _device_map_lines(split: Split) -> Iterator[str]:
    """`device_map`: modules of a card and of system memory by name, numbered ones as ranges."""
    yield "device_map = {"
    for number, card in enumerate(split.cards):
        yield from _indented(_placed(card.names, str(number)))
    yield from _indented(_placed(split.host.names, '"cpu"'))
    yield "}"


def _placed(names: Iterable[str], device: str) -> Iterator[str]:
    for stem, group in groupby(names, key=_stem):
        listed = list(group)
        if stem is None or len(listed) == 1:
            yield from (f"{_literal(name)}: {device}," for name in listed)
            continue
        numbers = [int(name.rpartition(".")[2]) for name in listed]
        span = f"{numbers[0]}, {numbers[-1] + 1}" if numbers[0] else str(numbers[-1] + 1)
        yield f'**{{f"{stem}.{{i}}": {device} for i in range({span})}},'


def _stem(name: str) -> str | None:
    """`model.layers` of `model.layers.7`; `None` where a name does not end in a number."""
    stem, _, last = name.rpartition(".")
    return stem if last.isdecimal() else None


def _promise(row: FitRow, offloads: bool) -> str:
    if offloads and row.precision.quantizes:
        return "more than " + exact(row.weights.footprint) + ": what is left in system memory stays in 16 bits"
    if row.precision.method == "torchao":  # its tensors count there as what they stand for
        return f"16 bits a weight are counted here; held: {exact(row.weights.held)}"
    return ("estimated: " if row.exact else "about ") + exact(row.weights.footprint)


def _packages(precision: Precision, cache: tuple[str, ...]) -> tuple[str, ...]:
    of_method: dict[Method, tuple[str, ...]] = {
        "int8": ("bitsandbytes",), "4bit": ("bitsandbytes",), "torchao": ("torchao",),
    }  # fmt: skip
    quanto = ("optimum-quanto",) if any('"quanto"' in line for line in cache) else ()
    return ("transformers", *of_method.get(precision.method, ()), *quanto)


def _notes(estimate: Estimate, row: FitRow, offloads: bool) -> Iterator[str]:
    kind = estimate.workload.kv_dtype
    if row.verdict == "no":
        yield "It does not fit: this will run out of memory on the card that was asked about."
    if offloads:
        yield "Layers in system memory are copied to the card for every token."
    if kind in FORMATS and not can_quantize(estimate.inventory, kind):
        yield f"transformers can't keep this architecture's cache in {kind}."
    elif kind != "auto" and kind not in FORMATS and kind != row.precision.dtype:
        yield f"transformers keeps the cache in the dtype of the computation, {row.precision.dtype}, not in {kind}."
    if row.precision.method == "stored" and estimate.inventory.native_note:
        yield estimate.inventory.native_note


def _call(name: str, options: list[str]) -> list[str]:
    line = f"{name}({', '.join(options)})"
    return [line] if len(options) < 2 else [f"{name}(", *_indented(f"{option}," for option in options), ")"]


def _joined(before: str, lines: tuple[str, ...]) -> Iterator[str]:
    first, *others = lines
    listed = [before + first, *others]
    listed[-1] += ","
    yield from listed


def _sorted_imports(lines: Iterable[str]) -> list[str]:
    return sorted(lines, key=lambda line: (line.startswith("from"), line))


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"    {line}" for line in lines)


def _literal(value: object) -> str:
    """A literal of Python and JSON alike: double quotes, and nothing in it can end it."""
    return json.dumps(value, ensure_ascii=True)
