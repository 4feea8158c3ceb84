"""What the app asks of the Hub before a load, and what people are told where the Hub does not answer as hoped."""

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quantspace.errors import (
    BodyBrokeOff,
    GarbledAnswer,
    HubDown,
    HubTimedOut,
    HubUnreachable,
    ModelNotFound,
    ModelUnavailable,
    ModelUnsupported,
    NotSignedIn,
    RateLimited,
    TokenRefused,
)
from quantspace.estimation import builder
from quantspace.estimation.builder import inventory_for
from quantspace.hub import presence
from quantspace.hub.client import repo_facts
from quantspace.hub.json_files import fetch_config
from quantspace.hub.presence import hub_reachable
from quantspace.hub.reference import ModelRef
from quantspace.settings import settings
from tests.hub import BytesFile, SparseFile

SOON = 5  # seconds: nobody waits longer for an error
numbers = itertools.count()
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def working_hub(hub):
    """Every test leaves a Hub without faults to the next."""
    yield
    hub.faults.clear()


@pytest.fixture
def llama(hub, tiny_checkpoint):
    """The id of a small model on the Hub, of this test's own."""
    config = (tiny_checkpoint("llama-tied") / "config.json").read_bytes()
    model_id = f"client/llama-{next(numbers)}"
    hub.add_repo(model_id, {"config.json": config, "README.md": "words"})
    return model_id


def refused_soon(error_class, ask):
    """The error that `ask` ends with, of exactly this class, with message and hint, and in time."""
    started = time.monotonic()
    with pytest.raises(ModelUnavailable if error_class is not ModelUnsupported else ModelUnsupported) as caught:
        ask()
    assert time.monotonic() - started < SOON
    assert type(caught.value) is error_class
    assert caught.value.message
    assert caught.value.hint.endswith(".")
    return caught.value


class TestAnswers:
    def test_facts_are_of_the_commit_that_the_revision_stands_for(self, hub, llama):
        first = hub.repos[llama].head.sha
        second = hub.commit(llama, {"more.txt": "more"})
        hub.tag(llama, "v1", first)

        facts = repo_facts(ModelRef(llama))
        assert (facts.sha, set(facts.files)) == (second, {"README.md", "config.json", "more.txt"})
        assert facts.files["more.txt"] == 4
        assert repo_facts(ModelRef(llama, "v1")).sha == first
        assert repo_facts(ModelRef(llama, first)).files.keys() == {"README.md", "config.json"}

    def test_config_is_of_that_commit_though_the_branch_moved_on(self, hub, llama):
        facts = repo_facts(ModelRef(llama))
        hub.commit(llama, {"config.json": '{"model_type": "gpt2"}'})
        assert fetch_config(facts)["model_type"] == "llama"
        assert fetch_config(repo_facts(ModelRef(llama)))["model_type"] == "gpt2"

    def test_config_that_begins_with_a_byte_order_mark_is_read(self, hub):
        hub.add_repo("client/bom", {"config.json": b'\xef\xbb\xbf{"model_type": "llama"}'})
        assert fetch_config(repo_facts(ModelRef("client/bom"))) == {"model_type": "llama"}

    def test_quantization_that_stands_in_a_file_beside_the_config_is_known(self, hub, tiny_checkpoint):
        config = (tiny_checkpoint("llama-untied") / "config.json").read_bytes()
        beside = {
            "producer": {"name": "modelopt"},
            "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]},
        }
        hub.add_repo("client/modelopt", {"config.json": config, "hf_quant_config.json": json.dumps(beside)})
        inventory = inventory_for(ModelRef("client/modelopt"))
        assert inventory.prequantized == "modelopt"
        packed = [tensor for tensor in inventory.native if tensor.fixed_dtype == "float8_e4m3fn"]
        assert len(packed) == 3 * 7  # three layers of seven linear ones; the head is left out

    def test_model_that_is_not_bundled_is_estimated_from_the_hub(self, hub, llama):
        inventory = inventory_for(ModelRef(llama))
        assert (inventory.model_id, inventory.architecture) == (llama, "LlamaForCausalLM")
        assert inventory.sha == hub.repos[llama].head.sha
        assert "config.json on the Hub" in inventory.source
        assert inventory.exact

    def test_new_commit_is_a_new_inventory_once_the_hub_is_asked_again(self, hub, llama):
        before = inventory_for(ModelRef(llama))
        config = json.loads(hub.repos[llama].head.files["config.json"].data)
        hub.commit(llama, {"config.json": json.dumps({**config, "num_hidden_layers": 1})})
        builder.public_facts.cache_clear()
        after = inventory_for(ModelRef(llama))
        assert after.parameters < before.parameters
        assert after.sha != before.sha

    def test_estimate_of_a_hub_model_fetches_its_config_and_no_other_file(self, hub, llama):
        inventory_for(ModelRef(llama))
        assert {r.target.file for r in hub.requests.of(repo=llama).downloads} == {"config.json"}

    def test_hub_is_asked_once_for_what_is_asked_twice_in_a_row(self, hub, llama):
        first = inventory_for(ModelRef(llama))
        asked = len(hub.requests.of(repo=llama))
        assert inventory_for(ModelRef(llama)) is first
        assert len(hub.requests.of(repo=llama)) == asked

    def test_bundled_model_is_estimated_without_asking_the_hub(self, hub):
        inventory = inventory_for(ModelRef("google/gemma-3-4b-it"))
        assert "bundled config.json" in inventory.source
        assert not hub.requests.of(repo="google/gemma-3-4b-it")

    def test_bundled_model_at_another_revision_is_asked_of_the_hub(self, hub, tiny_checkpoint):
        config = (tiny_checkpoint("llama-tied") / "config.json").read_bytes()
        repo = hub.add_repo("google/gemma-3-1b-it", {"config.json": config})
        inventory = inventory_for(ModelRef("google/gemma-3-1b-it", repo.head.sha))
        assert (inventory.architecture, inventory.sha) == ("LlamaForCausalLM", repo.head.sha)

    def test_gated_model_opens_with_the_token_of_somebody_let_in(self, hub, tiny_checkpoint):
        config = (tiny_checkpoint("llama-tied") / "config.json").read_bytes()
        hub.add_repo("client/gated-open", {"config.json": config}, gated="manual")
        hub.add_account("hf_let_in", "ada", accepted={"client/gated-open"})
        assert inventory_for(ModelRef("client/gated-open"), "hf_let_in").architecture == "LlamaForCausalLM"


