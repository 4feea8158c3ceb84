"""Inventories from headers, beside what the class itself says: in 16 bits, and stored quantized."""

import json

import pytest

from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.cache import cache_bytes
from quantspace.estimation.headers import inventory_from_headers
from quantspace.estimation.headers.classify import DTYPES
from quantspace.estimation.native import native_tensors
from quantspace.hub.catalogue import find_bundled
from quantspace.hub.client import repo_facts
from quantspace.hub.reference import ModelRef
from quantspace.hub.safetensors_headers import BITS, read_headers
from quantspace.precision import DTYPE_BYTES
from tests.estimation.headers.inventories import CONTEXT, WHY, both, buffers, decoder, from_tensors, header, held
from tests.tiny_models import ARCHITECTURES

# Where the class does what no header tells, and what that is.
QUANTIZED_OTHERWISE = {  # and the share of the class's bytes in NF4 that headers tell
    "falcon-multi-query": (0.35, "its linear layers are a class of their own, which bitsandbytes passes over"),
    "t5-float32-kept": (0.79, "it keeps a projection in float32"),
    "gemma3-vision": (0.99, "its vision tower keeps some weights in float32 beside quantized layers"),
}
CACHED_OTHERWISE = {
    "mistral-sliding": (512, "its config names a window but not of which layers: counted without"),
    "mllama-cross": (1.5, "layers that attend to images are counted as long as the text"),
    "minimax-linear": (0.99, "states of its linear attention are left out"),
}
# Real ones, small enough to be built here in a second or two.
PUBLISHED = ("meta-llama/Llama-3.2-1B", "Qwen/Qwen3-30B-A3B", "microsoft/phi-4", "openai-community/gpt2")


class TestBesideTheClass:
    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_16_bits_differ_by_what_the_class_adds_alone(self, known, name):
        found, truth = known(name)
        assert found.parameters == truth.parameters
        assert held(truth, "bf16") - held(found, "bf16") == buffers(truth) - buffers(found)

    @pytest.mark.parametrize("precision", ["int8", "nf4-dq", "nf4-moe"])
    @pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in QUANTIZED_OTHERWISE])
    def test_quantized_differ_by_no_more(self, known, name, precision):
        found, truth = known(name)
        assert held(truth, precision) - held(found, precision) == buffers(truth) - buffers(found)

    @pytest.mark.parametrize("name", QUANTIZED_OTHERWISE)
    def test_quantized_are_off_as_stated(self, known, name):
        found, truth = known(name)
        share, _ = QUANTIZED_OTHERWISE[name]
        assert held(found, "nf4-dq") / held(truth, "nf4-dq") == pytest.approx(share, abs=0.01)

    @pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in CACHED_OTHERWISE])
    def test_cache_is_the_same(self, known, name):
        found, truth = known(name)
        assert not found.weights_only
        assert cache_bytes(found, CONTEXT, 1, "bfloat16") == cache_bytes(truth, CONTEXT, 1, "bfloat16")

    @pytest.mark.parametrize("name", CACHED_OTHERWISE)
    def test_cache_is_off_as_stated(self, known, name):
        found, truth = known(name)
        times, _ = CACHED_OTHERWISE[name]
        ratio = cache_bytes(found, CONTEXT, 1, "bfloat16") / cache_bytes(truth, CONTEXT, 1, "bfloat16")
        assert ratio == pytest.approx(times, rel=0.01)

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_facts_of_the_config_are_read_alike(self, known, name):
        found, truth = known(name)
        for fact in ("max_context", "attention_heads", "key_value_heads", "hidden_size", "experts_per_token"):
            assert getattr(found, fact) == getattr(truth, fact)

    @pytest.mark.parametrize("name", ["llama-untied", "qwen3-moe-experts", "gpt2-conv1d", "deepseek-v3-latent"])
    def test_layers_are_kept_whole_as_the_class_keeps_them(self, known, name):
        found, truth = known(name)
        assert [block.rpartition(".")[2] for block in found.blocks] == [b.rpartition(".")[2] for b in truth.blocks]

    @pytest.mark.parametrize("model_id", PUBLISHED)
    def test_published_ones_are_as_close(self, model_id):
        found, truth = both(find_bundled(model_id).config)
        for precision in ("bf16", "int8", "nf4-dq"):
            assert held(truth, precision) - held(found, precision) == buffers(truth)
        assert buffers(truth) <= 512
        assert cache_bytes(found, CONTEXT, 1, "bfloat16") == cache_bytes(truth, CONTEXT, 1, "bfloat16")

    def test_assumed_pass_is_that_which_is_assumed_of_a_class(self, known):
        from quantspace.estimation.meta import generating

        for name in ("llama-untied", "qwen3-moe-experts", "gemma2-sliding", "lfm2-hybrid"):
            config = json.loads(ARCHITECTURES[name]().to_json_string(use_diff=False))
            found, truth = known(name)
            guess = generating._assumed_peak(parse_config(config), truth.tensors)
            assumed = generating._with_cache(guess, truth.cache)
            assert found.peak == (assumed,)


