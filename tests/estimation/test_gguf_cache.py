"""The cache that a GGUF file's metadata tells of, against the one that the model's class makes."""

import pytest

from quantspace.estimation.builder import inventory_for
from quantspace.estimation.engines import llama_cpp_opinion
from quantspace.estimation.gguf.from_header import inventory_from_gguf
from quantspace.hub.catalogue import find_bundled
from quantspace.hub.client import RepoFacts
from quantspace.hub.reference import ModelRef
from tests.gguf_samples import LLAMA, header_of, llama_tensors, quantized, sparse_gguf, tensors_of


def converted(config):
    """What llama.cpp's converter writes of a config.json for most models."""
    text = config.get("text_config") or config
    heads = text.get("num_attention_heads", 0)
    metadata = {
        "block_count": text["num_hidden_layers"],
        "context_length": text.get("max_position_embeddings", 1 << 20),
        "embedding_length": text["hidden_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": text.get("num_key_value_heads", heads),
    }
    if text.get("head_dim"):
        metadata |= {"attention.key_length": text["head_dim"], "attention.value_length": text["head_dim"]}
    if text.get("sliding_window"):
        metadata["attention.sliding_window"] = text["sliding_window"]
    return text, metadata


def as_gemma3(config):
    text, _ = converted(config)
    given = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072}
    return converted(given | text)[1]


def as_gemma4(config):
    text, metadata = converted(config)
    whole, windowed = text["global_head_dim"], text["head_dim"]
    return metadata | {
        "attention.key_length": whole, "attention.value_length": whole,
        "attention.key_length_swa": windowed, "attention.value_length_swa": windowed,
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in text["layer_types"]],
        "attention.shared_kv_layers": text["num_kv_shared_layers"],
    }  # fmt: skip


def as_latent(config):
    text, metadata = converted(config)
    rank = text["kv_lora_rank"]
    found = metadata | {
        "attention.head_count_kv": 1, "attention.kv_lora_rank": rank, "attention.value_length": rank,
        "attention.key_length": rank + text["qk_rope_head_dim"], "attention.key_length_mla": 192,
        "attention.value_length_mla": 128,
    }  # fmt: skip
    if "index_head_dim" in text:
        found["attention.indexer.key_length"] = text["index_head_dim"]
    return found


def as_lfm2(config):
    text, metadata = converted(config)
    attends = [layer in text["full_attn_idxs"] for layer in range(text["num_hidden_layers"])]
    heads = [text["num_key_value_heads"] if each else 0 for each in attends]
    return metadata | {"shortconv.l_cache": text["conv_L_cache"], "attention.head_count_kv": heads}


def as_nemotron(config):
    text, metadata = converted(config)
    heads = [text["num_key_value_heads"] if kind == "*" else 0 for kind in text["hybrid_override_pattern"]]
    return metadata | {
        "attention.head_count_kv": heads, "ssm.conv_kernel": text["conv_kernel"],
        "ssm.inner_size": text["mamba_num_heads"] * text["mamba_head_dim"], "ssm.state_size": text["ssm_state_size"],
        "ssm.group_count": text["n_groups"],
    }  # fmt: skip


def as_mamba(config):
    text, metadata = converted(config)
    sizes = {"conv_kernel": "conv_kernel", "inner_size": "intermediate_size", "state_size": "state_size"}
    return metadata | {f"ssm.{key}": text[name] for key, name in sizes.items()}


def as_glm4moe(config):
    text, metadata = converted(config)
    return metadata | {"block_count": text["num_hidden_layers"] + 1, "nextn_predict_layers": 1}


ARCHITECTURES = [
    ("llama", "meta-llama/Llama-3.1-8B-Instruct", None),
    ("qwen3moe", "Qwen/Qwen3-30B-A3B", None),
    ("gemma2", "google/gemma-2-2b-it", None),
    ("gemma3", "google/gemma-3-4b-it", as_gemma3),
    ("gemma4", "google/gemma-4-E2B-it", as_gemma4),
    ("gpt-oss", "openai/gpt-oss-20b", None),
    ("deepseek2", "deepseek-ai/DeepSeek-V2-Lite", as_latent),
    ("deepseek32", "deepseek-ai/DeepSeek-V3.2", as_latent),
    ("phi3", "microsoft/phi-4", None),
    ("lfm2", "LiquidAI/LFM2-1.2B", as_lfm2),
    ("nemotron_h_moe", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", as_nemotron),
    ("mamba", "tiiuae/falcon-mamba-tiny-dev", as_mamba),
    ("glm4moe", "zai-org/GLM-4.5", as_glm4moe),
    ("llama4", "meta-llama/Llama-4-Scout-17B-16E-Instruct", None),
]


def inventory_of(architecture, metadata, tensors):
    header = header_of(sparse_gguf(architecture, metadata, tensors))
    return inventory_from_gguf(RepoFacts(ModelRef("org/name"), "sha", {}), header, [])


class TestCache:
    @pytest.mark.parametrize(("architecture", "model_id", "metadata"), ARCHITECTURES, ids=lambda value: str(value)[:20])
    def test_metadata_tells_the_same_cache_as_the_model_class_does(self, architecture, model_id, metadata):
        by_class, config = inventory_for(ModelRef(model_id)), find_bundled(model_id).config
        told = metadata(config) if metadata else converted(config)[1]
        by_header = inventory_of(architecture, told, quantized(tensors_of(by_class), "Q4_K"))
        for context, batch in ((1, 1), (1000, 2), (32_768, 1)):
            wanted = llama_cpp_opinion(by_class, context, batch, "bfloat16")
            assert llama_cpp_opinion(by_header, context, batch, "bfloat16").cache_bytes == wanted.cache_bytes
        assert (by_header.vocab_size, by_header.hidden_size) == (by_class.vocab_size, by_class.hidden_size)

    def test_layers_with_both_attention_and_a_state_keep_both(self):
        metadata = LLAMA | {
            "block_count": 2, "ssm.conv_kernel": 4, "ssm.inner_size": 1024, "ssm.state_size": 128, "ssm.group_count": 1,
        }  # fmt: skip
        shapes = llama_tensors(2) | {"blk.0.ssm_conv1d.weight": (1280, 4)}
        inventory = inventory_of("falcon-h1", metadata, quantized(shapes, "Q4_K"))
        both, attention = inventory.cache
        assert (both.layers, both.token_elements, both.state_elements) == ((0,), 2 * 8 * 128, 3 * (1024 + 2 * 128))
        assert both.state_bytes == 4 * 1024 * 128
        assert (attention.layers, attention.state_elements) == ((1,), 0)

    def test_window_without_a_pattern_that_is_known_is_not_counted_on(self):
        inventory = inventory_of("qwen2", LLAMA | {"attention.sliding_window": 1024}, quantized(llama_tensors(), "F16"))
        assert [row.window for row in inventory.cache] == [None]

    def test_unknown_architecture_is_counted_by_the_keys_that_most_share_with_a_note(self):
        inventory = inventory_of("novel", LLAMA, quantized(llama_tensors(), "Q4_K"))
        assert [(row.count, row.token_elements) for row in inventory.cache] == [(4, 2048)]
        assert any("novel is not known" in note for note in inventory.notes)
