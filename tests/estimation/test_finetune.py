"""Fine-tuning by arithmetic against real training steps, real adapters and real 4-bit models on CPU."""

import json
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

from quantspace.errors import BadWorkload
from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.hardware import find_gpu
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.training.finetune import METHODS, FinetuneWorkload, base_terms, finetune
from quantspace.estimation.training.optimizers import OPTIMIZERS
from quantspace.estimation.training.watch import run_step, watch_finetune
from quantspace.precision import PRECISIONS
from quantspace.runtime.readout import held_tensors
from tests.tiny_models import ARCHITECTURES

T4 = find_gpu("t4")
BATCH, LENGTH = 2, 100
# Dense families with grouped heads, fused and transposed linears, windows, convolutions, biases, alibi.
WATCHED = [
    "llama-untied", "gpt2-conv1d", "qwen3-norms", "phi3-fused-linears", "mistral-sliding", "gemma3-text",
    "gemma2-sliding", "opt-biases", "falcon-multi-query", "lfm2-hybrid",
]  # fmt: skip
EXPERTS = ["qwen3-moe-experts", "gpt-oss-experts"]  # full only: PEFT merges adapters on experts into copies


def steps():
    """Each family, method and dtype; by day each family and method in one dtype, which takes turns for adapters."""
    for place, name in enumerate(WATCHED):
        for method in ("full", "lora"):
            for precision in ("bf16", "fp32"):
                daily = (precision == "fp32") == (method == "lora" and place % 2 == 0)
                marks = () if daily else pytest.mark.nightly
                yield pytest.param(name, method, precision, marks=marks, id=f"{name}-{method}-{precision}")


@lru_cache
def raw(name):
    data = json.loads(ARCHITECTURES[name]().to_json_string(use_diff=False))
    if "attn_pdrop" in data:
        data["attn_pdrop"] = 0.0  # on CPU, dropout inside attention has no fused kernel; on CUDA it has
    return data


@lru_cache
def inventory_of(name):
    return inventory_from_config(raw(name), name)


def fit(name, work, watched=True):
    config = parse_config(raw(name))
    peak = watch_finetune(config, model_class(config), inventory_of(name), work) if watched else None
    assert peak or not watched
    return finetune(inventory_of(name), T4, work, peak)


def in_passing(found):
    return sum(t.bytes for t in found.terms if "widest moment" in t.name)


def real_model(name, work):
    config = parse_config(raw(name))
    model = model_class(config)(config).to(getattr(torch, work.row.dtype))
    if work.method == "lora":
        model = get_peft_model(model, LoraConfig(r=work.rank, target_modules=work.targets)).base_model.model
    if work.checkpointing:
        model.activation_checkpointing_enable()
    return model.train()


def assert_close(name, work, measured, predicted):
    print(f"{name} {work.method} {work.precision} checkpointing={work.checkpointing}: measured {measured:,}, "
          f"predicted {predicted:,} ({predicted / measured - 1:+.2%})")  # fmt: skip
    assert -0.005 <= predicted / measured - 1 <= 0.005


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("name", "method", "precision"), steps())
def test_the_peak_of_a_real_training_step_is_the_predicted_one(name, method, precision, checkpointing):
    work = FinetuneWorkload(method, precision, 8, "all-linear", BATCH, LENGTH, checkpointing=checkpointing)
    torch.manual_seed(0)

    measured = run_step(real_model(name, work), BATCH, LENGTH).peak

    assert_close(name, work, measured, in_passing(fit(name, work)))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", EXPERTS)
def test_a_training_step_with_fused_experts_is_predicted(name, checkpointing):
    work = FinetuneWorkload("full", "bf16", batch=BATCH, sequence=LENGTH, checkpointing=checkpointing)
    torch.manual_seed(0)

    measured = run_step(real_model(name, work), BATCH, LENGTH).peak

    assert_close(name, work, measured, in_passing(fit(name, work)))


def load_for_qlora(folder, name, precision):
    cls = model_class(parse_config(json.loads((folder / "config.json").read_text())))
    model = cls.from_pretrained(folder, device_map={"": "cpu"}, **PRECISIONS[precision].transformers_kwargs())
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


@pytest.mark.parametrize("precision", ["nf4-dq", "nf4", "int8"])
@pytest.mark.parametrize("name", ["llama-tied", "gpt2-conv1d", "gemma3-vision", "qwen3-moe-experts", "t5-float32-kept"])
def test_weights_prepared_for_qlora_are_the_real_ones(name, precision, tiny_checkpoint):
    model = load_for_qlora(tiny_checkpoint(name), name, precision)
    held = sum(tensor.held_bytes for tensor in held_tensors(model))

    terms = base_terms(inventory_of(name), FinetuneWorkload("qlora", precision))

    assert sum(term.bytes for term in terms) == held


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["llama-tied", "qwen3-norms"])
def test_the_peak_of_a_real_qlora_step_is_the_predicted_one(name, checkpointing, tiny_checkpoint):
    work = FinetuneWorkload("qlora", "nf4-dq", 8, "all-linear", BATCH, LENGTH, checkpointing=checkpointing)
    model = load_for_qlora(tiny_checkpoint(name), name, "nf4-dq")
    model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear")).base_model.model
    if checkpointing:
        model.activation_checkpointing_enable()
    found = fit(name, work)

    measured = run_step(model.train(), BATCH, LENGTH).peak

    copy = sum(t.bytes for t in found.terms if t.name.startswith("dequantized"))
    predicted = in_passing(found) + copy
    print(f"{name} checkpointing={checkpointing}: measured {measured:,}, predicted {predicted:,} "
          f"({predicted / measured - 1:+.2%}), {copy:,} of it the dequantized copy")  # fmt: skip
    assert -0.03 <= predicted / measured - 1 <= 0.05


