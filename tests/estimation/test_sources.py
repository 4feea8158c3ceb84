"""Which source answers for a repository, who may see it, and what is kept of it."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save

from quantspace.errors import HubUnreachable, ModelGated, ModelUnsupported
from quantspace.estimation import builder, store
from quantspace.estimation.builder import inventory_for
from quantspace.hub.reference import ModelRef, parse_reference
from tests.hub import SparseFile

numbers = itertools.count()
SAFETENSORS = {"parameters": {"BF16": 8_030_261_248}, "total": 8_030_261_248}
UNKNOWN = json.dumps({"model_type": "of-its-own", "auto_map": {"AutoModel": "modeling.Own"}, "hidden_size": 64})


@pytest.fixture(autouse=True)
def fresh():
    forget()
    yield
    forget()


def forget():
    """As after a restart: what is on disk stays."""
    builder.public_facts.cache_clear()
    builder.outcome.cache_clear()


@pytest.fixture
def config(tiny_checkpoint):
    return (tiny_checkpoint("llama-tied") / "config.json").read_text()


@pytest.fixture
def weights():
    tensors = {"model.embed_tokens.weight": torch.zeros(128, 64)}
    tensors |= {f"model.layers.{i}.mlp.up_proj.weight": torch.zeros(96, 64) for i in range(3)}
    return save({name: tensor.bfloat16() for name, tensor in tensors.items()})


@pytest.fixture
def publish(hub):
    def add(files, **about):
        model_id = f"sources/model-{next(numbers)}"
        hub.add_repo(model_id, files, **about)
        return model_id

    return add


class TestChoice:
    def test_class_comes_first(self, publish, config, weights):
        found = inventory_for(ModelRef(publish({"config.json": config, "model.safetensors": weights})))
        assert (found.source_kind, found.exact) == ("class", True)

    def test_headers_where_the_architecture_is_unknown(self, publish, weights):
        found = inventory_for(ModelRef(publish({"config.json": UNKNOWN, "model.safetensors": weights})))
        assert (found.source_kind, found.exact) == ("headers", False)
        assert found.parameters == 128 * 64 + 3 * 96 * 64
        assert any("of-its-own" in note for note in found.notes)

    def test_counts_where_there_is_no_header(self, publish):
        found = inventory_for(ModelRef(publish({"config.json": UNKNOWN}, safetensors=SAFETENSORS)))
        assert found.source_kind == "counts"
        assert found.parameters == SAFETENSORS["total"]

    def test_sizes_of_pickled_files_are_the_last_resort(self, hub, publish):
        model_id = publish({"config.json": UNKNOWN, "pytorch_model.bin": SparseFile(2 * 10**9)}, safetensors=None)
        found = inventory_for(ModelRef(model_id))
        assert found.source_kind == "sizes"
        assert not found.exact
        assert "pytorch_model.bin" not in {r.target.file for r in hub.requests.of(repo=model_id).downloads}

    def test_without_any_the_first_reason_is_given(self, publish):
        with pytest.raises(ModelUnsupported, match="of-its-own"):
            inventory_for(ModelRef(publish({"config.json": UNKNOWN}, safetensors=None)))

    def test_a_broken_config_beside_good_files_is_no_end(self, publish, weights):
        found = inventory_for(ModelRef(publish({"config.json": "{", "model.safetensors": weights})))
        assert found.source_kind == "headers"

    def test_adapter_stands_on_its_base(self, publish, config, weights):
        base = publish({"config.json": config, "model.safetensors": weights})
        lora = {
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(8, 64),
            "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": torch.zeros(64, 8),
        }
        about = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": base}
        adapter = publish({"adapter_config.json": json.dumps(about), "adapter_model.safetensors": save(lora)})
        found = inventory_for(ModelRef(adapter))
        assert found.source_kind == "adapter"
        assert found.parameters == inventory_for(ModelRef(base)).parameters + 2 * 8 * 64

    def test_adapter_of_itself_is_refused(self, publish, weights):
        itself = f"sources/model-{next(numbers) + 1}"
        about = {"peft_type": "LORA", "base_model_name_or_path": itself}
        files = {"adapter_config.json": json.dumps(about), "adapter_model.safetensors": weights}
        assert publish(files) == itself
        with pytest.raises(ModelUnsupported, match="adapter itself"):
            inventory_for(ModelRef(itself))


class TestAccess:
    @pytest.fixture
    def gated(self, hub, publish, config, weights):
        model_id = publish(
            {"config.json": config, "model.safetensors": weights}, gated="manual", safetensors=SAFETENSORS
        )
        hub.add_account("hf_insider", "ida", accepted={model_id})
        return ModelRef(model_id)

    def test_counts_answer_for_who_is_not_let_in(self, gated):
        found = inventory_for(gated)
        assert found.source_kind == "counts"
        assert any(gated.id in note and "gated" in note for note in found.notes)

    def test_each_is_answered_by_what_they_may_see(self, gated):
        kinds = [inventory_for(gated, token).source_kind for token in ("hf_insider", None, "hf_insider", None)]
        assert kinds == ["class", "counts", "class", "counts"]

    def test_gated_without_counts_is_the_refusal_itself(self, publish, config):
        with pytest.raises(ModelGated):
            inventory_for(ModelRef(publish({"config.json": config}, gated="auto", safetensors=None)))

    def test_what_a_token_opened_is_not_on_disk(self, gated):
        assert inventory_for(gated, "hf_insider").sha
        assert store.remembered(gated.id, inventory_for(gated, "hf_insider").sha) is None


class TestKept:
    def test_those_who_ask_at_once_share_one_fetch(self, hub, publish, config):
        model_id = publish({"config.json": config})
        with ThreadPoolExecutor(8) as people:
            found = list(people.map(lambda _: inventory_for(ModelRef(model_id)), range(8)))
        assert len({id(inventory.tensors) for inventory in found}) == 1
        assert len(hub.requests.of(repo=model_id).downloads) == 1

    def test_it_survives_a_restart(self, hub, publish, config):
        model_id = publish({"config.json": config})
        before = inventory_for(ModelRef(model_id))
        hub.requests.clear()
        forget()
        after = inventory_for(ModelRef(model_id))
        assert not hub.requests.of(repo=model_id).downloads
        assert (after.tensors, after.cache, after.peak) == (before.tensors, before.cache, before.peak)

    def test_a_new_commit_is_noticed(self, hub, publish, config):
        model_id = publish({"config.json": config})
        before = inventory_for(ModelRef(model_id))
        hub.commit(model_id, {"config.json": json.dumps({**json.loads(config), "num_hidden_layers": 1})})
        forget()
        after = inventory_for(ModelRef(model_id))
        assert after.sha != before.sha
        assert after.parameters < before.parameters

    def test_the_last_seen_answers_where_the_hub_does_not(self, hub, publish, config):
        model_id = publish({"config.json": config})
        seen = inventory_for(ModelRef(model_id))
        forget()
        rule = hub.fail(model_id, close=True)
        try:
            found = inventory_for(ModelRef(model_id))
            assert found.tensors == seen.tensors
            assert seen.sha[:8] in found.notes[0]
            with pytest.raises(HubUnreachable):
                inventory_for(ModelRef(model_id, "v2"))
        finally:
            hub.faults.remove(rule)

    def test_no_more_entries_than_are_allowed(self, monkeypatch):
        limited = builder.settings()
        monkeypatch.setattr(store, "settings", lambda: type(limited)(store_entries=5))
        for number in range(12):
            store.remember_commit("sources/many", f"v{number}", "0" * 40)
        assert len(store._cache()) <= 5
        assert store.last_commit("sources/many", "v11")

    def test_a_disk_that_fails_costs_no_answer(self, publish, config, tmp_path, monkeypatch):
        blocked = tmp_path / "file"
        blocked.write_text("not a folder")
        limited = builder.settings()
        monkeypatch.setattr(store, "settings", lambda: type(limited)(store_folder=str(blocked)))
        store._cache.cache_clear()
        try:
            assert inventory_for(ModelRef(publish({"config.json": config}))).exact
        finally:
            store._cache.cache_clear()


def test_the_quant_that_was_named_is_part_of_the_question(publish, config):
    ref = parse_reference(f"{publish({'config.json': config})}:Q4_K_M")
    assert inventory_for(ref).exact


def test_what_is_kept_of_a_refusal_holds_no_token(hub, publish):
    secret = "hf_keptInNoFrame"
    model_id = publish({"config.json": UNKNOWN}, private=True, safetensors=None)
    hub.add_account(secret, "sources")
    with pytest.raises(ModelUnsupported):
        inventory_for(ModelRef(model_id), secret)
    kept = [found for key, found in builder.outcome.cache.items() if key[0] == model_id]
    assert kept
    assert secret not in repr(kept)
    assert not any(isinstance(part, BaseException) for found in kept for part in (found.refusal or ()))


def test_two_refusals_of_one_class_are_told_apart(hub, publish, config):
    model_id = publish({"config.json": config}, gated="auto", safetensors=SAFETENSORS)
    hub.add_account("hf_fine", "finn", accepted={model_id}, role="fineGrained", reads_gated=False)
    hub.add_account("hf_new", "nora")
    hub.add_account("hf_waits", "wim", pending={model_id})
    notes = [inventory_for(ModelRef(model_id), token).notes for token in ("hf_fine", "hf_new", "hf_waits", None)]
    assert len(set(notes)) == 4


def test_text_that_can_not_be_sent_is_refused(publish):
    broken = '{"model_type": "llama", "architectures": ["\\ud800"]}'
    with pytest.raises(ModelUnsupported, match="not a JSON object"):
        inventory_for(ModelRef(publish({"config.json": broken}, safetensors=None)))


def test_those_who_wait_for_a_hub_that_is_gone_are_told_at_once(hub, publish, config):
    model_id = publish({"config.json": config})
    hub.fail(model_id, delay=0.5, status=503)
    try:
        with ThreadPoolExecutor(6) as people:
            asked = [people.submit(inventory_for, ModelRef(model_id)) for _ in range(6)]
            assert all(isinstance(answer.exception(), HubUnreachable) for answer in asked)
        assert len(hub.requests.of(repo=model_id)) == 1
    finally:
        hub.faults.clear()


def test_a_link_to_a_file_that_is_not_there_is_no_other_question(publish, config):
    model_id = publish({"config.json": config})
    found = {
        id(inventory_for(ModelRef(model_id, file=name)).tensors) for name in ("a.safetensors", "b.safetensors", None)
    }
    assert len(found) == 1
