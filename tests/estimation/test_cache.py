"""The cache a model really fills, against the estimate: storages on CPU, after prefill and after a step."""

import json

import pytest
import torch

from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.cache import cache_bytes, pinned_prompt_bytes
from quantspace.estimation.meta.cache import cache_layers, cache_tensors
from quantspace.estimation.meta.reader import inventory_from_config
from tests.tiny_models import ARCHITECTURES

BATCHES = (1, 2)
PROMPTS = (7, 16, 150)  # below the windows, which are of 16 tokens; at their edge; well above
ENCODER_DECODER = ("t5-float32-kept", "bart-two-sided")
DECODER = [name for name in ARCHITECTURES if name not in ENCODER_DECODER]


def held_bytes(cache) -> int:
    storages = {}
    for _, layer in cache_layers(cache):
        for tensor in cache_tensors(layer):
            if tensor.dim():  # numbers that a layer counts with are no cache
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.fixture(scope="module")
def model_of(tiny_checkpoint):
    known = {}

    def build(name):
        if name not in known:
            folder = tiny_checkpoint(name)
            raw = json.loads((folder / "config.json").read_text())
            model = model_class(parse_config(raw)).from_pretrained(folder, dtype=torch.bfloat16)
            known.clear()
            known[name] = model, inventory_from_config(raw, name)
        return known[name]

    return build


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", ENCODER_DECODER)
def test_an_encoder_decoder_holds_a_cache_of_both_sides(name, prompt, batch, model_of):
    model, inventory = model_of(name)
    tokens = torch.randint(3, 500, (batch, prompt + 1))

    with torch.inference_mode():
        output = model(input_ids=tokens[:, :prompt], decoder_input_ids=tokens[:, :prompt], use_cache=True)
        cache = output["past_key_values"]
        after_prefill = held_bytes(cache)
        model(
            encoder_outputs=(output.encoder_last_hidden_state,), decoder_input_ids=tokens[:, prompt:],
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        after_a_step = held_bytes(cache)

    both_grow = cache_bytes(inventory, prompt + 1, batch, "bfloat16") - after_prefill
    assert after_prefill == cache_bytes(inventory, prompt, batch, "bfloat16")
    assert after_a_step == after_prefill + both_grow // 2  # the encoder's side is as long as its prompt


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", DECODER)
def test_the_cache_holds_what_was_estimated(name, prompt, batch, model_of):
    model, inventory = model_of(name)
    tokens = torch.randint(3, 500, (batch, prompt + 1))

    with torch.inference_mode():
        output = model(input_ids=tokens[:, :prompt], use_cache=True)
        key = "cache_params" if "cache_params" in output else "past_key_values"
        cache = output[key]
        after_prefill = held_bytes(cache)
        model(input_ids=tokens[:, prompt:], use_cache=True, **{key: cache})
        after_a_step = held_bytes(cache)

    pinned = pinned_prompt_bytes(inventory, prompt, batch, "bfloat16")
    assert after_prefill == cache_bytes(inventory, prompt, batch, "bfloat16") + pinned
    assert after_a_step == cache_bytes(inventory, prompt + 1, batch, "bfloat16")
    assert inventory.cache_exact


def test_at_least_twenty_architectures_are_compared():
    assert len(ARCHITECTURES) >= 20
