"""The cache a model really fills, against the estimate: storages on CPU, after prefill and after a step."""

import json

import pytest
import torch

from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.cache import cache_bytes, pinned_prompt_bytes
from quantspace.estimation.meta import inventory_from_config
from quantspace.estimation.meta_cache import cache_tensors
from tests.tiny_models import ARCHITECTURES

BATCH = 2
PROMPT = 40  # longer than the windows of the sliding ones


def held_bytes(cache) -> int:
    storages = {}
    for part in (getattr(cache, "self_attention_cache", cache), getattr(cache, "cross_attention_cache", None)):
        for layer in getattr(part, "layers", ()):
            for tensor in cache_tensors(layer):
                if tensor.numel() > 1:  # counters of one element are no cache
                    storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def test_an_encoder_decoder_holds_a_cache_of_both_sides(tiny_checkpoint):
    folder = tiny_checkpoint("t5-float32-kept")
    raw = json.loads((folder / "config.json").read_text())
    model = model_class(parse_config(raw)).from_pretrained(folder, dtype=torch.bfloat16)
    tokens = torch.randint(3, 500, (BATCH, PROMPT))

    with torch.inference_mode():
        output = model(input_ids=tokens, decoder_input_ids=tokens, use_cache=True)

    held = held_bytes(output["past_key_values"])
    assert held == cache_bytes(inventory_from_config(raw, "t5"), PROMPT, BATCH, "bfloat16")


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if not name.startswith("t5")])
def test_the_cache_holds_what_was_estimated(name, tiny_checkpoint):
    folder = tiny_checkpoint(name)
    raw = json.loads((folder / "config.json").read_text())
    inventory = inventory_from_config(raw, name)
    model = model_class(parse_config(raw)).from_pretrained(folder, dtype=torch.bfloat16)
    tokens = torch.randint(3, 500, (BATCH, PROMPT + 1))
    key = "cache_params" if name.startswith("mamba") else "past_key_values"

    with torch.inference_mode():
        output = model(input_ids=tokens[:, :PROMPT], use_cache=True)
        after_prefill = held_bytes(output[key])
        output = model(input_ids=tokens[:, PROMPT:], use_cache=True, **{key: output[key]})
        after_a_step = held_bytes(output[key])

    pinned = pinned_prompt_bytes(inventory, PROMPT, BATCH, "bfloat16")
    assert after_prefill == cache_bytes(inventory, PROMPT, BATCH, "bfloat16") + pinned
    assert after_a_step == cache_bytes(inventory, PROMPT + 1, BATCH, "bfloat16")
    assert inventory.cache_exact
