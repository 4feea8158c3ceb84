"""The cache a model really fills, against the estimate: storages on CPU, after prefill and after a step."""

import json

import pytest
import torch

from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.cache import cache_bytes, cache_terms, pinned_prompt_bytes
from quantspace.estimation.meta.cache import watch
from quantspace.estimation.meta.cache_rows import cache_layers, cache_tensors
from quantspace.estimation.meta.reader import build_on_meta, inventory_from_config
from quantspace.hub.catalogue import find_bundled
from tests.tiny_models import ARCHITECTURES, BLOCKS

BATCHES = (1, 2)
PROMPTS = (7, 16, 150)  # below the windows, which are of 16 tokens; at their edge; well above
DAILY = ((16, 1), (150, 2))
WORKLOADS = [
    pytest.param(prompt, batch, marks=() if (prompt, batch) in DAILY else pytest.mark.nightly, id=f"{prompt}x{batch}")
    for prompt in PROMPTS
    for batch in BATCHES
]
ENCODER_DECODER = ("t5-float32-kept", "bart-two-sided")
DECODER = [name for name in ARCHITECTURES if name not in ENCODER_DECODER]
# Blocks are of 4 and of 32 tokens, windows of 16: alone, at ends of blocks, beside them, well inside of one.
BLOCK = 32
LENGTHS = (1, 3, 4, 8, 15, 16, 31, 32, 33, 63, 64, 65, 95, 96, 150, 159, 160)
STEPS = 6


def held_bytes(cache) -> int:
    storages = {}
    for _, layer in cache_layers(cache):
        for tensor in cache_tensors(layer):
            if tensor.dim():  # numbers that a layer counts with are no cache
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.mark.parametrize(("prompt", "batch"), WORKLOADS)
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


@pytest.mark.parametrize(("prompt", "batch"), WORKLOADS)
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


@pytest.fixture(scope="module")
def held_over_blocks(model_of):
    """Of a model that keeps blocks: its inventory, and what its cache held after prefills and after steps."""
    known = {}

    def of(name, batch):
        if (name, batch) not in known:
            model, inventory = model_of(name)
            prefilled, stepped = [], []
            for prompt in LENGTHS:
                tokens = torch.randint(3, 500, (batch, prompt + STEPS))
                with torch.inference_mode():
                    cache = model(input_ids=tokens[:, :prompt], use_cache=True).past_key_values
                    prefilled.append((prompt, held_bytes(cache)))
                    for now in range(prompt, prompt + STEPS):
                        model(input_ids=tokens[:, now : now + 1], use_cache=True, past_key_values=cache)
                        stepped.append((now + 1, held_bytes(cache)))
            known[name, batch] = inventory, prefilled, stepped
        return known[name, batch]

    return of


@pytest.fixture(scope="module")
def told_over():
    """By how many bytes a sequence the cache is said to be counted too high, at most."""

    def of(name):
        config = parse_config(json.loads(BLOCKS[name]().to_json_string(use_diff=False)))
        return watch(build_on_meta(config, model_class(config), torch.bfloat16)).most_over

    return of


@pytest.mark.parametrize("batch", [1, pytest.param(2, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", BLOCKS)
class TestBlocks:
    def test_at_the_end_of_a_block_the_cache_holds_what_was_estimated(self, name, batch, held_over_blocks):
        inventory, prefilled, stepped = held_over_blocks(name, batch)
        ends = [(tokens, held) for tokens, held in stepped if tokens % BLOCK == 0]
        assert len(ends) > 2
        for tokens, held in ends:
            assert cache_bytes(inventory, tokens, batch, "bfloat16") == held
        for tokens, held in prefilled:
            if tokens % BLOCK == 0:
                pinned = pinned_prompt_bytes(inventory, tokens, batch, "bfloat16")
                assert cache_bytes(inventory, tokens, batch, "bfloat16") + pinned == held

    def test_it_never_holds_more_and_less_by_what_is_told_at_most(self, name, batch, held_over_blocks, told_over):
        inventory, prefilled, stepped = held_over_blocks(name, batch)
        over = [cache_bytes(inventory, tokens, batch, "bfloat16") - held for tokens, held in stepped]
        for tokens, held in prefilled:
            pinned = pinned_prompt_bytes(inventory, tokens, batch, "bfloat16")
            over.append(cache_bytes(inventory, tokens, batch, "bfloat16") + pinned - held)
        assert min(over) >= 0
        assert max(over) <= batch * told_over(name)


def test_compressed_blocks_go_on_growing_where_windows_do_not(model_of):
    _, inventory = model_of("deepseek-v4-compressed")
    assert not inventory.cache_exact
    shorter, longer = (cache_terms(inventory, tokens, 1, "bfloat16") for tokens in (2**17, 2**20))
    grown = {term.name for term, later in zip(shorter, longer, strict=True) if term.bytes != later.bytes}
    assert grown == {"layers that keep every block of tokens, compressed"}


def test_indexed_blocks_are_told_to_the_byte(told_over):
    assert told_over("minimax-m3-indexed") == 0


def test_a_published_cache_that_compresses_is_positive_and_grows():
    inventory = inventory_from_config(find_bundled("nvidia/DeepSeek-V4-Flash-NVFP4").config, "org/name")
    sizes = [cache_bytes(inventory, context, 1, "bfloat16") for context in (1, 128, 8192, 131072, 1048576)]
    assert sizes[0] > 0
    assert sizes == sorted(set(sizes))


def test_at_least_twenty_architectures_are_compared():
    assert len(ARCHITECTURES) >= 20