SAFETENSORS = {
    "bfloat16": "BF16", "float16": "F16", "float32": "F32", "int32": "I32", "int64": "I64", "uint8": "U8", "int8": "I8",
    "float8_e4m3fn": "F8_E4M3", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
INTEGERS = {"bits": 4, "group_size": 32, "sym": False, "desc_act": True}
STORED = {
    "gptq": {"quant_method": "gptq", **INTEGERS},
    "gptq-8": {"quant_method": "gptq", **INTEGERS, "bits": 8},
    "awq": {"quant_method": "awq", "version": "gemm", "zero_point": True, "bits": 4, "group_size": 32},
    "fp8": {"quant_method": "fp8", "weight_block_size": [32, 32], "fmt": "e4m3", "activation_scheme": "dynamic"},
    "bitnet": {"quant_method": "bitnet", "linear_class": "bitlinear"},
    "bnb-8bit": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "bnb-4bit": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "bnb-4bit-dq": {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
    **{
        scheme: {
            "quant_method": "compressed-tensors", "format": layout, "quantization_status": "compressed",
            "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": {**weights, "symmetric": True}}},
        }
        for scheme, layout, weights in (
            ("int4-packed", "pack-quantized", {"type": "int", "num_bits": 4, "strategy": "group", "group_size": 32}),
            ("float8", "float-quantized", {"type": "float", "num_bits": 8, "strategy": "channel"}),
            (
                "nvfp4", "nvfp4-pack-quantized",
                {"type": "float", "num_bits": 4, "strategy": "tensor_group", "group_size": 16},
            ),
        )
    },
}  # fmt: skip


