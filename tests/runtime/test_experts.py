"""`nf4-moe`: mixture-of-experts models whose experts are in 4 bits too, packed one after another while loading."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from transformers import CONFIG_MAPPING, BitsAndBytesConfig

from quantspace.estimation.architecture import generating_class, parse_config
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.weights import weight_bytes
from quantspace.hub.demo import demo_folder
from quantspace.precision import PRECISIONS
from quantspace.runtime.chat import answer
from quantspace.runtime.experts import experts_of, load_with_experts
from quantspace.runtime.experts.packing import pack, unpack
from quantspace.runtime.job import Job, Message, Sampling
from quantspace.runtime.loader import load
from quantspace.runtime.readout import held_tensors
from tests.allocated import Allocated
from tests.tiny_models import MLA, TEXT

MIXTURES = {
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64,
    },
    "deepseek_v3": {
        **MLA, "num_key_value_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2,
        "topk_group": 1, "moe_intermediate_size": 64, "first_k_dense_replace": 1, "head_dim": 32,
    },
    "glm4_moe": {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "first_k_dense_replace": 1,
        "n_group": 1, "topk_group": 1,
    },
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 64, "moe_layer_start_index": 1},
    "llama4_text": {
        "intermediate_size_mlp": 192, "num_local_experts": 4, "interleave_moe_layer_step": 1,
        "attention_chunk_size": 16,
    },
    "qwen3_next": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "num_hidden_layers": 4,
        "shared_expert_intermediate_size": 64, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    },
}  # fmt: skip
THREE = ("qwen3_moe", "mixtral", "gpt_oss")
# Where experts outweigh embeddings, as in published ones.
WIDE = {
    "vocab_size": 512, "hidden_size": 256, "num_hidden_layers": 8, "head_dim": 64, "num_attention_heads": 4,
    "intermediate_size": 256, "moe_intermediate_size": 128,
}  # fmt: skip
MORE_EXPERTS = {
    "qwen3_moe": {"num_experts": 16},
    "mixtral": {"num_local_experts": 8},
    "gpt_oss": {"num_local_experts": 8},
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Gives the folder of a mixture of random weights, by its model type; each is made once."""
    made = {}

    def folder_of(model_type, dtype=torch.bfloat16, **changes):
        key = (model_type, dtype, *changes.items())
        if key not in made:
            made[key] = save(model_type, dtype, tmp_path_factory.mktemp(model_type), changes)
        return made[key]

    return folder_of


def save(model_type: str, dtype: torch.dtype, folder: Path, changes: dict) -> Path:
    config = CONFIG_MAPPING[model_type](**{**TEXT, **MIXTURES[model_type], **changes})
    torch.manual_seed(0)
    cls = generating_class(config)
    config.architectures = [cls.__name__]
    cls(config).to(dtype).save_pretrained(folder)
    return folder


def read(folder):
    """The class and the config of a checkpoint."""
    config = parse_config(json.loads((folder / "config.json").read_text()))
    return generating_class(config), config


def packed_model(folder, **kwargs):
    cls, config = read(folder)
    return load_with_experts(cls, folder, config, "cpu", **{"dtype": torch.bfloat16, **kwargs})


def inventory(folder):
    return inventory_from_config(json.loads((folder / "config.json").read_text()), "a mixture")


def held(model):
    return sum(tensor.held_bytes for tensor in held_tensors(model))


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens).logits


@pytest.fixture(scope="module")
def tokens():
    torch.manual_seed(1)
    return torch.randint(3, 500, (2, 24))


class TestPacking:
    @pytest.mark.parametrize("double_quant", [False, True], ids=["plain", "nested"])
    @pytest.mark.parametrize("shape", [(6, 64, 64), (4, 128, 128), (5, 96, 64), (5, 7, 9)], ids=str)
    def test_experts_are_packed_into_the_bytes_that_bitsandbytes_makes_of_all_at_once(self, shape, double_quant):
        weight = torch.randn(shape).to(torch.bfloat16)
        packed, state = pack(weight, "nf4", double_quant)
        whole, expected = quantize_4bit(weight, compress_statistics=double_quant, quant_type="nf4")
        assert torch.equal(packed, whole)
        assert torch.equal(state.absmax, expected.absmax)
        assert torch.equal(dequantize_4bit(packed, state), dequantize_4bit(whole, expected))

    def test_many_experts_are_packed_in_several_steps(self, monkeypatch):
        monkeypatch.setattr("quantspace.runtime.experts.packing.CHUNK", 2 * 64 * 64)
        weight = torch.randn(7, 64, 64).to(torch.bfloat16)
        packed, state = pack(weight, "nf4", True)
        whole, expected = quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
        assert torch.equal(packed, whole)
        assert torch.equal(dequantize_4bit(packed, state), dequantize_4bit(whole, expected))

    @pytest.mark.parametrize("double_quant", [False, True], ids=["plain", "nested"])
    @pytest.mark.parametrize("shape", [(6, 64, 64), (4, 128, 128), (5, 96, 64), (5, 7, 9)], ids=str)
    @pytest.mark.parametrize("experts", [[2], [0, 3], [0, 1, 2, 3]], ids=str)
    def test_some_experts_are_unpacked_as_among_all(self, shape, double_quant, experts):
        packed, state = pack(torch.randn(shape).to(torch.bfloat16), "nf4", double_quant)
        some = unpack(packed, state, torch.tensor(experts))
        assert torch.equal(some, dequantize_4bit(packed, state)[experts])


