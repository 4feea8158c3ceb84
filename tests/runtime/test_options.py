"""The options of a load: defaults with their reasons, refusals before anything is fetched, and exact bytes after."""

import json
from dataclasses import replace

import pytest
import torch
from transformers.quantizers.quantizers_utils import should_convert_module

from quantspace.errors import BadInput, OutOfMemory
from quantspace.estimation.builder import demo_inventory, inventory_for
from quantspace.estimation.hardware import find_gpu, gpus
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.weights import weight_bytes
from quantspace.hub.demo import DEMO_ID
from quantspace.hub.reference import ModelRef
from quantspace.precision import PRECISIONS
from quantspace.runtime import loader, session, worker
from quantspace.runtime.job import Failed, Job, Loaded, LoadOptions, Message, Sampling, Text
from quantspace.runtime.loader import load
from quantspace.runtime.machine import Machine, machine
from quantspace.runtime.option_checks import matcher, unavailable
from quantspace.runtime.options import cache_for, defaults, settle, unquantized_modules, warnings

PROCESSOR = Machine(host_bytes=64 * 10**9)
NF4 = PRECISIONS["nf4"]


def card(name):
    return Machine(find_gpu(name), 1, 64 * 10**9)


@pytest.fixture(autouse=True)
def empty_slot():
    yield
    worker.unload()


@pytest.fixture(scope="module")
def gemma():
    return inventory_for(ModelRef("google/gemma-3-4b-it"))


@pytest.fixture(scope="module")
def llama():
    return inventory_for(ModelRef("meta-llama/Llama-3.1-8B-Instruct"))


class TestDefaults:
    @pytest.mark.parametrize(
        ("model", "gpu", "dtype", "reason"),
        [
            ("meta-llama/Llama-3.1-8B-Instruct", "t4", "float16", "no native bfloat16"),
            ("meta-llama/Llama-3.1-8B-Instruct", "l4", "bfloat16", "natively"),
            ("google/gemma-3-4b-it", "t4", "bfloat16", "overflow in float16"),
            ("google-t5/t5-small", "t4", "bfloat16", "overflow in float16"),
            ("google/gemma-3-4b-it", "l4", "bfloat16", "overflow in float16"),
        ],
    )
    def test_the_compute_dtype_suits_the_card_and_the_model(self, model, gpu, dtype, reason):
        inventory, here = inventory_for(ModelRef(model)), card(gpu)
        found = defaults(inventory, here).compute_dtype
        assert found.value == dtype
        assert reason in found.reason
        assert settle(LoadOptions(), inventory, NF4, here).compute_dtype == ("" if dtype == "bfloat16" else dtype)

    def test_no_card_without_native_bfloat16_is_given_it_unasked(self, llama):
        older = [gpu for gpu in gpus().values() if gpu.kind == "gpu" and gpu.bf16_native is False]
        assert len(older) >= 3
        assert {defaults(llama, Machine(gpu, 1, 10**9)).compute_dtype.value for gpu in older} == {"float16"}

    def test_every_default_has_a_reason(self, llama):
        for here in (PROCESSOR, card("t4"), replace(card("l4"), cards=2), replace(card("l4"), zero_gpu=True)):
            found = defaults(llama, here)
            assert all(getattr(found, name).reason.endswith(".") for name in found.__slots__)

    def test_a_dtype_that_overflows_is_warned_of_where_it_is_chosen(self, gemma, llama):
        chosen = LoadOptions(compute_dtype="float16")
        assert "overflow" in warnings(chosen, gemma, PROCESSOR)[0]
        assert warnings(chosen, llama, PROCESSOR) == ()

    def test_this_machine_is_known(self):
        assert machine().host_bytes > 10**9
        assert machine().devices[-2:] == ("cpu", "disk")


