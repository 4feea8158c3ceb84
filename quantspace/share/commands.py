"""The lines that serve a row with other programs, where they hold it as it was counted.

Options as these programs spell them:
    vLLM                https://docs.vllm.ai/en/latest/cli/serve/ and /features/quantization/bnb/: quantizing while
                        loading with bitsandbytes makes NF4 with double quantization, and nothing else
    transformers serve  https://huggingface.co/docs/transformers/serve-cli/serving_optims; `bnb-4bit` is NF4 with
                        double quantization (`transformers/cli/serving/model_manager.py`). It has no option for the
                        length of the context
    llama-server        https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md: `-c` is of all
                        slots together; the quantization after the colon is found in the names of files
    Ollama              https://huggingface.co/docs/hub/ollama, https://docs.ollama.com/context-length and
                        https://docs.ollama.com/faq: what a server keeps is told by its environment
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ..estimation.calculator import Estimate
from ..estimation.fit import FitRow
from ..estimation.gguf.file import GgufFile
from ..hub.demo import DEMO_ID

_VLLM_QUANTIZED = {"nf4-dq": ("--quantization", "bitsandbytes")}
_SERVE_QUANTIZED = {"nf4-dq": ("--quantization", "bnb-4bit"), "int8": ("--quantization", "bnb-8bit")}
_PLAIN = ("bf16", "fp16", "fp32")
_VLLM_CACHE = {"fp8": "fp8", "bfloat16": "bfloat16", "float16": "float16"}
_LLAMA_CACHE = {"fp8": "q8_0", "int4": "q4_0", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_OLLAMA_CACHE = {"fp8": "q8_0", "int4": "q4_0", "float16": "f16"}


@dataclass(frozen=True, slots=True)
class Command:
    """Lines for a shell that serve a model."""

    title: str
    code: str
    notes: tuple[str, ...] = ()


def commands(estimate: Estimate, row: FitRow) -> tuple[Command, ...]:
    """What serves a row as it was counted; nothing where no program does."""
    if row.file is not None:
        return tuple(_of_file(estimate, row, row.file))
    inventory = estimate.inventory
    served = inventory.source_kind in ("class", "headers") and not inventory.weights_only
    if not served or inventory.model_id == DEMO_ID:
        return ()
    return tuple(command for command in (_vllm(estimate, row), _transformers(estimate, row)) if command)


def _vllm(estimate: Estimate, row: FitRow) -> Command | None:
    inventory, workload, gpu = estimate.inventory, estimate.workload, estimate.hardware.gpu
    precision = row.precision
    if gpu.kind != "gpu" or not _held(estimate, row, _VLLM_QUANTIZED):
        return None
    if precision.dtype == "bfloat16" and gpu.bf16_native is False:
        return None  # refused below compute capability 8.0
    words = ["vllm", "serve", inventory.model_id]
    words += _option("--revision", inventory.revision, "main")
    if precision.method != "stored":
        words += ["--dtype", precision.dtype]
    words += _VLLM_QUANTIZED.get(precision.id, ())
    words += ["--max-model-len", str(workload.context), "--max-num-seqs", str(workload.batch)]
    words += _option("--tensor-parallel-size", str(row.gpu_count), "1")
    if workload.kv_dtype in _VLLM_CACHE:
        words += ["--kv-cache-dtype", _VLLM_CACHE[workload.kv_dtype]]
    notes = ["If vLLM knows the architecture. It fills 90% of the card with its cache (`--gpu-memory-utilization`)."]
    if row.tensor_parallel is not None:
        notes.append(f"Divided over all cards: {row.tensor_parallel.reason}")
    elif row.verdict in ("offload", "no"):
        notes.append("By transformers' count the card is too small; vLLM keeps no layers in system memory unasked.")
    if workload.kv_dtype not in ("auto", *_VLLM_CACHE):
        notes.append(f"vLLM has no cache in {workload.kv_dtype}: it is kept in the model's dtype.")
    return Command("vLLM", _line(words), tuple(notes))


def _transformers(estimate: Estimate, row: FitRow) -> Command | None:
    inventory = estimate.inventory
    fits = row.verdict in ("fits", "tight") and row.gpu_count == 1
    if inventory.source_kind != "class" or not fits or not _held(estimate, row, _SERVE_QUANTIZED):
        return None
    model = inventory.model_id if inventory.revision == "main" else f"{inventory.model_id}@{inventory.revision}"
    words = ["transformers", "serve", model]
    if row.precision.method != "stored":
        words += ["--dtype", row.precision.dtype]
    words += _SERVE_QUANTIZED.get(row.precision.id, ())
    context = estimate.workload.context
    notes = [f"It has no option for the context: keep requests below {context:,} tokens."]
    return Command("transformers serve", _line(words), tuple(notes))


def _of_file(estimate: Estimate, row: FitRow, file: GgufFile) -> Iterator[Command]:
    tag = _tag(estimate, file)
    yield _llama_server(estimate, row, file, tag)
    if tag and estimate.inventory.revision == "main" and row.verdict != "offload":
        yield _ollama(estimate, tag)


def _llama_server(estimate: Estimate, row: FitRow, file: GgufFile, tag: str) -> Command:
    workload, model = estimate.workload, estimate.inventory.model_id
    words = ["llama-server", "-hf", f"{model}:{tag}" if tag else model]
    if not tag:
        words += ["--hf-file", file.path]
    words += ["--ctx-size", str(workload.context * workload.batch)]
    words += _option("--parallel", str(workload.batch), "")
    if row.gpu_layers is not None:
        words += ["--n-gpu-layers", "all" if row.gpu_layers == row.layers else str(row.gpu_layers)]
    if workload.kv_dtype in _LLAMA_CACHE:
        cache = _LLAMA_CACHE[workload.kv_dtype]
        words += ["--cache-type-k", cache, "--cache-type-v", cache]
    notes = []
    if workload.batch > 1:
        notes.append(f"The context is that of all {workload.batch} slots together.")
    if estimate.inventory.revision != "main":
        notes.append(f"llama-server takes the main branch, not {estimate.inventory.revision}.")
    return Command("llama-server", _line(words), tuple(notes))


def _ollama(estimate: Estimate, tag: str) -> Command:
    workload = estimate.workload
    told = [f"OLLAMA_CONTEXT_LENGTH={workload.context}"]
    if workload.batch > 1:
        told.append(f"OLLAMA_NUM_PARALLEL={workload.batch}")
    if workload.kv_dtype in _OLLAMA_CACHE:
        told += ["OLLAMA_FLASH_ATTENTION=1", f"OLLAMA_KV_CACHE_TYPE={_OLLAMA_CACHE[workload.kv_dtype]}"]
    serve = " ".join([*told, "ollama", "serve"])
    run = _line(["ollama", "run", f"hf.co/{estimate.inventory.model_id}:{tag}"])
    return Command(
        "Ollama", f"{serve}\n{run}", ("The first line starts the server; the second is for another terminal.",)
    )


def _tag(estimate: Estimate, file: GgufFile) -> str:
    """The quantization that names this file and no other; empty where its name has none of its own."""
    alike = [other for other in estimate.inventory.files if other.label.lower() == file.label.lower()]
    in_name = file.label.lower() in file.path.lower()
    return file.label if file.label and in_name and len(alike) == 1 else ""


def _held(estimate: Estimate, row: FitRow, quantized: dict[str, tuple[str, str]]) -> bool:
    """Whether a program that quantizes so while loading holds this row of this checkpoint."""
    if row.precision.method == "stored":
        return True
    if estimate.inventory.prequantized is not None:
        return False
    return row.precision.id in quantized or row.precision.id in _PLAIN


def _option(name: str, value: str, default: str) -> list[str]:
    return [] if value == default else [name, value]


def _line(words: list[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)