class TestRefusals:
    def test_missing_model(self):
        error = refused_soon(ModelNotFound, lambda: repo_facts(ModelRef("client/missing")))
        assert "no public model client/missing" in error.message
        assert "spelling" in error.hint

    def test_missing_revision(self, llama):
        error = refused_soon(ModelNotFound, lambda: repo_facts(ModelRef(llama, "v99")))
        assert f"{llama} has no revision “v99”" in error.message
        assert "main" in error.hint

    def test_gated_model_without_a_token(self, hub):
        hub.add_repo("client/gated", {"config.json": "{}"}, gated="manual")
        error = refused_soon(NotSignedIn, lambda: inventory_for(ModelRef("client/gated")))
        assert "client/gated is gated" in error.message
        assert f"{hub.url}/client/gated" in error.hint

    def test_private_model_is_told_as_missing(self, hub):
        hub.add_repo("client/private", {"config.json": "{}"}, private=True)
        assert "token" in refused_soon(ModelNotFound, lambda: inventory_for(ModelRef("client/private"))).hint

    def test_token_that_the_hub_does_not_know(self, llama):
        error = refused_soon(TokenRefused, lambda: inventory_for(ModelRef(llama), "hf_expired"))
        assert "refuses the token" in error.message
        assert "hf_expired" not in str(error)

    @pytest.mark.parametrize(
        ("fault", "kind", "message", "hint"),
        [
            ({"status": 429, "retry_after": 60}, RateLimited, "limits requests", "Wait 60 s"),
            ({"status": 500}, HubDown, "with 500", "Try again"),
            ({"status": 503}, HubDown, "with 503", "Try again"),
            ({"close": True}, HubUnreachable, "can't be reached", "Check the network"),
            ({"truncate_after": 10}, BodyBrokeOff, "broke off", "Check the network"),
        ],
        ids=["429", "500", "503", "closed", "truncated"],
    )
    @pytest.mark.parametrize("where", [{"on": "info"}, {"file": "config.json"}], ids=["facts", "config"])
    def test_hub_in_trouble(self, hub, llama, where, fault, kind, message, hint):
        hub.fail(llama, **where, **fault)
        error = refused_soon(kind, lambda: inventory_for(ModelRef(llama)))
        assert message in error.message
        assert hint in error.hint

        hub.faults.clear()
        assert inventory_for(ModelRef(llama)).architecture == "LlamaForCausalLM"

    @pytest.mark.parametrize("body", [b"<html>sign in</html>", b"[]", b'{"id": 1, "siblings": 3}'])
    def test_proxy_that_answers_in_place_of_the_hub(self, hub, llama, body):
        hub.fail(llama, on="info", status=200, body=body)
        error = refused_soon(GarbledAnswer, lambda: repo_facts(ModelRef(llama)))
        assert "proxy" in error.hint

    def test_hub_that_takes_too_long(self, hub, llama, monkeypatch):
        monkeypatch.setenv("QUANTSPACE_HUB_TIMEOUT", "0.3")
        settings.cache_clear()
        try:
            for where in ({"on": "info"}, {"file": "config.json"}):
                hub.fail(llama, **where, delay=30)
                assert "Timeout" in refused_soon(HubTimedOut, lambda: inventory_for(ModelRef(llama))).message
                hub.faults.clear()
        finally:
            settings.cache_clear()

    @pytest.mark.parametrize(
        ("name", "files", "message"),
        [
            ("none", {"README.md": "words"}, "has no config.json"),
            ("words", {"config.json": "hello"}, "is not a JSON object"),
            ("empty", {"config.json": BytesFile(b"")}, "is not a JSON object"),
            ("list", {"config.json": "[1, 2]"}, "is not a JSON object"),
            ("null", {"config.json": "null"}, "is not a JSON object"),
            ("binary", {"config.json": b"\xff\xfe\x00\x80"}, "is not a JSON object"),
            ("deep", {"config.json": '{"a":' * 100_000 + "1" + "}" * 100_000}, "is not a JSON object"),
            ("large", {"config.json": SparseFile(17 * 2**20)}, "has more than 16.78 MB; no more is read"),
            ("unnamed", {"config.json": "{}"}, "no model type"),
            ("unknown", {"config.json": '{"model_type": "no-such"}'}, "no-such"),
            ("odd", {"config.json": '{"model_type": ["llama"]}'}, "does not build"),
            ("negative", {"config.json": '{"model_type": "llama", "hidden_size": "wide"}'}, "config.json"),
        ],
    )
    def test_config_that_says_nothing_of_a_model(self, hub, name, files, message):
        model_id = f"client/config-{name}"
        hub.add_repo(model_id, files)
        error = refused_soon(ModelUnsupported, lambda: inventory_for(ModelRef(model_id)))
        assert message in error.message
        assert len(error.message) < 400

    def test_config_above_the_limit_is_not_fetched(self, hub):
        hub.add_repo("client/huge", {"config.json": SparseFile(17 * 2**20)})
        refused_soon(ModelUnsupported, lambda: inventory_for(ModelRef("client/huge")))
        assert not hub.requests.of(repo="client/huge").downloads

    def test_broken_model_leaves_the_next_one_alone(self, hub, llama):
        hub.add_repo("client/broken", {"config.json": '{"model_type": "llama", "num_hidden_layers": -1e99}'})
        refused_soon(ModelUnsupported, lambda: inventory_for(ModelRef("client/broken")))
        assert inventory_for(ModelRef(llama)).parameters > 0


