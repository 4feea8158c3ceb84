"""The cache that transformers really keeps quantized, against the estimate: storages on CPU."""

import pytest
import torch
from transformers import QuantizedCache

from quantspace.estimation.quantized_cache import (
    FORMATS,
    RESIDUAL,
    can_quantize,
    quantized_cache_bytes,
    quantized_cache_terms,
)


def storages(value, found=None) -> dict[int, int]:
    """Bytes of every storage in `value`, those of tensor subclasses too."""
    found = {} if found is None else found
    if isinstance(value, torch.Tensor):
        if hasattr(value, "__tensor_flatten__"):
            for name in value.__tensor_flatten__()[0]:
                storages(getattr(value, name), found)
        elif value.numel():
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    elif isinstance(value, (list, tuple)):
        for one in value:
            storages(one, found)
    return found


def held_bytes(cache: QuantizedCache) -> int:
    return sum(storages([list(vars(layer).values()) for layer in cache.layers]).values())


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("prompt", [7, 40, 150])
@pytest.mark.parametrize("format_id", FORMATS)
@pytest.mark.parametrize("name", ["llama-tied", "qwen3-norms", "gpt-neox-biases"])
def test_it_holds_what_was_estimated(name, format_id, prompt, batch, model_of):
    model, inventory = model_of(name)
    row = FORMATS[format_id]
    cache = QuantizedCache(row.backend, model.config, nbits=row.bits)
    tokens = torch.randint(3, 500, (batch, prompt + 1))

    with torch.no_grad():
        model(tokens[:, :prompt], past_key_values=cache)
        after_prefill = held_bytes(cache)
        model(tokens[:, prompt:], past_key_values=cache)
        after_a_step = held_bytes(cache)

    assert after_prefill == quantized_cache_bytes(inventory, prompt, batch, format_id, "bfloat16", waiting=0)
    assert after_a_step == quantized_cache_bytes(inventory, prompt + 1, batch, format_id, "bfloat16", waiting=1)


def test_tokens_wait_until_there_are_enough(model_of):
    model, inventory = model_of("llama-tied")
    cache = QuantizedCache("quanto", model.config, nbits=4)
    most = 0
    with torch.no_grad():
        model(torch.full((1, 20), 3), past_key_values=cache)
        for step in range(1, RESIDUAL + 1):
            model(torch.full((1, 1), 3), past_key_values=cache)
            held = held_bytes(cache)
            waiting = step % RESIDUAL
            assert held == quantized_cache_bytes(inventory, 20 + step, 1, "int4", "bfloat16", waiting)
            most = max(most, held)

    assert most == quantized_cache_bytes(inventory, 20 + RESIDUAL - 1, 1, "int4", "bfloat16")


@pytest.mark.parametrize("name", ["mistral-sliding", "gemma3-text", "qwen3-next-hybrid", "gpt-oss-experts"])
def test_models_that_transformers_refuses_are_refused(name, model_of):
    model, inventory = model_of(name)

    with pytest.raises(ValueError, match="full attention"):
        QuantizedCache("quanto", model.config, nbits=4)
    assert not can_quantize(inventory, "int4")
    with pytest.raises(ValueError, match="full precision"):
        quantized_cache_bytes(inventory, 100, 1, "int4", "bfloat16")


def test_the_formula_says_what_it_computes(model_of):
    _, inventory = model_of("llama-tied")
    (term,) = quantized_cache_terms(inventory, 150, 1, "int4", "bfloat16", waiting=0)
    assert term.bytes == 2 * 3 * (150 * 64 // 2 + 150 * 4)
    assert "150 tokens × 64 values" in term.shown