def test_with_accumulation_all_gradients_stand_beside_the_activations():
    once = FinetuneWorkload("full", "bf16", batch=BATCH, sequence=LENGTH, checkpointing=False)
    torch.manual_seed(0)
    model = real_model("llama-untied", once)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    gradients = sum(p.grad.nbytes for p in model.parameters())

    measured = gradients + run_step(model, BATCH, LENGTH).peak
    predicted = in_passing(fit("llama-untied", replace(once, accumulation=True)))

    assert 0 <= predicted / measured - 1 <= 0.05


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llama-tied", "gpt2-conv1d", "gemma3-text", "qwen3-norms", "opt-biases"])
def test_what_is_assumed_without_watching_is_on_the_safe_side(name, method, checkpointing):
    work = FinetuneWorkload(method, METHODS[method][0], 8, batch=4, sequence=200, checkpointing=checkpointing)

    watched, assumed = fit(name, work), fit(name, work, watched=False)

    assert assumed.total_bytes >= watched.total_bytes
    assert watched.watched and not assumed.watched


works = st.builds(
    lambda method, pick, **rest: FinetuneWorkload(method, METHODS[method][pick % len(METHODS[method])], **rest),
    method=st.sampled_from(list(METHODS)),
    pick=st.integers(0, 3),
    rank=st.integers(1, 512),
    targets=st.sampled_from(["attention", "all-linear", ("down_proj",)]),
    batch=st.integers(1, 64),
    sequence=st.integers(1, 20_000),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    checkpointing=st.booleans(),
    accumulation=st.booleans(),
)


@lru_cache
def _peak(precision, method, checkpointing):
    work = FinetuneWorkload(method, precision, 8, checkpointing=checkpointing)
    config = parse_config(raw("mistral-sliding"))
    return watch_finetune(config, model_class(config), inventory_of("mistral-sliding"), work)


def _found(work, watched):
    peak = _peak(work.precision, work.method, work.checkpointing) if watched else None
    return finetune(inventory_of("mistral-sliding"), T4, work, peak)


@settings(max_examples=60, deadline=None)
@given(work=works, watched=st.booleans(), more=st.sampled_from(["rank", "batch", "sequence"]))
def test_more_of_anything_never_takes_less(work, watched, more):
    # An adapter that reaches 4,096 elements turns to 8-bit states, so a higher rank may hold less of them.
    assume(more != "rank" or "8bit" not in work.optimizer)
    larger = replace(work, **{more: getattr(work, more) + 1})

    assert _found(larger, watched).total_bytes >= _found(work, watched).total_bytes


@settings(max_examples=60, deadline=None)
@given(work=works, watched=st.booleans())
def test_terms_sum_to_the_total_and_limits_are_the_last_that_fit(work, watched):
    found = _found(work, watched)

    data = found.as_data()
    assert sum(term["bytes"] for term in data["terms"]) == found.total_bytes == found.usable_bytes - found.free_bytes
    assert json.loads(json.dumps(data)) == data
    assert (found.verdict == "no") == (found.free_bytes < 0)
    limit = inventory_of("mistral-sliding").max_context
    if found.max_sequence:
        assert _found(replace(work, sequence=found.max_sequence), watched).free_bytes >= 0
    if found.max_sequence < limit:
        assert _found(replace(work, sequence=found.max_sequence + 1), watched).free_bytes < 0
    if found.max_batch:
        assert _found(replace(work, batch=found.max_batch), watched).free_bytes >= 0
    if found.max_batch < 4096:
        assert _found(replace(work, batch=found.max_batch + 1), watched).free_bytes < 0


@pytest.mark.parametrize(
    "values",
    [
        {"method": "dora"}, {"method": "full"}, {"precision": "bf16"}, {"rank": 0}, {"rank": True}, {"batch": 0},
        {"sequence": -1}, {"sequence": 1.5}, {"optimizer": "lion"}, {"targets": ()}, {"targets": ""},
    ],
)  # fmt: skip
def test_a_workload_that_means_nothing_is_refused_with_what_to_give(values):
    with pytest.raises(BadWorkload) as caught:
        FinetuneWorkload(**values)
    assert caught.value.hint


def test_a_model_with_nothing_to_quantize_is_refused_for_qlora():
    inventory = inventory_of("llama-tied")
    bare = replace(inventory, tensors=tuple(replace(t, rows=0) for t in inventory.tensors))
    with pytest.raises(BadWorkload, match="no layer to quantize"):
        finetune(bare, T4, FinetuneWorkload())


def test_experts_are_said_to_be_copied_where_peft_adapts_them_and_left_alone_where_not():
    copied = fit("qwen3-moe-experts", FinetuneWorkload("lora", "bf16"), watched=False)
    left = fit("gpt-oss-experts", FinetuneWorkload("lora", "bf16"), watched=False)

    assert any("copies of experts" in term.name for term in copied.terms)
    assert not any("copies of experts" in term.name for term in left.terms)
    assert any("not linear layers" in note for note in left.notes)
