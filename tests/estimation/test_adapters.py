"""Adapters: what PEFT really holds after `PeftModel.from_pretrained`, told from a config and a header."""

from __future__ import annotations

import itertools
import json
import warnings

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)

from quantspace.errors import ModelGated, ModelNotFound, ModelUnsupported
from quantspace.estimation.adapters import (
    AdapterFacts,
    adapter_of,
    base_errors,
    refuse_stacked,
    with_adapter,
    with_adapter_size,
)
from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.builder import inventory_for
from quantspace.estimation.meta.peak import FusedAttention, LiveBytes
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.weights import weight_bytes
from quantspace.hub.client import repo_facts
from quantspace.hub.reference import ModelRef
from quantspace.hub.safetensors_headers import read_headers
from quantspace.precision import PRECISIONS
from quantspace.runtime.readout import held_tensors

numbers = itertools.count()
CAUSAL = {"task_type": "CAUSAL_LM"}
Q, QV = {"target_modules": ["q_proj"]}, {"target_modules": ["q_proj", "v_proj"]}
IA3 = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
TEN = {"num_virtual_tokens": 10}

# Name → tiny checkpoint, and the adapter on it.
ADAPTERS = {
    "lora": ("llama-untied", LoraConfig(r=8, **QV, **CAUSAL)),
    "lora on every layer": ("llama-tied", LoraConfig(r=8, target_modules="all-linear", **CAUSAL)),
    "lora on Conv1D": ("gpt2-conv1d", LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, **CAUSAL)),
    "lora on embeddings": ("llama-untied", LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"], **CAUSAL)),
    "lora on experts": (
        "qwen3-moe-experts",
        LoraConfig(r=4, **Q, target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], **CAUSAL),
    ),
    "lora with the base's biases": ("qwen2-biases", LoraConfig(r=4, bias="all", **Q, **CAUSAL)),
    "lora with biases of its own": ("qwen2-biases", LoraConfig(r=4, lora_bias=True, **Q, **CAUSAL)),
    "lora with trained tokens": ("llama-untied", LoraConfig(r=4, trainable_token_indices=[1, 2, 3], **Q, **CAUSAL)),
    "dora": ("llama-untied", LoraConfig(r=8, use_dora=True, target_modules=["q_proj", "down_proj"], **CAUSAL)),
    "copies": ("llama-untied", LoraConfig(r=4, modules_to_save=["lm_head", "embed_tokens"], **Q, **CAUSAL)),
    "copy of a tied head": ("llama-tied", LoraConfig(r=4, modules_to_save=["lm_head"], **Q, **CAUSAL)),
    "adalora": ("llama-untied", AdaLoraConfig(total_step=100, **Q, **CAUSAL)),
    "ia3": ("llama-untied", IA3Config(**IA3, **CAUSAL)),
    "loha": ("llama-untied", LoHaConfig(r=4, **Q, **CAUSAL)),
    "lokr": ("llama-untied", LoKrConfig(r=4, **Q, **CAUSAL)),
    "prompt tuning": ("llama-untied", PromptTuningConfig(**TEN, **CAUSAL)),
    "prefix tuning": ("llama-untied", PrefixTuningConfig(**TEN, **CAUSAL)),
    "prefix tuning, projected": (
        "llama-untied",
        PrefixTuningConfig(**TEN, prefix_projection=True, encoder_hidden_size=64, **CAUSAL),
    ),
    "p-tuning": ("llama-untied", PromptEncoderConfig(**TEN, encoder_hidden_size=64, **CAUSAL)),
}
NOT_ON_4BIT = {"loha"}  # peft can't load it there: it takes the packed weight's shape
VERA = ("llama-untied", VeraConfig(r=4, save_projection=False, **Q, **CAUSAL))


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Saved:
    """A real adapter on a tiny checkpoint: its folder, and a repository of it on the Hub."""

    def __init__(self, hub, base, folder, config, dtype):
        self.base, self.folder = base, folder
        self.raw = json.loads((base / "config.json").read_text())
        self.cls = model_class(parse_config(self.raw))
        torch.manual_seed(0)
        model = get_peft_model(self.cls.from_pretrained(base, dtype=torch.bfloat16), config)
        model.to(dtype).save_pretrained(folder)
        self.rewrite(base_model_name_or_path="base/model")
        self.id = f"adapters/{next(numbers)}"
        hub.add_repo(self.id, folder=folder)

    def rewrite(self, **changes):
        path = self.folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def inventory(self):
        facts = repo_facts(ModelRef(self.id))
        adapter = adapter_of(facts)
        headers = read_headers(facts, paths=[adapter.weights])
        stored = [(t.name, t.dtype, t.shape) for header in headers for t in header.tensors]
        return with_adapter(inventory_from_config(self.raw, "base/model"), adapter, stored)

    def loaded(self, precision: str):
        kwargs = PRECISIONS[precision].transformers_kwargs()
        base = self.cls.from_pretrained(self.base, device_map={"": "cpu"}, **kwargs)
        return PeftModel.from_pretrained(base, self.folder).eval()


