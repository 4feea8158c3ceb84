"""Passes in which like layers are played back tell exactly what full passes tell."""

import functools
import json
from pathlib import Path

import pytest
import torch

from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.meta.cache import watch
from quantspace.estimation.meta.reader import build_on_meta
from quantspace.estimation.meta.repeat import LikeLayers
from quantspace.hub import catalogue
from tests.tiny_models import ARCHITECTURES

LENGTHS = (1, 10, 100, 1_000, 10_000, 131_072)
BUNDLED = sorted((Path(catalogue.__file__).parents[1] / "data" / "models").glob("*.json"))


def built(raw: dict, **changes):
    config = parse_config(raw)
    for key, value in changes.items():
        setattr(config, key, value)
    return build_on_meta(config, model_class(config), torch.bfloat16)


def expect_told_alike(raw: dict) -> None:
    short, full = watch(built(raw)), watch(built(raw), shortened=False)

    assert short.cache == full.cache
    assert bool(short.peak) == bool(full.peak)
    for length in LENGTHS if full.peak else ():
        assert max(t.at(length, 1) for t in short.peak) == max(t.at(length, 1) for t in full.peak)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tiny_models_are_told_alike(name):
    expect_told_alike(json.loads(ARCHITECTURES[name]().to_json_string(use_diff=False)))


@pytest.mark.nightly
@pytest.mark.parametrize("file", BUNDLED, ids=lambda file: file.stem)
def test_published_models_are_told_alike(file):
    expect_told_alike(json.loads(file.read_text())["config"])


def test_of_ten_like_layers_two_run():
    raw = json.loads(ARCHITECTURES["llama-tied"]().to_json_string(use_diff=False)) | {"num_hidden_layers": 10}
    model = built(raw)
    runs = []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda *_: runs.append(1))

    watch(model)

    assert len(runs) == 3 * 2  # three lengths


def test_a_model_is_left_as_it_was():
    raw = json.loads(ARCHITECTURES["llama-tied"]().to_json_string(use_diff=False))
    model = built(raw)
    with LikeLayers(model):
        pass
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_last_layer_that_differs_is_seen():
    """It looks like the others but keeps more in the cache: the shortened passes say that they are not sound."""
    raw = json.loads(ARCHITECTURES["llama-tied"]().to_json_string(use_diff=False)) | {"num_hidden_layers": 4}
    model = built(raw)
    attention = model.model.layers[-1].self_attn
    plain = attention.forward

    def twice(*args, past_key_values=None, **kwargs):
        output = plain(*args, past_key_values=past_key_values, **kwargs)
        layer = past_key_values.layers[attention.layer_idx]
        layer.keys = torch.cat([layer.keys, layer.keys], dim=-1)
        return output

    attention.forward = functools.partial(twice)
    odd, plain_layers = sorted((layer.token_elements, layer.count) for layer in watch(model).cache)[::-1]

    assert odd == (plain_layers[0] * 3 // 2, 1)
    assert plain_layers[1] == 3