class TestRefusals:
    """Each before anything is fetched or dropped, with the next step."""

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (LoadOptions(skip=("nothing_here",)), "No layer of this model"),
            (LoadOptions(skip=("(a+)+$",)), "no module's name"),
            (LoadOptions(skip=tuple(f"layers.{n}" for n in range(99))), "too many"),
            (LoadOptions(compute_dtype="float8"), "no compute dtype"),
            (LoadOptions(attention="paged"), "no attention"),
            (LoadOptions(attention="flash_attention_2"), "needs a GPU"),
            (LoadOptions(kv_dtype="float32"), "own dtype or quantized"),
            (LoadOptions(device_map=(("*", "cuda:7"),)), "no cuda:7"),
        ],
    )
    def test_what_cannot_be_had_gets_a_sentence(self, options, words):
        with pytest.raises(BadInput) as error:
            settle(options, demo_inventory(), NF4, PROCESSOR)
        assert words in error.value.message
        assert error.value.hint

    def test_the_middle_of_a_name_is_answered_with_the_whole_of_it(self, gemma):
        with pytest.raises(BadInput, match=r"Write model\.vision_tower:"):
            settle(LoadOptions(skip=("vision_tower",)), gemma, NF4, PROCESSOR)

    def test_a_cache_with_a_window_is_not_quantized(self, gemma):
        with pytest.raises(BadInput, match="Gemma3ForConditionalGeneration"):
            settle(LoadOptions(kv_dtype="fp8"), gemma, NF4, PROCESSOR)

    def test_an_attention_that_the_class_lacks_is_refused(self):
        bloom = inventory_for(ModelRef("bigscience/bloom"))
        with pytest.raises(BadInput, match="BloomForCausalLM has no sdpa"):
            settle(LoadOptions(attention="sdpa"), bloom, NF4, PROCESSOR)
        assert settle(LoadOptions(attention="eager"), bloom, NF4, PROCESSOR).attention == "eager"

    def test_a_refusal_leaves_the_loaded_model_alone(self):
        *_, first = session.load_model(DEMO_ID, "nf4")
        *_, refused = session.load_model(DEMO_ID, "nf4", options=LoadOptions(skip=("nothing_here",)))
        assert isinstance(first, Loaded)
        assert isinstance(refused, Failed) and refused.code == "bad_input"
        assert worker._slot is not None

    def test_what_is_not_here_is_told_with_its_reason(self):
        assert unavailable(PROCESSOR)["flash_attention_2"] == "needs a GPU"
        assert "flash-attn" in unavailable(card("l4"))["flash_attention_2"]


def test_options_that_do_not_apply_to_a_row_are_dropped(llama):
    asked = LoadOptions(compute_dtype="float32", double_quant=True, skip=("down_proj",))
    settled = settle(asked, llama, PRECISIONS["bf16"], PROCESSOR)
    assert (settled.compute_dtype, settled.double_quant, settled.skip) == ("", None, ())


@pytest.mark.parametrize("name", ["down_proj", "model.layers.1", "layers.1.mlp", "q_proj", "lm_head", "model"])
def test_modules_are_matched_as_transformers_matches_them(name, llama):
    modules = [spec.name.rpartition(".")[0] for spec in llama.tensors]
    assert [matcher(name)(module) for module in modules] == [not should_convert_module(m, [name]) for m in modules]


SKIPPING = [
    ("llama-untied", "nf4", LoadOptions(compute_dtype="float16", skip=("down_proj", "model.layers.0"))),
    ("llama-tied", "nf4-dq", LoadOptions(compute_dtype="float32", double_quant=False)),
    ("gemma3-vision", "fp4", LoadOptions(compute_dtype="float16", double_quant=True, skip=("model.vision_tower",))),
    ("gpt2-conv1d", "int8", LoadOptions(compute_dtype="float32", skip=("c_proj",), attention="eager")),
    ("qwen3-moe-experts", "nf4-dq", LoadOptions(compute_dtype="float16", skip=("self_attn.q_proj",))),
    ("t5-float32-kept", "nf4", LoadOptions(compute_dtype="float16", skip=("SelfAttention.q",))),
    ("opt-biases", "int8", LoadOptions(compute_dtype="float16", skip=("fc1",))),
    ("phi3-fused-linears", "nf4", LoadOptions(compute_dtype="float32", double_quant=True, skip=("qkv_proj",))),
    ("qwen3-norms", "int8-ao", LoadOptions(compute_dtype="float32", skip=("o_proj",))),
]


@pytest.mark.parametrize(("name", "precision_id", "asked"), SKIPPING, ids=[f"{n}-{p}" for n, p, _ in SKIPPING])
def test_the_estimate_follows_the_options_to_the_byte(name, precision_id, asked, tiny_checkpoint):
    folder = tiny_checkpoint(name)
    inventory = inventory_from_config(json.loads((folder / "config.json").read_text()), name)
    precision = PRECISIONS[precision_id]
    options = settle(asked, inventory, precision, PROCESSOR)
    variant = precision.with_options(
        options.compute_dtype, options.double_quant, unquantized_modules(options, PROCESSOR)
    )
    expected, by_default = weight_bytes(inventory, variant), weight_bytes(inventory, precision)

    *_, loaded = load(Job(name, "local", str(folder), precision_id, 0, 0, options=options), [])
    assert (loaded.readout.footprint_bytes, loaded.readout.held_bytes) == (expected.footprint, expected.held)
    assert expected.held != by_default.held
    computed = {tensor.logical_dtype for tensor in loaded.readout.tensors if tensor.name.endswith("proj.weight")}
    assert computed <= {asked.compute_dtype, "float32"}
    if options.attention:
        assert loaded.model.config._attn_implementation == options.attention


