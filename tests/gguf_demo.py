"""The demo model as GGUF files with real weights: what llama.cpp and transformers answer with it can be compared."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import torch
from safetensors.torch import load_file

from quantspace.hub.demo import demo_folder

KINDS = {
    "F16": gguf.GGMLQuantizationType.F16,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
    "Q4_0": gguf.GGMLQuantizationType.Q4_0,
}
_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def demo_gguf(folder: Path, kind: str, template: bool = True) -> Path:
    """Write the demo model at `kind`, matrices alone; gives the file's path.

    Args:
        template: whether its chat template goes into the file.
    """
    source = demo_folder()
    config = json.loads((source / "config.json").read_text())
    path = folder / f"demo-{kind}.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("demo")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type({"F16": 1, "Q8_0": 7, "Q4_0": 2}[kind])
    _add_tokenizer(writer, source, template)
    for name, tensor in load_file(source / "model.safetensors").items():
        values = _rotated(name, tensor.float(), config).numpy()
        if values.ndim == 1:
            writer.add_tensor(_gguf_name(name), values)
        else:
            writer.add_tensor(_gguf_name(name), gguf.quants.quantize(values, KINDS[kind]), raw_dtype=KINDS[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_name(name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    _, _, layer, part, _ = (*name.split(".", 3)[:3], name.split(".", 3)[3].removesuffix(".weight"), "weight")
    return f"blk.{layer}.{_NAMES[part]}.weight"


def _rotated(name: str, tensor: torch.Tensor, config: dict) -> torch.Tensor:
    """llama.cpp turns pairs of neighbours, transformers the two halves of a head: its converter reorders the rows."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    count = next((count for part, count in heads.items() if part in name), None)
    if count is None:
        return tensor
    rows, columns = tensor.shape
    return tensor.reshape(count, 2, rows // count // 2, columns).swapaxes(1, 2).reshape(rows, columns).contiguous()


def _add_tokenizer(writer: gguf.GGUFWriter, source: Path, template: bool) -> None:
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    special = {token["content"] for token in tokenizer["added_tokens"]}
    vocabulary = sorted(
        ({token["content"]: token["id"] for token in tokenizer["added_tokens"]} | tokenizer["model"]["vocab"]).items(),
        key=lambda item: item[1],
    )
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")  # digits one by one, then GPT-2's
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([control if token in special else normal for token, _ in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    if template:
        writer.add_chat_template((source / "chat_template.jinja").read_text())