class TestMemory:
    @pytest.mark.parametrize("model_type", MIXTURES)
    def test_what_is_held_is_what_was_estimated(self, model_type, checkpoint):
        folder = checkpoint(model_type)
        expected = weight_bytes(inventory(folder), PRECISIONS["nf4-moe"])
        model = packed_model(folder)
        assert experts_of(model) == []  # none is left in 16 bits
        assert (model.get_memory_footprint(), held(model)) == (expected.footprint, expected.held)

    def test_a_tiny_model_without_experts_is_what_bitsandbytes_makes_of_it(self, tiny_checkpoint):
        folder = tiny_checkpoint("llama-untied")
        assert held(packed_model(folder)) == weight_bytes(inventory(folder), PRECISIONS["nf4-dq"]).held

    @pytest.mark.parametrize("model_type", THREE)
    def test_it_holds_at_most_30_percent_of_bf16_and_never_needs_that_while_loading(
        self, model_type, checkpoint, monkeypatch
    ):
        chunk = 2**16  # values; of a model this small, what is packed at a time would be all
        monkeypatch.setattr("quantspace.runtime.experts.packing.CHUNK", chunk)
        folder = checkpoint(model_type, **WIDE, **MORE_EXPERTS[model_type])
        shapes = inventory(folder)
        bf16 = weight_bytes(shapes, PRECISIONS["bf16"]).held

        with Allocated() as loading:
            model = packed_model(folder)

        size = held(model)
        print(f"{model_type}: {bf16:,} B in bf16, {size:,} held ({size / bf16:.1%}), {loading.peak:,} while loading")
        assert size <= 0.30 * bf16
        merging = 2 * 2 * max(tensor.elements for tensor in shapes.tensors)  # as read and as merged, 2 B each
        assert loading.peak <= size + merging + 16 * chunk
        assert loading.now <= size + 2**16  # nothing else stays

    def test_a_token_has_those_experts_unpacked_that_it_visits(self, checkpoint):
        folder = checkpoint("qwen3_moe", **WIDE, num_experts=16)
        model = packed_model(folder)
        layer = [tensor for tensor in inventory(folder).layers[1] if tensor.role == "experts"]
        one = 2 * sum(tensor.elements for tensor in layer) // 16  # bytes of an expert in bf16
        peaks = {}
        for name, tokens in {"one": torch.tensor([[7]]), "many": torch.arange(400)[None]}.items():
            logits(model, tokens)  # bitsandbytes may pack linear layers anew at their first pass
            with Allocated() as passing:
                logits(model, tokens)
            peaks[name] = passing.peak
        assert 2 * one <= peaks["one"] < 4 * one
        assert peaks["many"] >= 16 * one


def dequantized_reference(folder):
    """The model that bitsandbytes makes, with experts in 16 bits whose values are those that 4 bits hold."""
    cls, config = read(folder)
    kwargs = PRECISIONS["nf4-dq"].transformers_kwargs()
    model = cls.from_pretrained(folder, config=config, device_map={"": "cpu"}, **kwargs)
    for name in experts_of(model):
        weight = model.get_parameter(name).data
        weight.copy_(dequantize_4bit(*quantize_4bit(weight, compress_statistics=True, quant_type="nf4")))
    return model


