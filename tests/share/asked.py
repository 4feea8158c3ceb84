"""Questions that the images and tables of these tests answer: twenty bundled models on five cards."""

from dataclasses import replace
from functools import cache

from quantspace.estimation.calculator import Estimate, estimate
from quantspace.estimation.fit import fit_table, recommend
from quantspace.estimation.gguf.file import GgufFile
from quantspace.estimation.hardware import find_gpu
from quantspace.estimation.inventory import Inventory
from quantspace.estimation.workload import Hardware, Workload

MODELS = (
    "google/gemma-3-4b-it", "google/gemma-3-1b-it", "google/gemma-2-2b-it", "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.1-70B-Instruct", "meta-llama/Llama-3.2-1B", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-30B-A3B",
    "Qwen/Qwen3-32B", "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen3-8B-FP8", "Qwen/Qwen2-VL-2B-Instruct",
    "mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mixtral-8x7B-v0.1", "openai/gpt-oss-20b",
    "openai-community/gpt2", "HuggingFaceTB/SmolLM2-135M", "facebook/opt-125m", "microsoft/phi-4", "bigscience/bloom",
)  # fmt: skip
CARDS = (("t4", 1), ("l4", 2), ("rtx-4090", 1), ("a100-80gb", 4), ("rtx-3070", 1))
QUESTIONS = [(model, gpu, count) for model in MODELS for gpu, count in CARDS]


@cache
def answer(model: str, gpu: str = "t4", count: int = 1, **workload: object) -> Estimate:
    """The estimate of a bundled model; each is worked out once."""
    return estimate(model, gpu, count, **workload)


def estimate_from(inventory: Inventory, hardware: Hardware, **workload: object) -> Estimate:
    """The estimate of an inventory that was made by hand, at 64 tokens unless it is told otherwise."""
    asked = Workload(**{"context": 64} | workload)
    rows = fit_table(inventory, hardware, asked)
    return Estimate(inventory, hardware, asked, tuple(rows), recommend(rows))


def gguf(*files: GgufFile, **workload: object) -> Estimate:
    """The estimate on a T4 of a repository that holds GPT-2 in these files."""
    gpt2 = answer("openai-community/gpt2").inventory
    inventory = replace(gpt2, model_id="org/gpt2-GGUF", source_kind="gguf", files=files)
    return estimate_from(inventory, Hardware(find_gpu("t4"), 1, 32 * 10**9), **workload)


def a_file(path: str, label: str, layers: int = 12, each: int = 5_000_000) -> GgufFile:
    """A file whose layers, input and output are of `each` bytes."""
    whole = each * (layers + 2)
    return GgufFile((path,), label, whole, whole, 100, each, (each,) * layers, each)
