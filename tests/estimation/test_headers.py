"""Inventories without a class: from headers, beside what the class itself says; from counts; from sizes of files."""

import json
import time
from dataclasses import asdict
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantspace.errors import ModelUnsupported
from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.bundled import bundled_inventory
from quantspace.estimation.cache import cache_bytes
from quantspace.estimation.fit import applies, fit_table
from quantspace.estimation.hardware import find_gpu
from quantspace.estimation.headers import inventory_from_counts, inventory_from_headers, inventory_from_sizes
from quantspace.estimation.headers.classify import DTYPES
from quantspace.estimation.headers.plain_config import read_numbers
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.native import native_tensors
from quantspace.estimation.weights import weight_bytes
from quantspace.estimation.workload import Hardware, Workload
from quantspace.hub.catalogue import find_bundled
from quantspace.hub.client import RepoFacts, repo_facts
from quantspace.hub.reference import ModelRef
from quantspace.hub.safetensors_headers import BITS, HeaderTensor, StoredHeader, read_headers
from quantspace.precision import DTYPE_BYTES, PRECISIONS
from tests.bench.sparse_checkpoint import published_tensors
from tests.tiny_models import ARCHITECTURES

CONTEXT = 8192
WHY = "transformers does not know this architecture."

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


KEYS = (
    "num_hidden_layers num_attention_heads num_key_value_heads hidden_size head_dim vocab_size intermediate_size "
    "moe_intermediate_size num_experts num_experts_per_tok max_position_embeddings layer_types sliding_window "
    "sliding_window_pattern use_sliding_window attention_chunk_size architectures tie_word_embeddings multi_query "
    "text_config attn_config ffn_config state_size is_encoder_decoder torch_dtype dtype quantization_config "
    "quantization quant_method quant_algo bits load_in_4bit packing_format config_groups hf_quant_config expert_dtype"
).split()


def configs():
    """Any JSON under the keys that are looked at, in each other."""
    plain = st.one_of(
        st.none(), st.booleans(), st.integers(), st.sampled_from((-1, 0, 1, 2**40, 10**400)), st.floats(),
        st.text(st.characters(), max_size=9), st.just("\ud800"), st.just("sliding_attention"),
    )  # fmt: skip
    value = st.recursive(
        plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    )
    return st.dictionaries(st.sampled_from(KEYS), value, max_size=12)


def facts(files=None, **told):
    return RepoFacts(ModelRef("org/name"), "0" * 40, files or {}, **told)