@pytest.fixture
def saved(hub, tiny_checkpoint, tmp_path):
    def save(name, config, dtype=torch.bfloat16):
        return Saved(hub, tiny_checkpoint(name), tmp_path / "adapter", config, dtype)

    return save


def footprint(model):
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["saved-fp32", "saved-bf16"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_base_and_adapter_hold_what_peft_holds_to_the_byte(name, dtype, saved):
    adapter = saved(*ADAPTERS[name], dtype)
    inventory = adapter.inventory()
    assert inventory.exact
    for precision in ("fp32", "bf16", "int8", "nf4-dq"):
        if precision == "nf4-dq" and name in NOT_ON_4BIT:
            continue
        model = adapter.loaded(precision)
        expected = weight_bytes(inventory, PRECISIONS[precision])
        assert footprint(model) == expected.footprint, precision
        assert sum(tensor.held_bytes for tensor in held_tensors(model)) == expected.held, precision


@pytest.mark.parametrize("name", [name for name in ADAPTERS if "tuning" not in name])
def test_a_pass_holds_no_more_than_is_counted(name, saved):
    adapter = saved(*ADAPTERS[name])
    model, inventory = adapter.loaded("bf16"), adapter.inventory()
    for length in (16, 200):
        tokens = torch.zeros(1, length, dtype=torch.long)
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "use_cache": True}
        alive = LiveBytes(model)
        with torch.no_grad(), FusedAttention(alive), alive:
            model(**inputs, logits_to_keep=1)
        assert max(alive.timeline) <= max(term.at(length, 1) for term in inventory.peak) + 24 * length


def test_source_and_notes_name_the_base_and_the_adapter(saved):
    adapter = saved(*ADAPTERS["lora"])
    inventory = adapter.inventory()
    assert inventory.model_id == adapter.id
    assert inventory.sha == repo_facts(ModelRef(adapter.id)).sha
    assert "base/model" in inventory.source and "adapter_model.safetensors" in inventory.source
    said = " ".join(inventory.notes)
    assert adapter.id in said and "base/model" in said and "LORA of rank 8" in said


def test_virtual_tokens_are_told_of(saved):
    assert any("10 virtual tokens" in note for note in saved(*ADAPTERS["prompt tuning"]).inventory().notes)


def test_what_a_method_keeps_beside_its_file_makes_the_answer_an_estimate(saved):
    inventory = saved(*VERA).inventory()
    assert not inventory.exact
    assert any("VERA" in note and "not counted" in note for note in inventory.notes)


def test_copies_of_quantized_layers_come_with_a_warning(saved):
    config = LoraConfig(r=4, modules_to_save=["mlp"], **Q, **CAUSAL)
    adapter = saved("llama-untied", config)
    assert any("int8 and 4-bit" in note for note in adapter.inventory().notes)
    assert footprint(adapter.loaded("bf16")) == weight_bytes(adapter.inventory(), PRECISIONS["bf16"]).footprint
    with pytest.raises(KeyError):
        adapter.loaded("nf4-dq")


def test_an_adapter_for_a_classifier_on_a_generating_base_is_an_estimate(saved):
    adapter = saved(*ADAPTERS["lora"])
    adapter.rewrite(task_type="SEQ_CLS")
    base = inventory_from_config(adapter.raw, "base/model")
    facts = AdapterFacts("a/b", "main", "0" * 40, ModelRef("base/model"), "LORA", classifies=True)
    found = with_adapter(base, facts, [("base_model.model.score.weight", "F32", (2, 128))])
    assert not found.exact
    assert any("classifier" in note for note in found.notes)


CONFIG = {"peft_type": "LORA", "base_model_name_or_path": "base/model", "r": 16, "target_modules": ["q_proj"]}


def facts_of(hub, files=("adapter_model.safetensors",), card=None, **changes):
    model_id = f"adapters/{next(numbers)}"
    contents = {path: b"\0" * 4096 for path in files}
    config = {key: value for key, value in (CONFIG | changes).items() if value is not ...}
    info = {"cardData": {"base_model": card}} if card else {}
    hub.add_repo(model_id, contents | {"adapter_config.json": json.dumps(config)}, safetensors=None, **info)
    return repo_facts(ModelRef(model_id))


