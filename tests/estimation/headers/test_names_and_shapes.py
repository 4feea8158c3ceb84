"""What names and shapes in headers tell where no class is known, and what people are told of it."""

import json
import time
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantspace.errors import ModelUnsupported
from quantspace.estimation.cache import cache_bytes
from quantspace.estimation.fit import applies, fit_table
from quantspace.estimation.hardware import find_gpu
from quantspace.estimation.headers import inventory_from_headers, inventory_from_sizes
from quantspace.estimation.headers.plain_config import read_numbers
from quantspace.estimation.workload import Hardware, Workload
from quantspace.hub.safetensors_headers import HeaderTensor, StoredHeader
from quantspace.precision import PRECISIONS
from tests.estimation.headers.inventories import WHY, decoder, facts, from_tensors, header, held


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


class TestStrangeOnes:
    @pytest.mark.parametrize(
        "name", ["", ".", "a..b.weight", "weight", ".".join("a" * 200), "layers.99999999.q_proj.weight"]
    )
    def test_odd_names_are_answered(self, name):
        tensors = {**decoder(2), name: ("U8", (64, 64)), f"{name}.": ("BF16", ()), f"{name}.qweight": ("I32", (8, 8))}
        for row in fit_table(from_tensors(tensors, {}), Hardware(find_gpu("t4"), 2), Workload()):
            assert row.total_bytes > 0

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