class TestStoredQuantized:
    @pytest.mark.parametrize("scheme", STORED)
    def test_packing_is_undone_and_what_is_stored_is_counted(self, known, scheme):
        """The stored tensors are those that the format's own reader makes of the class."""
        config = json.loads(ARCHITECTURES["llama-untied"]().to_json_string(use_diff=False))
        config["quantization_config"] = STORED[scheme]
        parsed = parse_config(config)
        specs = [t for t in native_tensors(config, parsed, model_class(parsed))[0] if "inv_freq" not in t.name]
        tensors = {t.name: (SAFETENSORS[t.dtype_under("bfloat16")], t.shape) for t in specs if t.tied_to is None}
        _, truth = known("llama-untied")

        found = from_tensors(tensors, config)

        assert found.prequantized == STORED[scheme]["quant_method"]
        assert found.parameters == truth.parameters
        for precision in ("bf16", "int8", "nf4-dq"):
            assert held(truth, precision) - held(found, precision) == buffers(truth)
        assert held(found, "native") == header(tensors).data_bytes
        assert any("the other rows show the model as if it were not" in note for note in found.notes)

    def test_without_a_config_the_shapes_tell_the_same(self, known):
        config = json.loads(ARCHITECTURES["llama-untied"]().to_json_string(use_diff=False))
        for scheme in ("gptq-8", "awq", "fp8", "nvfp4", "bnb-8bit"):
            config["quantization_config"] = STORED[scheme]
            parsed = parse_config(config)
            specs = native_tensors(config, parsed, model_class(parsed))[0]
            tensors = {t.name: (SAFETENSORS[t.dtype_under("bfloat16")], t.shape) for t in specs if "inv" not in t.name}
            assert from_tensors(tensors).parameters == known("llama-untied")[1].parameters

    def test_real_checkpoint_of_bitsandbytes_is_read_to_the_byte(self, hub, known, tiny_checkpoint, tmp_path):
        import torch
        from transformers import BitsAndBytesConfig

        source = tiny_checkpoint("llama-untied")
        cls = model_class(parse_config(json.loads((source / "config.json").read_text())))
        settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
        cls.from_pretrained(source, dtype=torch.bfloat16, quantization_config=settings).save_pretrained(tmp_path)
        hub.add_repo("headers/bnb", folder=tmp_path)
        repo = repo_facts(ModelRef("headers/bnb"))
        headers = read_headers(repo)

        found = inventory_from_headers(repo, headers, json.loads((tmp_path / "config.json").read_text()), WHY)

        _, truth = known("llama-untied")
        assert found.parameters == truth.parameters
        assert held(truth, "nf4-dq") - held(found, "nf4-dq") == buffers(truth)
        assert held(found, "native") == sum(one.data_bytes for one in headers)
        alone = inventory_from_headers(repo, headers, None, WHY)
        assert cache_bytes(alone, CONTEXT, 1, "bfloat16") == cache_bytes(truth, CONTEXT, 1, "bfloat16") > 0

    @pytest.mark.parametrize("known_by", ["norms", "embedding", "config", "nothing"])
    def test_cache_of_4_bits_is_that_of_the_model_or_none(self, known_by):
        """Such weights have no shape: (elements / 2, 1)."""
        hidden, kept = 512, 128
        tensors = {"model.embed_tokens.weight": ("BF16", (1000, hidden))} if known_by == "embedding" else {}
        config = {"hidden_size": hidden} if known_by == "config" else None
        for layer in range(3):
            for leaf, rows in (("q_proj", hidden), ("k_proj", kept), ("v_proj", kept), ("o_proj", hidden)):
                stem = f"model.layers.{layer}.self_attn.{leaf}.weight"
                tensors[stem] = ("U8", (rows * hidden // 2, 1))
                tensors[f"{stem}.absmax"] = ("F32", (rows * hidden // 64,))
            if known_by == "norms":
                tensors[f"model.layers.{layer}.input_layernorm.weight"] = ("BF16", (hidden,))
                tensors[f"model.layers.{layer}.self_attn.q_norm.weight"] = ("BF16", (64,))
        found = from_tensors(tensors, config)
        if known_by == "nothing":
            assert found.cache == ()
            assert "neither its config nor the shapes" in found.weights_only
        else:
            assert [(layer.count, layer.token_elements) for layer in found.cache] == [(3, 2 * kept)]

    def test_4_bits_whose_shape_nothing_tells_are_cached_by_the_config(self):
        config = {"num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64}
        tensors = {f"h.{n}.attn.{leaf}.weight": ("U8", (9999, 1)) for n in range(2) for leaf in ("k_proj", "v_proj")}
        tensors |= {f"{name}.absmax": ("F32", (313,)) for name in tensors}
        found = from_tensors(tensors, config)
        assert [(layer.count, layer.token_elements) for layer in found.cache] == [(2, 2 * 2 * 64)]

    def test_mxfp4_experts_are_unpacked(self):
        tensors = decoder(2)
        tensors["layers.0.mlp.experts.gate_up_proj_blocks"] = ("U8", (4, 64, 2, 16))
        tensors["layers.0.mlp.experts.gate_up_proj_scales"] = ("U8", (4, 64, 2))
        tensors["layers.0.mlp.experts.gate_up_proj_bias"] = ("BF16", (4, 64))
        found = from_tensors(tensors, {})
        experts = {tensor.name: tensor.shape for tensor in found.tensors if tensor.role == "experts"}
        assert experts == {"layers.0.mlp.experts.gate_up_proj": (4, 64, 64)}
        assert found.prequantized == "mxfp4"
        assert held(found, "native") == header(tensors).data_bytes

    def test_packing_that_is_not_known_is_told(self):
        tensors = {**decoder(2), "layers.0.mlp.down_proj.codes": ("I16", (1024, 64))}
        found = from_tensors(tensors, {"quantization_config": {"quant_method": "aqlm"}})
        assert found.prequantized == "aqlm"
        assert not found.native_runs
        assert any("How its integers are packed is not known" in note for note in found.notes)

    def test_every_dtype_of_the_format_has_a_size_in_memory(self):
        assert DTYPES.keys() == BITS.keys()
        assert all(DTYPE_BYTES[DTYPES[dtype]] * 8 == bits for dtype, bits in BITS.items() if bits >= 8)