class TestFacts:
    def test_a_config_tells_base_method_and_rank(self, hub):
        found = adapter_of(facts_of(hub, revision="v2"))
        assert (found.base, found.kind, found.rank) == (ModelRef("base/model", "v2"), "LORA", 16)
        assert found.targets == ("q_proj",)
        assert (found.weights, found.bytes, found.pickled) == ("adapter_model.safetensors", 4096, False)

    def test_a_repository_without_that_file_is_no_adapter(self, hub):
        hub.add_repo("adapters/none", {"config.json": "{}"})
        assert adapter_of(repo_facts(ModelRef("adapters/none"))) is None

    def test_an_adapter_beside_a_config_is_an_adapter_as_it_is_to_transformers(self, hub):
        assert adapter_of(facts_of(hub, ("config.json", "adapter_model.safetensors"))) is not None

    def test_safetensors_are_preferred_to_pickled_weights(self, hub):
        assert not adapter_of(facts_of(hub, ("adapter_model.bin", "adapter_model.safetensors"))).pickled
        assert adapter_of(facts_of(hub, ("adapter_model.bin",))).pickled

    @pytest.mark.parametrize(
        "path",
        [
            "./models/x",
            "/root/llama",
            "../base",
            "~/base",
            "C:\\models\\llama",
            "models/llama/7b",
            "llama",
            "",
            None,
            7,
        ],
        ids=repr,
    )
    def test_a_base_on_its_authors_machine_is_taken_from_the_card_or_refused(self, hub, path):
        found = adapter_of(facts_of(hub, card="org/named", base_model_name_or_path=path))
        assert found.base == ModelRef("org/named")
        with pytest.raises(ModelUnsupported, match="names its base model") as caught:
            adapter_of(facts_of(hub, base_model_name_or_path=path))
        assert caught.value.hint

    def test_an_adapter_without_weights_is_refused(self, hub):
        with pytest.raises(ModelUnsupported, match=r"no adapter_model\.safetensors"):
            adapter_of(facts_of(hub, files=()))

    @pytest.mark.parametrize(
        "changes",
        [
            {"r": "many"}, {"r": -1}, {"r": 2**70}, {"target_modules": 7}, {"target_modules": [None, 1]},
            {"modules_to_save": {"a": 1}}, {"peft_type": None}, {"peft_type": "X" * 5000}, {"task_type": ["SEQ_CLS"]},
            {"num_virtual_tokens": True}, {"revision": 5}, {"revision": None},
        ],
        ids=str,
    )  # fmt: skip
    def test_strange_values_do_no_harm(self, hub, changes):
        adapter = adapter_of(facts_of(hub, **changes))
        base = inventory_from_config({"model_type": "gpt2", "n_layer": 1, "n_embd": 64, "n_head": 2}, "base/model")
        found = with_adapter(base, adapter, [("base_model.model.h.0.lora_A.weight", "F32", (4, 64))])
        assert all(len(note) < 500 for note in found.notes)


class TestBase:
    def test_a_pickled_adapter_is_counted_at_its_size(self, hub):
        adapter = adapter_of(facts_of(hub, ("adapter_model.bin",)))
        base = inventory_from_config({"model_type": "gpt2", "n_layer": 1, "n_embd": 64, "n_head": 2}, "base/model")
        found = with_adapter_size(base, adapter)
        for precision in ("fp32", "bf16", "nf4"):
            row = PRECISIONS[precision]
            assert weight_bytes(found, row).held - weight_bytes(base, row).held == 4096
        assert not found.exact
        assert "size" in found.source

    def test_an_adapter_of_an_adapter_is_refused(self, hub):
        lower = facts_of(hub)
        upper = adapter_of(facts_of(hub, base_model_name_or_path=lower.ref.id))
        with pytest.raises(ModelUnsupported, match="an adapter itself"):
            refuse_stacked(upper, lower)

    @pytest.mark.parametrize(("closed", "error"), [(False, ModelNotFound), ("manual", ModelGated)])
    def test_a_base_that_is_gone_or_gated_is_said_to_be_the_base(self, hub, closed, error):
        base = f"adapters/base-{next(numbers)}"
        if closed:
            hub.add_repo(base, {"config.json": "{}"}, gated=closed)
        facts = facts_of(hub, base_model_name_or_path=base)
        adapter = adapter_of(facts)
        with pytest.raises(error, match=f"{facts.ref.id} is an adapter of {base}") as caught, base_errors(adapter):
            base_facts = repo_facts(adapter.base)
            raise ModelGated(f"{base_facts.ref.id} is gated.", "Accept its terms.")
        assert caught.value.hint

    def test_what_is_said_of_a_base_itself_stays_as_it_was(self, hub):
        adapter = adapter_of(facts_of(hub))
        kept = ModelUnsupported("It has no class.", "Pick another.")
        for _ in range(2):
            needed = pytest.raises(ModelUnsupported, match="which is needed: It has no class")
            with needed as caught, base_errors(adapter):
                raise kept
            assert caught.value.hint == "Pick another."
        assert kept.message == "It has no class."

    def test_an_adapter_of_a_bundled_model_is_answered_in_one_go(self, hub, saved):
        adapter = saved(*ADAPTERS["lora"])
        adapter.rewrite(base_model_name_or_path="openai-community/gpt2")
        hub.add_repo(adapter.id, folder=adapter.folder)
        found = inventory_for(ModelRef(adapter.id))
        added = sum(t.numel() for t in adapter.loaded("bf16").state_dict().values() if t.dtype == torch.float32)
        assert found.parameters == 124_439_808 + added
        assert "openai-community/gpt2" in found.source
