"""Variants of a precision really loaded: options, the peak meanwhile, and what cannot be loaded says why."""

import gc
import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from quantspace.errors import BadInput
from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.here import Device, installed
from quantspace.estimation.loadable import can_compute, held_here, refusal_to_load, why_not
from quantspace.estimation.loading import loading_peak
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.weights import stored_tensors, weight_bytes
from quantspace.precision import LAYOUTS, LOADABLE, PRECISIONS
from quantspace.runtime.job import Job, LoadOptions
from quantspace.runtime.loader import load
from quantspace.runtime.variants import load_variant

CPU = Device("cpu")


def inventory_of(folder, **changes):
    return inventory_from_config({**json.loads((folder / "config.json").read_text()), **changes}, "x/y")


def loaded_with(folder, precision_id, options):
    *_, loaded = load(Job("x/y", "local", str(folder), precision_id, 0, 0, options=options), [])
    return loaded


OPTIONS = {
    "float16": LoadOptions(compute_dtype="float16"),
    "float32": LoadOptions(compute_dtype="float32"),
    "nested": LoadOptions(double_quant=True),
    "not nested": LoadOptions(double_quant=False),
    "skip by end": LoadOptions(skip=("o_proj",)),
    "skip a block": LoadOptions(skip=("model.layers.1", "down_proj")),
    "skip by pattern": LoadOptions(skip=("model.layers.*.mlp",)),
    "all": LoadOptions("float16", double_quant=True, skip=("q_proj", "k_proj")),
}
ROWS = ["int8", "nf4", "fp4", "nf4-dq", "int8-ao", "fp8-ao"]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("precision_id", ROWS)
def test_an_option_holds_the_bytes_that_were_estimated_with_it(precision_id, options, tiny_checkpoint):
    folder, chosen = tiny_checkpoint("llama-untied"), OPTIONS[options]
    variant = PRECISIONS[precision_id].with_options(chosen.compute_dtype, chosen.double_quant, chosen.skip)
    expected = weight_bytes(inventory_of(folder), variant)

    loaded = loaded_with(folder, precision_id, chosen)

    readout = loaded.readout
    assert (readout.footprint_bytes, readout.held_bytes) == (expected.footprint, expected.held)
    assert str(loaded.model.dtype) == f"torch.{variant.dtype}" or precision_id == "int8"
    told = {t.name: t.storage_dtype for t in readout.tensors}
    assert told == {t.name: t.storage_dtype for t in stored_tensors(inventory_of(folder), variant)} | {
        name: dtype for name, dtype in told.items() if dtype.endswith("(torchao)")
    }


def test_options_make_another_estimate_and_leave_the_row_as_it_is(tiny_checkpoint):
    inventory, row = inventory_of(tiny_checkpoint("llama-untied")), PRECISIONS["nf4"]
    before = weight_bytes(inventory, row)
    nested = weight_bytes(inventory, row.with_options(double_quant=True))
    skipping = weight_bytes(inventory, row.with_options(skip=("o_proj",)))
    assert before == weight_bytes(inventory, row)
    assert nested == weight_bytes(inventory, PRECISIONS["nf4-dq"])
    assert before.held < skipping.held


@pytest.mark.parametrize("name", ["qwen3-moe-experts", "gpt-oss-experts"])
def test_a_skipped_experts_layer_stays_in_16_bits(name, tiny_checkpoint):
    folder, options = tiny_checkpoint(name), LoadOptions(skip=("model.layers.0.mlp",))
    expected = weight_bytes(inventory_of(folder), PRECISIONS["nf4-moe"].with_options(skip=options.skip))

    readout = loaded_with(folder, "nf4-moe", options).readout

    assert readout.held_bytes == expected.held
    first = {t.storage_dtype for t in readout.tensors if t.name.startswith("model.layers.0.mlp.experts")}
    assert not any("nf4" in dtype for dtype in first)