class TestPresence:
    @pytest.fixture(autouse=True)
    def not_asked_yet(self, monkeypatch):
        monkeypatch.setattr(presence, "_answer", None)

    def test_hub_is_asked_once_a_minute_without_a_token(self, hub, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_ofTheMachine")
        before = len(hub.requests)
        assert hub_reachable() and hub_reachable()
        (asked,) = hub.requests[before:]
        assert (asked.method, "authorization" in asked.headers) == ("HEAD", False)

    @pytest.mark.parametrize(
        ("fault", "reachable"), [({"status": 503}, True), ({"status": 429}, True), ({"close": True}, False)]
    )
    def test_hub_that_answers_at_all_is_there(self, hub, fault, reachable):
        hub.fail(on="other", **fault)
        assert hub_reachable() is reachable

    def test_hub_that_hangs_is_not_waited_for(self, hub):
        hub.fail(on="other", delay=30)
        started = time.monotonic()
        assert not hub_reachable()
        assert time.monotonic() - started < presence.PROBE_SECONDS + 1


def test_hub_that_is_down_is_told_as_unreachable_in_time():
    with socket.socket() as free:  # bound, never listening: whoever connects is refused
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        program = """
import json, time
from quantspace.errors import QuantSpaceError
from quantspace.estimation.builder import inventory_for
from quantspace.hub.reference import ModelRef
started = time.monotonic()
try:
    inventory_for(ModelRef("org/model-of-nobody"))
except QuantSpaceError as error:
    told = error.as_data()
seconds = time.monotonic() - started
known = inventory_for(ModelRef("google/gemma-3-1b-it")).source
print(json.dumps([told, seconds, known]))
"""
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "HF_ENDPOINT": endpoint, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=50,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told, seconds, known = json.loads(done.stdout)
    assert told["code"] == "hub_unreachable"
    assert f"{endpoint} can't be reached for org/model-of-nobody" in told["message"]
    assert "bundled models can be estimated" in told["hint"]
    assert seconds < SOON
    assert "bundled config.json" in known
