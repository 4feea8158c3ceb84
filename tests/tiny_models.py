"""Tiny models with random weights: real architectures of transformers, saved as real checkpoints.

Each is the smallest that keeps what makes its family special for memory: biases, tied heads, Conv1D,
fused experts, a vision tower, latent attention, recurrent state.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

TEXT = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
MLA = {"q_lora_rank": 64, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32}


def _config(model_type: str, **values: Any) -> PreTrainedConfig:
    return CONFIG_MAPPING[model_type](**values)


def _text(model_type: str, **changes: Any) -> Callable[[], PreTrainedConfig]:
    return lambda: _config(model_type, **{**TEXT, **changes})


def _gemma3() -> PreTrainedConfig:
    text = {**TEXT, "sliding_window": 16, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]}
    vision = {**VISION, "image_size": 28, "patch_size": 14}
    return _config(
        "gemma3", dtype="bfloat16", text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=511
    )


def _qwen2_5_vl() -> PreTrainedConfig:
    vision = {"depth": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 128, "out_hidden_size": 128}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
    text = {**TEXT, "rope_parameters": rope, "dtype": "bfloat16"}  # published ones name a dtype of their own here
    return _config("qwen2_5_vl", text_config=text, vision_config={**vision, "dtype": "bfloat16"})


def _llava() -> PreTrainedConfig:
    vision = {"model_type": "clip_vision_model", **VISION, "image_size": 28, "patch_size": 14, "projection_dim": 64}
    text = {"model_type": "llama", **TEXT, "dtype": "float16"}
    return _config("llava", text_config=text, vision_config=vision, image_token_index=511)


def _mllama() -> PreTrainedConfig:
    tiles = {"max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]], "image_size": 28, "patch_size": 14}
    layers = {"num_hidden_layers": 2, "num_global_layers": 1, "intermediate_layers_indices": [0]}
    vision = {"hidden_size": 64, "intermediate_size": 128, "attention_heads": 2, "vision_output_dim": 128}
    text = {**TEXT, "cross_attention_layers": [1], "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    return _config(
        "mllama", architectures=["MllamaForConditionalGeneration"], vision_config={**vision, **layers, **tiles},
        text_config=text, image_token_index=511,
    )  # fmt: skip


ARCHITECTURES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama-untied": _text("llama", tie_word_embeddings=False),
    "llama-tied": _text("llama", tie_word_embeddings=True),
    "mistral-sliding": _text("mistral", sliding_window=16),
    "qwen2-biases": _text("qwen2", tie_word_embeddings=True),
    "qwen3-norms": _text("qwen3"),
    "smollm3": _text("smollm3"),
    "olmo2": _text("olmo2"),
    "cohere": _text("cohere"),
    "phi3-fused-linears": lambda: _config(
        "phi3", **{key: value for key, value in TEXT.items() if key != "head_dim"}, sliding_window=None
    ),
    "starcoder2-biases": _text("starcoder2"),
    "gemma2-sliding": _text("gemma2", sliding_window=16),
    "gemma3-text": _text("gemma3_text", sliding_window=16),
    "gemma3-vision": _gemma3,
    "qwen2.5-vl-vision": _qwen2_5_vl,
    "llava-vision": _llava,
    "gpt2-conv1d": lambda: _config("gpt2", vocab_size=512, n_embd=128, n_layer=3, n_head=4, n_positions=256),
    "gpt-neox-biases": _text("gpt_neox"),
    "opt-biases": lambda: _config(
        "opt", vocab_size=512, hidden_size=128, ffn_dim=192, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=256, word_embed_proj_dim=128,
    ),
    "bloom-alibi": lambda: _config("bloom", vocab_size=512, hidden_size=128, n_layer=3, n_head=4),
    "falcon-multi-query": lambda: _config(
        "falcon", vocab_size=512, hidden_size=128, num_hidden_layers=3, num_attention_heads=4, multi_query=True
    ),
    "mpt-no-biases": lambda: _config("mpt", vocab_size=512, d_model=128, n_layers=3, n_heads=4, max_seq_len=256),
    "t5-float32-kept": lambda: _config(
        "t5", vocab_size=512, d_model=128, d_kv=32, d_ff=192, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    ),
    "mixtral-experts": _text("mixtral", num_local_experts=4, num_experts_per_tok=2),
    "qwen3-moe-experts": _text("qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64),
    "gpt-oss-experts": _text("gpt_oss", num_local_experts=4, num_experts_per_tok=2, sliding_window=16),
    "deepseek-v3-latent": _text(
        "deepseek_v3", **MLA, num_key_value_heads=4, n_routed_experts=8, num_experts_per_tok=2, n_group=2,
        topk_group=1, moe_intermediate_size=64, first_k_dense_replace=1, head_dim=32,
    ),
    "mamba-state": lambda: _config("mamba", vocab_size=512, hidden_size=128, state_size=16, num_hidden_layers=3),
    "qwen3-next-hybrid": _text(
        "qwen3_next", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64,
        shared_expert_intermediate_size=64, linear_key_head_dim=32, linear_value_head_dim=32,
        linear_num_key_heads=2, linear_num_value_heads=4, num_hidden_layers=4,
    ),
    "lfm2-hybrid": _text(
        "lfm2", num_hidden_layers=3, layer_types=["conv", "full_attention", "conv"], block_auto_adjust_ff_dim=False
    ),
    "mamba2-state": lambda: _config(
        "mamba2", vocab_size=512, hidden_size=128, state_size=16, num_hidden_layers=3, num_heads=8, head_dim=32,
        n_groups=1, chunk_size=64, expand=2, time_step_limit=[0.0, 1e9],
    ),
    "falcon-h1-hybrid": _text(
        "falcon_h1", mamba_d_ssm=128, mamba_n_heads=4, mamba_d_head=32, mamba_n_groups=1, mamba_d_state=16,
        mamba_chunk_size=64, time_step_limit=[0.0, 1e9],
    ),
    "jamba-hybrid": _text(
        "jamba", num_hidden_layers=4, num_experts=4, num_experts_per_tok=2, attn_layer_period=2, attn_layer_offset=1,
        expert_layer_period=2, expert_layer_offset=1, mamba_dt_rank=64,
    ),
    "qwen3.5-hybrid": _text(
        "qwen3_5_text", num_hidden_layers=4, linear_key_head_dim=32, linear_value_head_dim=32,
        linear_num_key_heads=2, linear_num_value_heads=4,
    ),
    "minimax-linear": _text(
        "minimax", num_local_experts=4, num_experts_per_tok=2, block_size=64,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
    ),
    "gemma3n-shared": _text(
        "gemma3n_text", sliding_window=16, num_hidden_layers=5, num_kv_shared_layers=2, laurel_rank=16,
        vocab_size_per_layer_input=512, hidden_size_per_layer_input=32, intermediate_size=[192] * 5,
        activation_sparsity_pattern=[0.0] * 5,
        layer_types=["sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
    ),
    "gemma4-shared": _text(
        "gemma4_text", sliding_window=16, num_hidden_layers=4, num_kv_shared_layers=1, global_head_dim=64,
        vocab_size_per_layer_input=512, hidden_size_per_layer_input=32,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    "llama4-chunked": _text(
        "llama4_text", num_hidden_layers=4, intermediate_size_mlp=192, num_local_experts=4, attention_chunk_size=16,
        interleave_moe_layer_step=2, no_rope_layers=[1, 1, 1, 0],
    ),
    "mllama-cross": _mllama,
    "bart-two-sided": lambda: _config(
        "bart", architectures=["BartForConditionalGeneration"], vocab_size=512, d_model=128, encoder_layers=2,
        decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=192,
        decoder_ffn_dim=192, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=2, forced_eos_token_id=2,
    ),
}  # fmt: skip


def _deepseek_v4() -> PreTrainedConfig:
    text = {key: value for key, value in TEXT.items() if key != "intermediate_size"}
    sparse = {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 4, "sliding_window": 16}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "num_hash_layers": 1}
    kinds = ("sliding", "heavily_compressed", "compressed_sparse", "heavily_compressed")
    return _config(
        "deepseek_v4", **{**text, "num_hidden_layers": 4, "num_key_value_heads": 1}, **sparse, **experts,
        q_lora_rank=64, o_groups=2, o_lora_rank=32, hc_mult=2, hc_sinkhorn_iters=2, partial_rotary_factor=0.5,
        layer_types=[f"{kind}_attention" for kind in kinds],
        compress_rates={"compressed_sparse_attention": 4, "heavily_compressed_attention": 32},
    )  # fmt: skip


def _minimax_m3() -> PreTrainedConfig:
    index = {"index_n_heads": 2, "index_head_dim": 16, "index_block_size": 32, "index_topk_blocks": 2}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "dense_intermediate_size": 192}
    kinds = {"layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"]}
    text = {**TEXT, "rotary_dim": 16, "shared_intermediate_size": 64, **index, **experts, **kinds}
    vision = {**VISION, "image_size": 28, "patch_size": 14}
    return _config(
        "minimax_m3_vl", text_config=text, vision_config=vision, image_token_index=511, video_token_index=510
    )


# Caches that compress or index blocks of tokens: sizes of their caches alone are compared.
BLOCKS: dict[str, Callable[[], PreTrainedConfig]] = {
    "deepseek-v4-compressed": _deepseek_v4,
    "minimax-m3-indexed": _minimax_m3,
}


def save_tiny(name: str, folder: Path) -> Path:
    """Write a checkpoint of random bf16 weights to `folder`, as `save_pretrained` does; returns `folder`."""
    import torch

    from quantspace.estimation.architecture import model_class, parse_config

    written = json.loads((ARCHITECTURES | BLOCKS)[name]().to_json_string(use_diff=False))
    config = parse_config(written)
    torch.manual_seed(0)
    cls = model_class(config)
    model = cls(config).to(torch.bfloat16)
    config.architectures = [cls.__name__]
    model.save_pretrained(folder)
    return folder