@pytest.mark.parametrize("names", [("(a+)+",), ("*",), ("a**",), ("x" * 200,), ("o_proj|q_proj",), ("a.*b.*c.*d.*",)])
def test_names_that_could_hang_a_search_are_refused(names):
    with pytest.raises(BadInput, match="not the name of a module"):
        PRECISIONS["nf4"].with_options(skip=names)


def test_a_dtype_that_is_none_or_that_a_format_lacks_is_refused():
    with pytest.raises(BadInput, match="not a dtype to compute in"):
        PRECISIONS["nf4"].with_options("int3")
    with pytest.raises(BadInput, match="computes in bfloat16, not in float32"):
        PRECISIONS["int4-ao"].with_options("float32")


def test_rows_that_cast_and_stored_ones_keep_their_dtype():
    for precision_id in ("fp32", "bf16", "fp16", "native"):
        assert PRECISIONS[precision_id].with_options("float16", True, ("o_proj",)) is PRECISIONS[precision_id]


PEAKS = ["bf16", "fp16", "int8", "nf4", "nf4-dq", "fp4", "int8-ao", "fp8-ao", "int4-ao", "nf4-moe"]


@pytest.fixture(scope="module")
def wide_checkpoint(tmp_path_factory):
    """A checkpoint in float32 whose tensors are large beside what else a load allocates."""
    made = {}

    def checkpoint(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            config = parse_config(json.loads(WIDE[name]))
            torch.manual_seed(0)
            cls = model_class(config)
            config.architectures = [cls.__name__]
            cls(config).save_pretrained(made[name])
        return made[name]

    return checkpoint


_TEXT = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "head_dim": 64,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "dtype": "float32",
}  # fmt: skip
WIDE = {
    "dense": json.dumps({**_TEXT, "model_type": "llama", "tie_word_embeddings": False}),
    "many words": json.dumps({**_TEXT, "model_type": "qwen2", "vocab_size": 4096, "tie_word_embeddings": True}),
    "experts": json.dumps(
        {**_TEXT, "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
    ),
    "conv1d": json.dumps(
        {"model_type": "gpt2", "vocab_size": 512, "n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 256}
    ),
}


@pytest.mark.parametrize("precision_id", PEAKS)
@pytest.mark.parametrize("name", WIDE)
def test_the_peak_while_loading_is_the_estimated_one_within_5_percent(name, precision_id, wide_checkpoint, monkeypatch):
    """Measured by the allocator's own count (memory events of the profiler), less the file that is mapped."""
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # threads that read ahead are not in a profile
    folder = wide_checkpoint(name)
    inventory = inventory_of(folder)
    precision = LOADABLE[precision_id]
    if refusal_to_load(inventory, precision, CPU) is not None:
        return
    held, expected = weight_bytes(inventory, precision).held, loading_peak(inventory, precision, "cpu")

    job = Job("x/y", "local", str(folder), precision_id, 0, 0)
    measured, left = allocated(lambda: load_variant(job))
    mapped = sum(file.stat().st_size for file in folder.glob("*.safetensors"))

    print(
        f"{name} at {precision_id}: {measured - mapped:,} measured, {expected / (measured - mapped) - 1:+.1%} estimated"
    )
    assert abs(left - held) < 8192  # nothing was missed
    assert expected == pytest.approx(measured - mapped, rel=0.05)


def allocated(work):
    """The most bytes that were allocated at once while `work` was done, and those that are at its end."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = work()
    events = []
    pending = list(profiled.profiler.kineto_results.experimental_event_tree())
    while pending:
        node = pending.pop()
        pending.extend(node.children)
        if "Allocation" in str(node.tag):
            events.append((node.start_time_ns, node.extra_fields.alloc_size))
    now = most = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        now += size
        most = max(most, now)
    del kept
    return most, now


class TestWhatCannotBeLoadedHereSaysWhy:
    def test_a_package_that_is_missing(self, tiny_checkpoint):
        inventory = inventory_of(tiny_checkpoint("llama-tied"))
        assert why_not(inventory, PRECISIONS["int8-ao"], CPU) == ""
        asking = replace(PRECISIONS["int8-ao"], packages=("torchao", "nobody-has-this"))
        assert installed("torchao")
        assert why_not(inventory, asking, CPU) == (
            "Not loaded here: it needs nobody-has-this, not installed on this machine. "
            "Install it: pip install nobody-has-this"
        )

    def test_a_model_without_fused_experts(self, tiny_checkpoint):
        told = why_not(inventory_of(tiny_checkpoint("llama-tied")), PRECISIONS["nf4-moe"], CPU)
        assert "no fused experts" in told and "nf4-dq" in told

    def test_a_format_that_is_made_by_calibration(self, tiny_checkpoint):
        told = why_not(inventory_of(tiny_checkpoint("llama-tied")), PRECISIONS["awq-4bit"], CPU)
        assert "by calibration" in told

    def test_outputs_that_do_not_come_in_sixteens(self, tiny_checkpoint):
        told = why_not(inventory_of(tiny_checkpoint("mamba2-state")), PRECISIONS["int4-ao"], CPU)
        assert "a processor packs outputs in sixteens, and backbone.layers.0.mixer.in_proj has" in told

    def test_a_card_that_is_too_old(self, tiny_checkpoint):
        inventory = inventory_of(tiny_checkpoint("llama-tied"))
        assert "compute capability 8.0" in why_not(inventory, PRECISIONS["int4-ao"], Device("cuda", (7, 5)))
        assert why_not(inventory, PRECISIONS["int4-ao"], Device("cuda", (8, 0))) == ""

    @pytest.mark.parametrize(
        ("name", "precision_id"),
        [
            ("mamba-state", "nf4"),
            ("mamba-state", "int8-ao"),
            ("falcon-multi-query", "fp8-ao"),
            ("deepseek-v3-latent", "int8"),
        ],
    )
    def test_layers_that_would_load_and_then_not_compute(self, name, precision_id, tiny_checkpoint):
        folder = tiny_checkpoint(name)
        assert not can_compute(inventory_of(folder), PRECISIONS[precision_id], "cpu")
        model = loaded_with(folder, precision_id, LoadOptions()).model
        with torch.no_grad(), pytest.raises((RuntimeError, NotImplementedError)):
            model(input_ids=torch.tensor([[3, 4, 5, 6]]))


def test_four_bits_of_torchao_are_padded_into_tiles_on_a_gpu():
    tiles = held_here(None, PRECISIONS["int4-ao"], Device("cuda", (9, 0)))
    assert tiles.layout is LAYOUTS["int4-ao-tiles"]
    assert tiles.layout.bytes(4096 * 1024, 4096, 1024) == (4096 * 1024 // 2, 4 * 4096 * 1024 // 128)
    assert tiles.layout.bytes(100 * 128, 100, 128) == (104 * 1024 // 2, 4 * 104 * 1024 // 128)


def test_a_checkpoint_stored_quantized_is_refused_by_the_loader_in_any_other_format(tiny_checkpoint, tmp_path):
    config = json.loads((tiny_checkpoint("llama-tied") / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Exception, match=r"stored quantized already \(gptq\)"):
        loaded_with(tmp_path, "nf4", LoadOptions())


def test_a_kept_copy_is_loaded_instead_of_the_original(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint("llama-untied")
    loaded = loaded_with(folder, "nf4-dq", LoadOptions())
    loaded.model.save_pretrained(tmp_path)
    for file in folder.glob("*token*"):
        shutil.copy(file, tmp_path)

    *_, again = load(Job("x/y", "local", str(tmp_path), "nf4-dq", 0, 0, kept=str(tmp_path)), [])

    assert again.readout.held_bytes == loaded.readout.held_bytes
