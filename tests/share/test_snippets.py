"""Every Python snippet is run as it is printed, on a tiny model: what it loads is what was estimated, 0 B off."""

import inspect
import json
import shlex
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from transformers import QuantizedCache

from quantspace.estimation.calculator import estimate
from quantspace.estimation.hardware import find_gpu
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.workload import Hardware
from quantspace.precision import LOADABLE, PRECISIONS
from quantspace.runtime.readout import held_tensors
from quantspace.share.commands import commands
from quantspace.share.snippets import python_snippet, snippets

from .asked import a_file, answer, estimate_from, gguf

NAMES = ["llama-tied", "gpt2-conv1d", "gemma3-vision", "qwen3-moe-experts", "t5-float32-kept", "mamba-state"]
PRINTED = [precision_id for precision_id in LOADABLE if precision_id not in ("native", "nf4-moe")]
CPU = Hardware(find_gpu("cpu-basic"))


def estimate_of(folder, hardware=CPU, **workload):
    inventory = inventory_from_config(json.loads((folder / "config.json").read_text()), str(folder))
    return estimate_from(inventory, hardware, **workload)


def executed(code):
    names = {}
    exec(code, names)  # as it is printed
    return names["model"]


@pytest.mark.parametrize("precision_id", PRINTED)
@pytest.mark.parametrize("name", NAMES)
def test_the_python_loads_what_was_estimated(name, precision_id, tiny_checkpoint, capsys):
    found = estimate_of(tiny_checkpoint(name))
    row = found.row(precision_id)
    if python_snippet(found, row) is None:  # it would load, and could not compute
        assert "Not loaded here" in row.why_not
        return

    model = executed(python_snippet(found, row).code)

    off = sum(tensor.held_bytes for tensor in held_tensors(model)) - row.weights.held
    assert off == 0
    assert type(model).__name__ == found.inventory.architecture
    printed = capsys.readouterr().out
    assert printed == f"{model.get_memory_footprint():,} B\n"
    assert printed == f"{row.weights.footprint:,} B\n"


@pytest.mark.parametrize("precision_id", PRINTED)
def test_the_python_tells_transformers_what_the_loader_tells_it(precision_id, tiny_checkpoint):
    told = PRECISIONS[precision_id].transformers_kwargs()
    found = estimate_of(tiny_checkpoint("llama-untied"))

    model = executed(python_snippet(found, found.row(precision_id)).code)

    assert model.dtype == told["dtype"] or "quantization_config" in told
    written = getattr(model.config, "quantization_config", None)
    wanted = told.get("quantization_config")
    assert (written and written.to_dict()) == (wanted and wanted.to_dict())


def test_a_model_of_the_hub_is_loaded_at_the_revision_that_was_asked_for(hub, tiny_checkpoint):
    hub.add_repo("snippets/tiny", folder=tiny_checkpoint("llama-untied"))
    hub.commit("snippets/tiny", {"README.md": b"#"}, branch="other")
    found = estimate("snippets/tiny", "cpu-basic", context=64, revision="other")
    snippet = python_snippet(found, found.row("nf4-dq"))
    assert 'revision="other"' in snippet.code
    assert executed(snippet.code).get_memory_footprint() == found.row("nf4-dq").weights.footprint


@pytest.mark.parametrize("kv", ["int4", "int2", "fp8"])
def test_a_quantized_cache_is_what_generate_then_keeps(kv, tiny_checkpoint):
    found = estimate_of(tiny_checkpoint("llama-untied"), context=16, kv_dtype=kv)
    snippet = python_snippet(found, found.row("bf16"))
    assert ("optimum-quanto" in snippet.packages) == (kv != "fp8")
    model = executed(snippet.code)
    answered = model.generate(
        torch.full((1, 8), 3), max_new_tokens=2, do_sample=False, return_dict_in_generate=True, pad_token_id=0
    )
    assert isinstance(answered.past_key_values, QuantizedCache)


def test_a_cache_that_can_not_be_had_is_not_promised(tiny_checkpoint):
    found = estimate_of(tiny_checkpoint("mistral-sliding"), kv_dtype="int4")
    snippet = python_snippet(found, found.row("bf16"))
    assert "cache" not in snippet.code and "can't keep" in " ".join(snippet.notes)
    found = estimate_of(tiny_checkpoint("llama-untied"), kv_dtype="float32")
    assert "not in float32" in " ".join(python_snippet(found, found.row("bf16")).notes)