class TestQuantizedCache:
    @pytest.mark.parametrize("kv_dtype", ["fp8", "int4", "int2"])
    def test_it_is_what_generate_uses(self, kv_dtype, tiny_checkpoint):
        if kv_dtype in unavailable(PROCESSOR):
            pytest.skip("optimum-quanto is not installed")
        folder = tiny_checkpoint("llama-untied")
        options = LoadOptions(kv_dtype=kv_dtype)
        *_, loaded = load(Job("tiny", "local", str(folder), "bf16", 0, 0, options=options), [])
        told = cache_for(options, loaded.model)
        prompt = torch.arange(3, 140)[None]
        answer = loaded.model.generate(prompt, max_new_tokens=4, do_sample=False, **told)
        assert answer.shape[1] > prompt.shape[1]
        cache = told["past_key_values"]
        assert cache.get_seq_length() >= prompt.shape[1]
        assert type(cache).__name__ == "QuantizedCache"

    def test_the_models_own_dtype_needs_nothing(self):
        assert cache_for(LoadOptions(), None) == {}

    def test_each_answer_has_a_cache_of_its_own(self, tiny_checkpoint):
        *_, loaded = load(Job("tiny", "local", str(tiny_checkpoint("llama-untied")), "bf16", 0, 0), [])
        options = LoadOptions(kv_dtype="fp8")
        first, second = (cache_for(options, loaded.model)["past_key_values"] for _ in range(2))
        assert first is not second


def test_a_load_through_the_whole_way_says_which_options_it_had():
    asked = LoadOptions(compute_dtype="float32", skip=("down_proj",))
    job, last = None, None
    for event in session.load_model(DEMO_ID, "nf4", options=asked):
        job, last = (event, last) if isinstance(event, Job) else (job, event)
    assert isinstance(last, Loaded), last
    assert last.readout.options == job.options == replace(asked, double_quant=None)
    assert last.readout.footprint_bytes == job.expected_footprint
    assert last.readout.held_bytes == job.expected_bytes
    assert last.readout.devices == (("cpu", job.expected_bytes),)


def test_memory_and_disk_through_the_whole_way():
    asked = LoadOptions(device_map=(("model.layers.2", "disk"), ("*", "cpu")))
    job, last = None, None
    for event in session.load_model(DEMO_ID, "bf16", options=asked):
        job, last = (event, last) if isinstance(event, Job) else (job, event)
    assert isinstance(last, Loaded), last
    assert last.readout.devices == job.expected_devices
    assert last.readout.held_bytes == job.expected_bytes
    assert ("model.layers.2", "disk") in last.readout.placement


def test_what_is_on_the_disk_needs_no_memory(monkeypatch):
    """A model larger than memory loads where enough of it is on the disk, and is refused where it is not."""
    room = 4_200_000
    monkeypatch.setattr(loader, "free_bytes", lambda: room + loader.LOADING_ROOM + 3_000_000)
    in_memory = Job(DEMO_ID, "bundled", "", "bf16", 0, 6_951_680, loading_bytes=3_000_000)
    with pytest.raises(OutOfMemory, match=r"6\.95 MB"):
        loader.refuse_if_too_large(in_memory)
    split = replace(in_memory, expected_devices=(("cpu", 4_000_000), ("disk", 2_951_680)))
    loader.refuse_if_too_large(split)


@pytest.mark.parametrize("dtype", ["fp8", "int4"])
def test_a_chat_keeps_its_cache_as_the_option_says(dtype):
    """The answer still comes, from a cache of that kind, and the next turn reads its prompt anew."""
    options = LoadOptions(kv_dtype=dtype)
    job = next(event for event in session.load_model(DEMO_ID, "bf16", options=options) if isinstance(event, Job))
    for _ in range(2):
        *events, stats = session.chat(job, [Message("user", "What is NF4?")], Sampling(max_new_tokens=12, greedy=True))
        assert "NF4" in "".join(event.piece for event in events if isinstance(event, Text))
        assert stats.reused_tokens == 0
    worker.unload()
