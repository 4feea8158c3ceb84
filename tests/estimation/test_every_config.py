"""Every config at hand gets an answer: exact where transformers knows the class, else from headers or counts.

The configs are those that come with the app and those of `tests/data/configs`: copies that others keep, models
that generate no text, and models that need code of their own. The format is that of `quantspace/data/models`, with
`match: no-class` where transformers has no class, and `stored_bytes` where an index told the size of the weights.
"""

from __future__ import annotations

import json
from functools import lru_cache
from math import prod
from pathlib import Path

import pytest

from quantspace.errors import ModelUnsupported
from quantspace.estimation.builder import inventory_for
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.weights import weight_bytes
from quantspace.hub.catalogue import bundled_models, find_bundled
from quantspace.hub.reference import ModelRef
from quantspace.precision import PRECISIONS
from tests.hub import SparseFile

FOLDER = Path(__file__).parents[1] / "data" / "configs"
OTHERS = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(FOLDER.glob("*.json"))}
KNOWN = [name for name, entry in OTHERS.items() if entry["match"] != "no-class"]
UNKNOWN = [name for name, entry in OTHERS.items() if entry["match"] == "no-class"]
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def repo_of(name: str) -> str:
    return "every/" + name.replace("--", "-of-")


def told(inventory, match: str, official: int | None, difference: str | None) -> None:
    """Whether an inventory has the official count, or differs from it as documented."""
    if match == "MATCH":
        assert inventory.parameters == official
    elif match == "DIFF":
        assert difference.startswith(f"{inventory.parameters - official:+d} parameters")
    else:
        assert official is None


def test_all_configs_are_at_hand():
    assert len(bundled_models()) + len(OTHERS) >= 157


@pytest.mark.parametrize("name", OTHERS)
def test_an_entry_is_as_those_that_come_with_the_app(name):
    entry = OTHERS[name]
    assert entry["source"].startswith("https://")
    assert (entry["official_parameters"] is None) == (entry["official_source"] is None)
    assert (entry["match"] == "DIFF") == (entry["difference"] is not None)
    text = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert text == json.dumps(entry, indent=2, ensure_ascii=False) + "\n"


@pytest.mark.slow
@pytest.mark.parametrize("model_id", bundled_models())
def test_a_bundled_model_is_exact(model_id):
    entry = find_bundled(model_id)
    inventory = inventory_for(ModelRef(model_id))
    assert inventory.exact
    assert inventory.cache
    told(inventory, entry.match, entry.official_parameters, entry.difference)


@pytest.mark.parametrize("name", KNOWN)
def test_a_model_that_transformers_knows_is_exact(name, hub):
    entry = OTHERS[name]
    hub.add_repo(repo_of(name), {"config.json": json.dumps(entry["config"])})
    inventory = inventory_for(ModelRef(repo_of(name)))
    assert inventory.exact
    assert inventory.source_kind == "class"
    told(inventory, entry["match"], entry["official_parameters"], entry["difference"])


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_class_that_transformers_does_not_have_is_refused_with_the_reason(name):
    with pytest.raises(ModelUnsupported) as caught:
        inventory_from_config(OTHERS[name]["config"], name)
    assert caught.value.message.startswith(("Its config.json names", "transformers refuses this config.json"))
    assert caught.value.hint


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_model_without_a_class_is_answered_from_counts_or_headers(name, hub):
    entry = OTHERS[name]
    files: dict[str, object] = {"config.json": json.dumps(entry["config"])}
    count = counted(name)
    if count is None:
        shapes = shapes_of(name)
        files["model.safetensors"] = SparseFile.safetensors({key: ("BF16", shape) for key, shape in shapes.items()})
        hub.add_repo(repo_of(name), files)
        count = sum(prod(shape) for shape in shapes.values())
    else:
        hub.add_repo(repo_of(name), files, safetensors={"parameters": {"BF16": count}, "total": count})
    inventory = inventory_for(ModelRef(repo_of(name)))
    assert inventory.source_kind == ("counts" if counted(name) else "headers")
    assert not inventory.exact
    assert inventory.parameters == count
    assert weight_bytes(inventory, PRECISIONS["bf16"]).held == 2 * count
    reasons = ("Its config.json names", "transformers refuses this config.json")
    assert any(note.startswith(reasons) for note in inventory.notes)


def counted(name: str) -> int | None:
    """Parameters of a model by the Hub, or by the size that an index told; `None` where neither is known."""
    entry = OTHERS[name]
    if entry["official_parameters"] or not entry["stored_bytes"]:
        return entry["official_parameters"]
    return entry["stored_bytes"] // BYTES[entry["config"].get("torch_dtype") or "bfloat16"]


@lru_cache
def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    """Tensors in the shapes that a config asks for, under the names that most decoders have."""
    config = OTHERS[name]["config"]
    config = config.get("text_config", config)

    def first(*keys: str) -> int:
        return next(config[key] for key in keys if config.get(key))

    hidden, layers = first("hidden_size", "d_model"), first("num_hidden_layers", "num_layers", "n_layers")
    heads = first("num_attention_heads", "n_heads")
    head = config.get("head_dim") or hidden // heads
    groups = config.get("attn_config", {}).get("kv_n_heads") or config.get("num_key_value_heads") or heads
    vocabulary = config["vocab_size"]
    experts = config.get("n_routed_experts") or config.get("ffn_config", {}).get("moe_num_experts")
    wide = config.get("ffn_config", {}).get("ffn_hidden_size") or first("moe_intermediate_size", "intermediate_size")
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocabulary, hidden)
    for number in range(layers):
        layer = f"model.layers.{number}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.self_attn.q_proj.weight": (heads * head, hidden),
            f"{layer}.self_attn.k_proj.weight": (groups * head, hidden),
            f"{layer}.self_attn.v_proj.weight": (groups * head, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, heads * head),
        }
        if experts:
            shapes[f"{layer}.mlp.experts.gate_up_proj"] = (experts, 2 * wide, hidden)
            shapes[f"{layer}.mlp.experts.down_proj"] = (experts, hidden, wide)
        else:
            shapes |= {f"{layer}.mlp.{gate}_proj.weight": (wide, hidden) for gate in ("gate", "up")}
            shapes[f"{layer}.mlp.down_proj.weight"] = (hidden, wide)
    return shapes
