"""A sound config and sound tensors, for others to break."""

from __future__ import annotations

from typing import Any

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
TENSORS = {"model.embed_tokens.weight": ("BF16", (512, 128)), "lm_head.weight": ("BF16", (512, 128))}