def header(tensors, path="model.safetensors"):
    """A header of tensors: name → (dtype, shape)."""
    rows = sorted(tensors.items())
    return StoredHeader(
        path, tuple(HeaderTensor(n, dtype, tuple(shape), prod(shape) * BITS[dtype] // 8) for n, (dtype, shape) in rows)
    )


def from_tensors(tensors, config=None, **told):
    return inventory_from_headers(facts(**told), [header(tensors)], config, WHY)


def both(config):
    """The inventory from the headers of a checkpoint of this config, and that from its class."""
    return from_tensors(published_tensors(config), config), inventory_from_config(config, "org/name")


def held(inventory, precision):
    return weight_bytes(inventory, PRECISIONS[precision]).held


def buffers(inventory):
    """Bytes of what a class adds to its checkpoint."""
    kept = (t for t in inventory.tensors if t.role == "buffer" and t.tied_to is None)
    return sum(t.elements * DTYPE_BYTES[t.dtype_under("bfloat16")] for t in kept)


@pytest.fixture(scope="module")
def known():
    """Inventories from headers and from the class, by name; each pair is made once."""
    made = {}

    def pair(name):
        if name not in made:
            made[name] = both(json.loads(ARCHITECTURES[name]().to_json_string(use_diff=False)))
        return made[name]

    return pair


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


class TestWhatIsTold:
    def test_source_reason_and_doubt(self, known):
        found, _ = known("llama-untied")
        assert (found.source_kind, found.source) == ("headers", "the header of its safetensors file")
        assert found.notes[0] == WHY
        assert (found.exact, found.cache_exact, found.peak_measured) == (False, False, False)
        assert found.sha == "0" * 40

    def test_experts_are_told_as_left_in_16_bits(self, known):
        found, _ = known("mixtral-experts")
        assert any("fused" in note and "NF4, experts too" in note for note in found.notes)
        assert applies(PRECISIONS["nf4-moe"], found)

    def test_window_of_no_layer_in_particular_is_not_counted_on(self, known):
        found, _ = known("mistral-sliding")
        assert any("a window of 16 tokens" in note for note in found.notes)

    def test_layers_beyond_the_config_are_told_and_counted(self):
        config = {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 8}
        found = from_tensors(decoder(4), config)
        assert any("1 more layer than its config tells" in note for note in found.notes)
        assert sum(layer.count for layer in found.cache) == 4

    @pytest.mark.parametrize(
        ("told", "config"),
        [
            ({"task": "feature-extraction"}, {}),
            ({"task": "text-to-image", "library": "diffusers"}, None),
            ({"library": "timm"}, None),
            ({}, {"architectures": ["BertModel"]}),
            ({}, {"architectures": ["NewForSequenceClassification"]}),
        ],
    )
    def test_model_that_generates_no_text_is_told_as_weights_only(self, told, config):
        found = from_tensors(decoder(4), config, **told)
        assert found.weights_only.startswith("Weights only: what a pass of")
        assert found.cache == ()

    def test_model_whose_cache_nothing_tells_is_told_as_weights_only(self):
        found = from_tensors({f"layers.{n}.mix.weight": ("F16", (8, 8)) for n in range(4)}, {})
        assert "neither its config nor the shapes" in found.weights_only
        rows = fit_table(found, Hardware(find_gpu("t4")), Workload(kv_dtype="int4"))
        assert all(row.cache_bytes == 0 for row in rows)

    def test_config_tells_the_cache_where_no_name_does(self):
        config = {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64}
        found = from_tensors({f"layers.{n}.mix.weight": ("F16", (8, 8)) for n in range(4)}, config)
        assert cache_bytes(found, 10, 1, "bfloat16") == 4 * 2 * 2 * 16 * 10 * 2

    @pytest.mark.parametrize("tensors", [{}, {"a.weight": ("F16", (0, 8))}, {"a.inv_freq": ("F32", (8,))}])
    def test_files_without_weights_are_refused(self, tensors):
        with pytest.raises(ModelUnsupported, match="hold no weights"):
            from_tensors(tensors)

    def test_parts_of_a_pipeline_are_counted_together(self):
        part = {"proj.weight": ("F16", (8, 8))}
        headers = [header(part, "unet/a.safetensors"), header(part, "vae/a.safetensors")]
        found = inventory_from_headers(facts(library="diffusers"), headers, None, WHY)
        assert found.parameters == 128
        assert {tensor.name for tensor in found.tensors} == {"unet.proj.weight", "vae.proj.weight"}

    def test_name_in_two_files_is_counted_once(self):
        headers = [header({"a.weight": ("F16", (8, 8))}, f"model-{n}.safetensors") for n in range(2)]
        assert inventory_from_headers(facts(), headers, None, WHY).parameters == 64

    def test_every_row_of_the_table_can_be_told(self, known):
        for name in ("gemma3-vision", "deepseek-v3-latent", "qwen3-next-hybrid", "bart-two-sided"):
            for row in fit_table(known(name)[0], Hardware(find_gpu("t4"), 2), Workload()):
                assert sum(term.bytes for terms in row.terms().values() for term in terms) == row.total_bytes


def decoder(layers, hidden=8, kept=8, attention="self_attn", names=("q_proj", "k_proj", "v_proj", "o_proj")):
    """Tensors of a decoder of a shape of one's own; `names` are those of its projections."""
    tensors = {"embed_tokens.weight": ("BF16", (32, hidden)), "norm.weight": ("BF16", (hidden,))}
    for layer in range(layers):
        stem = f"layers.{layer}.{attention}"
        rows = {"k_proj": kept, "v_proj": kept}
        tensors |= {f"{stem}.{name}.weight": ("BF16", (rows.get(name, hidden), hidden)) for name in names}
        tensors[f"layers.{layer}.mlp.up_proj.weight"] = ("BF16", (4 * hidden, hidden))
    return tensors


# Architectures that transformers does not know, as their repositories name and shape the attention of one layer.
# Values cached a token and layer follow from the heads in their configs.
UNKNOWN = {
    "internlm2": (
        "attention.wqkv", 6144,
        {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}, 2048,
    ),
    "qwen": ("attn.c_attn", 6144, {"num_attention_heads": 16, "hidden_size": 2048, "kv_channels": 128}, 4096),
    "baichuan": ("self_attn.W_pack", 12288, {"num_attention_heads": 32, "hidden_size": 4096}, 8192),
    "chatglm": (
        "self_attention.query_key_value", 4608,
        {"num_attention_heads": 32, "multi_query_group_num": 2, "hidden_size": 4096, "kv_channels": 128}, 512,
    ),
    "molmo": ("att_proj", 4608, {"num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 3584}, 1024),
    "dbrx": (
        "norm_attn_norm.attn.Wqkv", 8192,
        {"n_heads": 48, "d_model": 6144, "attn_config": {"kv_n_heads": 8}}, 2048,
    ),
}  # fmt: skip


class TestUnknownArchitectures:
    @pytest.mark.parametrize("name", UNKNOWN)
    def test_fused_projection_is_divided_by_the_heads_of_the_config(self, name):
        projection, rows, config, values = UNKNOWN[name]
        hidden = config.get("hidden_size") or config["d_model"]
        tensors = {f"model.layers.{n}.{projection}.weight": ("BF16", (rows, hidden)) for n in range(3)}
        found = from_tensors(tensors, config)
        assert [(layer.count, layer.token_elements) for layer in found.cache] == [(3, values)]

    def test_fused_projection_without_a_config_counts_a_head_for_each_query(self):
        found = from_tensors({f"h.{n}.attn.c_attn.weight": ("F16", (96, 32)) for n in range(3)})
        assert found.cache[0].token_elements == 64
        assert any("as many as queries" in note for note in found.notes)

    def test_layers_without_attention_cache_nothing(self):
        tensors = decoder(6)
        for leaf in ("q_proj", "k_proj", "v_proj", "o_proj"):
            del tensors[f"layers.2.self_attn.{leaf}.weight"]
        assert from_tensors(tensors, {}).cache[0].layers == (0, 1, 3, 4, 5)

    def test_names_of_mistrals_own_format_are_known(self):
        tensors = decoder(2, attention="attention", names=("wq", "wk", "wv", "wo"))
        tensors["output.weight"] = ("BF16", (32, 8))
        found = from_tensors(tensors, {"tie_word_embeddings": False})
        assert found.cache[0].token_elements == 16
        assert [tensor.name for tensor in found.tensors if tensor.role == "head"] == ["output.weight"]

    def test_towers_are_not_cached(self):
        vision = {f"vision_tower.{name}": entry for name, entry in decoder(9).items()}
        text = {f"language_model.{name}": entry for name, entry in decoder(3, hidden=16, kept=4).items()}
        found = from_tensors(vision | text, {"text_config": {"num_attention_heads": 4, "hidden_size": 16}})
        assert [(layer.count, layer.token_elements) for layer in found.cache] == [(3, 8)]
        assert len(found.blocks) == 12

    @pytest.mark.parametrize(
        "name", ["", ".", "a..b.weight", "weight", ".".join("a" * 200), "layers.99999999.q_proj.weight"]
    )
    def test_odd_names_are_answered(self, name):
        tensors = {**decoder(2), name: ("U8", (64, 64)), f"{name}.": ("BF16", ()), f"{name}.qweight": ("I32", (8, 8))}
        for row in fit_table(from_tensors(tensors, {}), Hardware(find_gpu("t4"), 2), Workload()):
            assert row.total_bytes > 0

    def test_missing_head_shares_the_embeddings(self):
        found = from_tensors(decoder(2), {})
        head = next(tensor for tensor in found.tensors if tensor.role == "head")
        assert head.tied_to == "embed_tokens.weight"
        assert from_tensors(decoder(2), {"tie_word_embeddings": False}).tensors[-1].role != "head"

    def test_stored_head_that_is_tied_is_held_once(self):
        tensors = {**decoder(2), "lm_head.weight": ("BF16", (32, 8))}
        apart, tied = (from_tensors(tensors, {"tie_word_embeddings": tied}) for tied in (False, True))
        assert held(apart, "bf16") - held(tied, "bf16") == 32 * 8 * 2

    def test_router_is_left_alone(self):
        tensors = {**decoder(2), "layers.0.mlp.gate.weight": ("BF16", (4, 8))}
        tensors |= {f"layers.0.mlp.experts.{n}.w1.weight": ("BF16", (16, 8)) for n in range(4)}
        roles = {tensor.name: (tensor.role, tensor.rows) for tensor in from_tensors(tensors, {}).tensors}
        assert roles["layers.0.mlp.gate.weight"] == ("other", 0)
        assert roles["layers.0.mlp.experts.w1"] == ("experts", 0)

    @pytest.mark.parametrize(
        "config",
        [
            {
                "num_hidden_layers": 10**10,
                "num_attention_heads": 10**9,
                "num_key_value_heads": 10**9,
                "head_dim": 10**9,
            },
            {"num_attention_heads": "32", "hidden_size": -1, "layer_types": [1, None], "sliding_window": 1e300},
            {"hidden_size": 10**400, "vocab_size": [10**400], "architectures": [3], "tie_word_embeddings": "yes"},
            {"text_config": [], "attn_config": {"kv_n_heads": {}}, "quantization_config": {"config_groups": [1]}},
            {"layer_types": ["sliding_attention"] * 3000, "sliding_window": 0, "torch_dtype": {"a": 1}},
            {"quantization_config": {"quant_method": [1], "bits": "4"}, "hf_quant_config": 7},
        ],
    )
    def test_config_that_holds_nonsense_is_answered_without_it(self, config):
        read_numbers(config)
        for found in (from_tensors(decoder(2), config), inventory_from_sizes(facts({"a.bin": 1000}), config, WHY)):
            for row in fit_table(found, Hardware(find_gpu("t4"), 2), Workload()):
                assert 0 < row.total_bytes < 2**63

    @pytest.mark.parametrize("name", ["X" * 5_000_000, "A\ud800" * 100, "a\nb\0" * 50])
    @pytest.mark.parametrize("stored", [{}, {"a.qweight": ("I32", (8, 8))}])
    def test_words_of_a_config_are_cut_short_and_can_be_written(self, name, stored):
        config = {
            "architectures": [name], "layer_types": [name, name], "torch_dtype": name, "model_type": name,
            "sliding_window": 4, "quantization_config": {"quant_method": name, "bits": name},
        }  # fmt: skip
        for found in (
            from_tensors({**decoder(2), **stored}, config),
            inventory_from_sizes(facts({"a.bin": 1000}), config, WHY),
        ):
            written = json.dumps(asdict(found), ensure_ascii=False).encode("utf-8")
            assert len(written) < 20_000

    @settings(max_examples=300, deadline=None)
    @given(config=configs())
    def test_any_config_is_answered(self, config):
        found = from_tensors({**decoder(2), "layers.0.a.qweight": ("I32", (64, 64))}, config)
        assert found.parameters > 0
        json.dumps(asdict(found), ensure_ascii=False).encode("utf-8")
        for row in fit_table(found, Hardware(find_gpu("t4"), 2), Workload()):
            assert 0 < row.total_bytes < 2**63

    def test_settings_nested_as_deep_as_json_may_be_are_answered(self):
        deep: list = []
        for _ in range(5000):
            deep = [deep]
        quantization = {"quant_method": deep, "packing_format": deep}
        tensors = {**decoder(2), "layers.0.a.weight_packed": ("I32", (8, 8))}
        assert from_tensors(tensors, {"quantization_config": quantization}).prequantized == "compressed-tensors"

    def test_more_tensors_than_any_model_has_are_refused_at_once(self):
        rows = tuple(HeaderTensor(f"t{n}", "BF16", (4, 4), 32) for n in range(100_000))
        started = time.process_time()
        with pytest.raises(ModelUnsupported, match="100,000 tensors beside experts"):
            inventory_from_headers(facts(), [StoredHeader("model.safetensors", rows)], None, WHY)
        assert time.process_time() - started < 1

    def test_experts_of_the_largest_model_are_few_tensors(self):
        names = (
            f"model.layers.{layer}.mlp.experts.{expert}.{leaf}_proj.weight"
            for layer in range(61) for expert in range(384) for leaf in ("gate", "up", "down")
        )  # fmt: skip
        rows = tuple(HeaderTensor(name, "BF16", (4, 4), 32) for name in names)
        found = inventory_from_headers(facts(), [StoredHeader("model.safetensors", rows)], None, WHY)
        assert len(found.tensors) == 2 * 61


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


class TestCounts:
    def test_16_bits_are_the_counts_own_bytes(self):
        for parameters in (12, 125_000_000, 8_030_261_248, 70_553_706_496, 671_026_404_352):
            for model_type in (None, "newarch", "mixtral"):
                found = inventory_from_counts(facts(counts={"BF16": parameters}, model_type=model_type), WHY)
                assert found.parameters == parameters
                assert held(found, "bf16") == 2 * parameters
                assert (found.source_kind, found.exact) == ("counts", False)
                assert found.notes[0] == WHY

    def test_cache_is_on_the_safe_side_of_models_of_that_size(self):
        for parameters, values in (  # a token, of published ones with a head of keys and values for each query head
            (124_439_808, 12 * 2 * 768),  # gpt2
            (3_821_079_552, 32 * 2 * 3072),  # Phi-3-mini
            (6_738_415_616, 32 * 2 * 4096),  # Llama-2-7B
            (13_015_864_320, 40 * 2 * 5120),  # Llama-2-13B
            (32_762_123_264, 64 * 2 * 1024),  # Qwen3-32B
            (70_553_706_496, 80 * 2 * 1024),  # Llama-3.1-70B
        ):
            found = inventory_from_counts(facts(counts={"BF16": parameters}), WHY)
            assert values * 2 <= cache_bytes(found, 1, 1, "bfloat16") <= 4 * values * 2

    def test_what_is_assumed_is_said(self):
        notes = " ".join(inventory_from_counts(facts(counts={"BF16": 7 * 10**9}), WHY).notes)
        assert "33 layers 4,224 wide are assumed as published models of that size have" in notes
        assert "on the safe side" in notes

    def test_experts_are_taken_to_stay_in_16_bits(self):
        dense, mixture = (
            inventory_from_counts(facts(counts={"BF16": 30 * 10**9}, model_type=kind), WHY)
            for kind in ("newarch", "newarch_moe")
        )
        assert held(mixture, "nf4-dq") > 2.5 * held(dense, "nf4-dq")
        assert held(mixture, "nf4-moe") < 0.5 * held(mixture, "nf4-dq")

    @pytest.mark.parametrize(
        ("counts", "files", "parameters", "stored"),
        [
            # GPTQ: words, as old counts have them; as weights, as the Hub counts today; no files to tell by
            ({"F16": 10**8, "I32": 10**8}, {"model.safetensors": 600_010_000}, 9 * 10**8, 6 * 10**8),
            ({"F16": 10**8, "I32": 8 * 10**8}, {"model.safetensors": 600_010_000}, 9 * 10**8, 6 * 10**8),
            ({"F16": 10**8, "I32": 10**8}, {}, 9 * 10**8, 6 * 10**8),
            # MXFP4, two weights a byte; FP8, one
            ({"BF16": 10**8, "U8": 10**9}, {"model.safetensors": 12 * 10**8}, 21 * 10**8, 12 * 10**8),
            ({"BF16": 10**8, "F8_E4M3": 10**9}, {"model.safetensors": 12 * 10**8}, 11 * 10**8, 12 * 10**8),
            # some buffers are no quantized weights
            ({"BF16": 10**9, "I64": 1000, "BOOL": 77, "U8": 5}, {}, 10**9, None),
        ],
    )
    def test_packed_weights_are_counted_by_the_size_of_the_files(self, counts, files, parameters, stored):
        found = inventory_from_counts(facts(files, counts=counts), WHY)
        assert found.parameters == parameters
        assert (held(found, "native") if found.native else None) == stored

    def test_shards_of_an_index_tell_the_size_too(self):
        names = ["model.safetensors.index.json", *(f"model-0000{n}-of-00002.safetensors" for n in (1, 2))]
        files = dict(zip(names, (9999, 3 * 10**8, 3 * 10**8), strict=True))
        found = inventory_from_counts(facts(files, counts={"F16": 10**8, "I32": 8 * 10**8}), WHY)
        assert held(found, "native") == 6 * 10**8

    def test_parameters_of_gguf_files_serve_too(self):
        found = inventory_from_counts(facts(gguf_parameters=8_030_261_248), WHY)
        assert found.parameters == 8_030_261_248
        assert "GGUF" in found.source

    @pytest.mark.parametrize("counts", [{}, {"BF16": 0}, {"BF16": -5}, {"BF16": 10**30}, {"XX": 7}, {"BF16": "7"}])
    def test_no_count_is_told(self, counts):
        with pytest.raises(ModelUnsupported, match="no count"):
            inventory_from_counts(facts(counts=counts), WHY)

    def test_model_of_another_purpose_is_weights_only(self):
        found = inventory_from_counts(facts(counts={"F32": 10**8}, task="sentence-similarity"), WHY)
        assert found.weights_only
        assert (found.cache, found.exact) == ((), False)

    @pytest.mark.skipif(
        bundled_inventory("meta-llama/Llama-3.1-8B") is None, reason="bundled inventories are of other fields"
    )
    def test_model_as_large_as_a_bundled_one_of_its_type_has_its_shape(self):
        """Gated siblings and fine-tunes: Llama-3.1-8B-Instruct under another name, say."""
        truth = bundled_inventory("meta-llama/Llama-3.1-8B")
        found = inventory_from_counts(facts(counts={"BF16": truth.parameters}, model_type="llama"), WHY)
        assert held(found, "nf4-dq") == held(truth, "nf4-dq")
        assert found.cache == truth.cache
        assert (found.model_id, found.sha, found.exact) == ("org/name", "0" * 40, False)
        assert any("as many parameters as" in note for note in found.notes)

    def test_every_row_of_the_table_can_be_told(self):
        found = inventory_from_counts(facts(counts={"BF16": 7 * 10**9}), WHY)
        for row in fit_table(found, Hardware(find_gpu("t4"), 2), Workload()):
            assert sum(term.bytes for terms in row.terms().values() for term in terms) == row.total_bytes


class TestSizes:
    LLAMA = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000}  # noqa: RUF012
    TWO = {  # noqa: RUF012
        "pytorch_model-00001-of-00002.bin": 9_976_623_130,
        "pytorch_model-00002-of-00002.bin": 3_500_315_539,
    }

    def test_dtype_of_the_config_gives_the_parameters(self):
        found = inventory_from_sizes(facts(self.TWO), {**self.LLAMA, "torch_dtype": "float16"}, WHY)
        assert found.parameters == pytest.approx(6_738_415_616, rel=1e-4)
        assert cache_bytes(found, 1, 1, "bfloat16") == 32 * 2 * 4096 * 2
        assert (found.source_kind, found.source) == ("sizes", "the size of its 2 PyTorch files")
        assert any("are taken as float16, as its config tells" in note for note in found.notes)

    def test_nobody_loads_a_pickle(self):
        notes = inventory_from_sizes(facts(self.TWO), self.LLAMA, WHY).notes
        assert any("can run code" in note and "never loaded" in note for note in notes)

    @pytest.mark.parametrize(
        ("config", "dtype", "size"),
        [({"torch_dtype": "bfloat16"}, "bfloat16", 2), ({"dtype": "float16"}, "float16", 2), ({}, "float32", 4),
         (None, "float16", 2), ({"text_config": {"torch_dtype": "torch.float16"}}, "float16", 2),
         ({"torch_dtype": "int1"}, "float32", 4)],
    )  # fmt: skip
    def test_dtype_that_was_taken_is_said(self, config, dtype, size):
        found = inventory_from_sizes(facts({"pytorch_model.bin": 10**9}), config, WHY)
        assert found.parameters == 10**9 // size
        assert any(f"are taken as {dtype}" in note for note in found.notes)

    @pytest.mark.parametrize(
        ("files", "counted"),
        [
            ({"pytorch_model.bin": 1000, "tf_model.h5": 900, "flax_model.msgpack": 800, "onnx/model.onnx": 700}, 1000),
            ({"pytorch_model.bin": 1000, "training_args.bin": 77, "optimizer.pt": 5000, "rng_state.pth": 9}, 1000),
            ({"consolidated.00.pth": 500, "consolidated.01.pth": 500, "original/consolidated.00.pth": 9999}, 1000),
            ({"pytorch_model.bin": 1000, "pytorch_model.fp16.bin": 500, "onnx/decoder_model.onnx": 700}, 1000),
            ({"yolo-n.pt": 10, "yolo-s.pt": 40, "yolo-x.pt": 1000}, 1000),
            ({"unet/diffusion_pytorch_model.bin": 600, "vae/diffusion_pytorch_model.bin": 400}, 1000),
            ({"tf_model.h5": 1000, "flax_model.msgpack": 800}, 1000),
            ({"onnx/model.onnx": 10, "onnx/model.onnx_data": 990, "onnx/model_q4.onnx": 200}, 1000),
            ({"model.ckpt": 1000}, 1000),
        ],
    )
    def test_one_format_of_several_is_counted(self, files, counted):
        found = inventory_from_sizes(facts(files), {"torch_dtype": "float32"}, WHY)
        assert found.parameters == counted // 4

    @pytest.mark.parametrize("files", [{}, {"README.md": 7}, {"tokenizer.bin": 7}, {"pytorch_model.bin": 0}])
    def test_repository_without_such_files_is_refused(self, files):
        with pytest.raises(ModelUnsupported, match="no weights in a format that is known"):
            inventory_from_sizes(facts(files), None, WHY)