class TestNumerics:
    @pytest.mark.parametrize("model_type", MIXTURES)
    def test_logits_are_those_of_dequantized_experts(self, model_type, checkpoint, tokens):
        """Both multiply the same bf16 values, so that only the order of additions may differ: one bf16 rounding."""
        folder = checkpoint(model_type)
        model, reference = packed_model(folder), dequantized_reference(folder)
        spare(reference)
        for some in (tokens, tokens[:1, :1]):
            expected = logits(reference, some)
            rounding = 2**-8 * expected.abs().max().item()
            torch.testing.assert_close(logits(model, some), expected, atol=rounding, rtol=2**-8)

    @pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
    def test_other_implementations_of_transformers_work_too(self, implementation, checkpoint, tokens):
        folder = checkpoint("gpt_oss")
        model = packed_model(folder, experts_implementation=implementation)
        reference = dequantized_reference(folder)
        reference.set_experts_implementation(implementation)
        torch.testing.assert_close(logits(model, tokens), logits(reference, tokens), atol=2**-7, rtol=2**-8)

    def test_experts_are_far_from_those_in_16_bits(self, checkpoint, tokens):
        """What is compared above would not pass if nothing had been quantized."""
        folder = checkpoint("qwen3_moe")
        cls, config = read(folder)
        kwargs = PRECISIONS["nf4-dq"].transformers_kwargs()
        in_16_bits = cls.from_pretrained(folder, config=config, device_map={"": "cpu"}, **kwargs)
        expected = logits(dequantized_reference(folder), tokens)
        assert (logits(in_16_bits, tokens) - expected).abs().max() > 4 * 2**-8 * expected.abs().max()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
    def test_experts_are_unpacked_into_the_dtype_of_the_computation(self, dtype, checkpoint, tokens):
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
        model = packed_model(checkpoint("gpt_oss"), dtype=dtype, quantization_config=config)
        assert {expert.gate_up_proj.dtype for expert in modules(model)} == {dtype}
        assert logits(model, tokens).isfinite().all()


def spare(model):
    """Layers of a shape that bitsandbytes 0.50 can't pack anew for processors with AVX-512 BF16 stay as they are."""
    for module in model.modules():
        if getattr(module, "out_features", 32) % 32:
            module.support_avx512bf16_for_cpu = False


def modules(model):
    """The modules that hold a layer's experts."""
    return [module for module in model.modules() if hasattr(module, "num_experts") and hasattr(module, "gate_up_proj")]


class TestOptions:
    def test_double_quantization_may_be_left_out(self, checkpoint):
        folder = checkpoint("qwen3_moe")
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
        model = packed_model(folder, quantization_config=config)
        expected = weight_bytes(inventory(folder), PRECISIONS["nf4-moe"].with_options(double_quant=False))
        assert held(model) == expected.held

    def test_experts_of_skipped_modules_stay_in_16_bits(self, checkpoint, tokens):
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16, llm_int8_skip_modules=["lm_head", "model.layers.1"],
        )  # fmt: skip
        model = packed_model(checkpoint("qwen3_moe"), quantization_config=config)
        assert {name.split(".")[2] for name in experts_of(model)} == {"1"}
        assert logits(model, tokens).isfinite().all()


class TestSaving:
    @pytest.mark.parametrize("model_type", [*THREE, "llama4_text"])
    def test_a_saved_copy_is_read_as_it_is(self, model_type, checkpoint, tokens, tmp_path):
        model = packed_model(checkpoint(model_type))
        model.save_pretrained(tmp_path / "first")
        again = packed_model(tmp_path / "first")
        assert held(again) == held(model)
        assert torch.equal(logits(again, tokens), logits(model, tokens))

    def test_a_saved_copy_can_be_saved_again(self, checkpoint, tmp_path):
        packed_model(checkpoint("mixtral")).save_pretrained(tmp_path / "first")
        packed_model(tmp_path / "first").save_pretrained(tmp_path / "second")
        sizes = {(tmp_path / name / "model.safetensors").stat().st_size for name in ("first", "second")}
        assert len(sizes) == 1

    def test_a_saved_copy_says_how_it_is_stored(self, checkpoint, tmp_path):
        packed_model(checkpoint("mixtral")).save_pretrained(tmp_path)
        stored = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
        assert stored["quant_method"] == "bitsandbytes_experts"
        assert "load_in_4bit" not in stored  # or transformers would take it for plain bitsandbytes


class TestThroughTheApp:
    @pytest.mark.parametrize("model_type", THREE)
    def test_it_is_loaded_and_answers(self, model_type, checkpoint):
        folder = checkpoint(model_type, vocab_size=4096)
        for file in demo_folder().glob("*token*"):
            shutil.copy(file, folder)
        *_, loaded = load(Job(model_type, "local", str(folder), "nf4-moe", 0, 0), [])
        assert loaded.readout.held_bytes == weight_bytes(inventory(folder), PRECISIONS["nf4-moe"]).held

        *_, stats = answer(loaded, (Message("user", "Hello"),), Sampling(greedy=True, max_new_tokens=4), [])

        assert stats.new_tokens >= 1