def a_card_too_small(folder, precision_id):
    """A T4 with a little less memory than the model needs, so that some of its layers are left over."""
    inventory = inventory_from_config(json.loads((folder / "config.json").read_text()), str(folder))
    plenty = estimate_from(inventory, Hardware(find_gpu("t4"))).row(precision_id)
    for percent in range(5, 100, 5):
        card = replace(find_gpu("t4"), usable_bytes=plenty.total_bytes - plenty.weights.held * percent // 100)
        found = estimate_from(inventory, Hardware(card, 1, 32 * 10**9))
        if found.row(precision_id).verdict == "offload":
            return found
    raise AssertionError("no card makes it offload")


@pytest.mark.parametrize("name", ["llama-untied", "gpt2-conv1d", "gemma3-vision", "llama-tied"])
def test_offloading_places_every_module_where_the_estimate_put_it(name, tiny_checkpoint):
    found = a_card_too_small(tiny_checkpoint(name), "fp32")
    row = found.row("fp32")
    assert row.verdict == "offload"
    names = {}
    code = python_snippet(found, row).code
    before, _, rest = code.partition("model = ")
    exec(before, names)
    placed = names["device_map"]
    assert placed == dict.fromkeys(row.split.cards[0].names, 0) | dict.fromkeys(row.split.host.names, "cpu")
    on_cpu = before.replace(": 0,", ': "cpu",').replace(": 0 for", ': "cpu" for')  # no card here
    assert executed(on_cpu + "model = " + rest).get_memory_footprint() == row.weights.footprint


def test_offloading_with_bitsandbytes_asks_for_it(tiny_checkpoint):
    found = a_card_too_small(tiny_checkpoint("llama-untied"), "nf4")
    row = found.row("nf4")
    assert row.verdict == "offload"
    code = python_snippet(found, row).code
    assert "llm_int8_enable_fp32_cpu_offload=True" in code and "stays in 16 bits" in code
    on_cpu = code.replace(": 0,", ': "cpu",').replace(": 0 for", ': "cpu" for')
    assert executed(on_cpu).config.quantization_config.llm_int8_enable_fp32_cpu_offload


def test_a_checkpoint_that_is_stored_quantized_is_loaded_as_it_is(tiny_checkpoint, tmp_path):
    plain = estimate_of(tiny_checkpoint("llama-untied"))
    executed(python_snippet(plain, plain.row("nf4")).code).save_pretrained(tmp_path)
    found = estimate_of(tmp_path)
    row = found.row("native")
    code = python_snippet(found, row).code
    assert "quantization_config" not in code
    assert executed(code).get_memory_footprint() == row.weights.footprint
    assert python_snippet(found, found.row("nf4")) is None


@pytest.mark.parametrize("precision_id", [p for p in PRECISIONS if p not in (*PRINTED, "native", "nf4-moe")])
def test_what_no_library_loads_has_no_python(precision_id):
    found = answer("google/gemma-3-4b-it")
    assert python_snippet(found, found.row(precision_id)) is None


@pytest.mark.parametrize(
    ("gpu", "count", "device"),
    [("t4", 1, "cuda"), ("l4", 2, "auto"), ("mi300x", 1, "cuda"), ("apple-m-64gb", 1, "mps"), ("cpu-basic", 1, "cpu")],
)
def test_the_device_is_that_of_the_card(gpu, count, device):
    found = answer("openai-community/gpt2", gpu, count)
    assert f'device_map="{device}"' in python_snippet(found, found.row("bf16")).code


def test_the_demo_is_loaded_from_its_folder(monkeypatch):
    found = estimate("quantspace/demo", "cpu-basic", context=64)
    row = found.row("nf4")
    assert executed(python_snippet(found, row).code).get_memory_footprint() == row.weights.footprint


def test_a_name_can_not_leave_its_quotes():
    found = answer("openai-community/gpt2")
    risky = replace(found, inventory=replace(found.inventory, model_id='x"); import os; os.abort() #\n'))
    code = python_snippet(risky, risky.row("bf16")).code
    compile(code, "snippet", "exec")
    assert 'from_pretrained(\n    "x\\"); import os; os.abort() #\\n",' in code
    for command in commands(risky, risky.row("bf16")):
        assert shlex.split(command.code)[2] == risky.inventory.model_id


# --- lines for other programs ------------------------------------------------------------------------------


def line_of(found, row, title):
    lines = {command.title: command.code for command in commands(found, row)}
    return lines.get(title)


def test_vllm_is_told_dtype_context_sequences_and_cards():
    found = answer("meta-llama/Llama-3.1-8B-Instruct", "a100-80gb", 2, context=32768, batch=4, kv_dtype="fp8")
    assert line_of(found, found.row("bf16"), "vLLM") == (
        "vllm serve meta-llama/Llama-3.1-8B-Instruct --dtype bfloat16 --max-model-len 32768 --max-num-seqs 4 "
        "--tensor-parallel-size 2 --kv-cache-dtype fp8"
    )
    assert "--quantization bitsandbytes" in line_of(found, found.row("nf4-dq"), "vLLM")
    for other in ("nf4", "fp4", "int8", "int8-ao", "q4_k_m"):  # it would hold something else
        assert line_of(found, found.row(other), "vLLM") is None


def test_vllm_is_shown_with_what_it_would_hold_where_transformers_has_no_room():
    found = answer("meta-llama/Llama-3.1-8B-Instruct", "l4", 2, context=32768, batch=4, kv_dtype="fp8")
    row = found.row("bf16")
    (vllm,) = commands(found, row)
    assert row.verdict == "no" and row.tensor_parallel.reason in " ".join(vllm.notes)


def test_vllm_takes_a_checkpoint_as_it_is_stored():
    found = answer("Qwen/Qwen3-8B-FP8", "l4")
    line = line_of(found, found.row("native"), "vLLM")
    assert line == "vllm serve Qwen/Qwen3-8B-FP8 --max-model-len 8192 --max-num-seqs 1"
    assert commands(found, found.row("bf16")) == () == commands(found, found.row("nf4-dq"))


def test_vllm_is_not_asked_for_bfloat16_where_it_refuses():
    found = answer("google/gemma-3-4b-it", "t4")
    assert line_of(found, found.row("bf16"), "vLLM") is None
    assert "--dtype float16" in line_of(found, found.row("fp16"), "vLLM")


def test_transformers_serve_has_the_options_that_are_printed():
    from transformers.cli.serve import Serve
    from transformers.cli.serving.model_manager import ModelManager

    found = answer("google/gemma-3-4b-it", "t4")
    known = set(inspect.signature(Serve.__init__).parameters)
    for precision_id in ("fp32", "bf16", "int8", "nf4-dq"):
        line = line_of(found, found.row(precision_id), "transformers serve")
        if found.row(precision_id).verdict == "offload":
            assert line is None
            continue
        words = shlex.split(line)
        assert words[:3] == ["transformers", "serve", "google/gemma-3-4b-it"]
        options = {word[2:]: value for word, value in pairwise(words) if word.startswith("--")}
        assert set(options) <= known
        if "quantization" in options:
            manager = ModelManager.__new__(ModelManager)
            manager.quantization = options["quantization"]
            made, ours = manager.get_quantization_config(), PRECISIONS[precision_id].transformers_kwargs()
            wanted = ours["quantization_config"]
            assert (made.load_in_8bit, made.load_in_4bit) == (wanted.load_in_8bit, wanted.load_in_4bit)
            if made.load_in_4bit:
                assert (made.bnb_4bit_quant_type, made.bnb_4bit_use_double_quant) == (
                    "nf4",
                    wanted.bnb_4bit_use_double_quant,
                )
    assert line_of(found, found.row("nf4"), "transformers serve") is None


def test_a_gguf_file_is_run_by_llama_server_and_ollama():
    found = gguf(a_file("gpt2-Q4_K_M.gguf", "Q4_K_M"), a_file("gpt2-Q8_0.gguf", "Q8_0"), context=512, batch=2)
    row = found.row("gguf:gpt2-Q4_K_M.gguf")
    assert line_of(found, row, "llama-server") == (
        "llama-server -hf org/gpt2-GGUF:Q4_K_M --ctx-size 1024 --parallel 2 --n-gpu-layers all"
    )
    assert line_of(found, row, "Ollama") == (
        "OLLAMA_CONTEXT_LENGTH=512 OLLAMA_NUM_PARALLEL=2 ollama serve\nollama run hf.co/org/gpt2-GGUF:Q4_K_M"
    )
    assert python_snippet(found, row) is None
    assert [snippet.title for snippet in snippets(found, row)] == ["llama-server", "Ollama"]


def test_files_that_share_a_label_are_told_apart_by_their_path():
    found = gguf(a_file("a/m-Q4_K_M.gguf", "Q4_K_M"), a_file("b/m-Q4_K_M.gguf", "Q4_K_M"), context=512)
    row = found.row("gguf:a/m-Q4_K_M.gguf")
    assert "-hf org/gpt2-GGUF --hf-file a/m-Q4_K_M.gguf" in line_of(found, row, "llama-server")
    assert line_of(found, row, "Ollama") is None


def test_a_quantized_cache_is_spelled_as_llama_cpp_spells_it():
    found = gguf(a_file("m-Q8_0.gguf", "Q8_0"), context=512, kv_dtype="fp8")
    row = found.rows[0]
    assert "--cache-type-k q8_0 --cache-type-v q8_0" in line_of(found, row, "llama-server")
    assert "OLLAMA_KV_CACHE_TYPE=q8_0" in line_of(found, row, "Ollama")


@pytest.mark.parametrize("precision_id", ["q4_k_m", "awq-4bit", "mxfp4"])
def test_what_somebody_would_have_to_make_first_has_no_line(precision_id):
    found = answer("google/gemma-3-4b-it", "l4")
    assert snippets(found, found.row(precision_id)) == ()
