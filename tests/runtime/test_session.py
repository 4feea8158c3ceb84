"""From what a person typed to a loaded model: resolve, download, load, chat; errors come as events."""

import itertools
import json
from dataclasses import replace
from itertools import pairwise

import pytest

from quantspace.estimation.builder import inventory_for
from quantspace.estimation.weights import weight_bytes
from quantspace.hub.demo import DEMO_ID, demo_folder
from quantspace.hub.reference import ModelRef
from quantspace.precision import PRECISIONS
from quantspace.runtime import gpu, worker
from quantspace.runtime.job import Failed, Job, Loaded, Message, Phase, Sampling, Stats, Text
from quantspace.runtime.session import chat, load_model
from tests.hub import SparseFile

numbers = itertools.count()
QUESTION = (Message("user", "What is NF4?"),)
BRIEF = Sampling(greedy=True, max_new_tokens=3)


@pytest.fixture(autouse=True)
def clean_slate(hub):
    yield
    hub.faults.clear()
    worker.unload()


@pytest.fixture
def published(hub, tiny_checkpoint):
    """Put a tiny checkpoint on the Hub, changed as told; gives its id."""

    def publish(name="llama-tied", files=None, without=(), **about):
        model_id = f"session/model-{next(numbers)}"
        repo = hub.add_repo(model_id, folder=tiny_checkpoint(name), **about)
        if files or without:
            hub.commit(repo.id, files or {}, delete=tuple(without))
        return model_id

    return publish


def phases(events):
    names = [event.name for event in events if isinstance(event, Phase)]
    return [name for name, following in pairwise([*names, None]) if name != following]


def failed(*arguments, **options):
    """The error with which a load ends."""
    *before, last = load_model(*arguments, **options)
    assert isinstance(last, Failed)
    assert not any(isinstance(event, (Failed, Loaded)) for event in before)
    assert last.message
    assert last.hint
    return last


def loads(model_id, precision="bf16"):
    return isinstance(list(load_model(model_id, precision))[-1], Loaded)


class TestLoad:
    @pytest.mark.parametrize("precision", ["bf16", "int8", "nf4-dq"])
    def test_model_of_the_hub_is_resolved_fetched_and_loaded(self, hub, published, precision):
        model_id = published()
        events = list(load_model(model_id, precision))

        assert phases(events) == ["resolve", "download", "load"]
        (job,) = [event for event in events if isinstance(event, Job)]
        assert (job.model_id, job.precision) == (model_id, precision)
        assert job.sha == hub.repos[model_id].head.sha
        readout = events[-1].readout
        assert (readout.model_id, readout.sha, readout.precision) == (model_id, job.sha, precision)
        assert readout.architecture == "LlamaForCausalLM"
        assert (readout.footprint_bytes, readout.held_bytes) == (job.expected_footprint, job.expected_bytes)

    def test_progress_reaches_its_totals(self, hub, published):
        model_id = published()
        events = list(load_model(model_id, "bf16"))
        for name in ("download", "load"):
            steps = [event for event in events if isinstance(event, Phase) and event.name == name]
            assert steps[-1].done == steps[-1].total > 0
            assert [step.done for step in steps] == sorted(step.done for step in steps)

    def test_job_comes_before_the_load_and_holds_the_estimate(self, published):
        model_id = published()
        events = list(load_model(model_id, "nf4"))
        at = next(i for i, event in enumerate(events) if isinstance(event, Job))
        assert "load" not in phases(events[:at])
        expected = weight_bytes(inventory_for(ModelRef(model_id)), PRECISIONS["nf4"])
        assert (events[at].expected_footprint, events[at].expected_bytes) == (expected.footprint, expected.held)

    def test_demo_needs_no_hub(self, hub):
        before = len(hub.requests)
        events = list(load_model(DEMO_ID, "bf16"))
        assert phases(events) == ["resolve", "load"]
        assert isinstance(events[-1], Loaded)
        assert len(hub.requests) == before

    def test_link_of_a_revision_loads_that_revision(self, hub, published):
        model_id = published()
        first = hub.repos[model_id].head.sha
        hub.commit(model_id, {"config.json": "broken since"})
        (*_, last) = load_model(f"{hub.url}/{model_id}/tree/{first}", "bf16")
        assert last.readout.sha == first

    def test_gated_model_loads_with_the_token_of_somebody_let_in(self, hub, published):
        model_id = published(gated="auto")
        hub.add_account("hf_session", "grace", accepted={model_id})
        assert isinstance(list(load_model(model_id, "bf16", token="hf_session"))[-1], Loaded)

    def test_closing_leaves_the_worker_free(self, published):
        model_id = published()
        stream = load_model(model_id, "nf4-dq")
        assert any(isinstance(event, Phase) and event.name == "load" for event in stream)
        stream.close()
        assert phases(load_model(model_id, "bf16")) == ["resolve", "download", "load"]


class TestChat:
    @pytest.fixture
    def job(self, hub):
        """Of a model on the Hub that can talk."""
        model_id = f"session/model-{next(numbers)}"
        hub.add_repo(model_id, folder=demo_folder())
        return next(event for event in load_model(model_id, "bf16") if isinstance(event, Job))

    def test_job_of_a_load_is_answered_by_the_model_that_is_there(self, job):
        (*_, loaded) = gpu.run(job)
        assert loaded.readout.chat_template
        events = list(chat(job, QUESTION, BRIEF))
        assert phases(events) == ["generate"]
        assert isinstance(events[-1], Stats)
        assert any(isinstance(event, Text) for event in events)

    def test_model_that_has_gone_is_loaded_again(self, job):
        worker.unload()
        assert phases(chat(job, QUESTION, BRIEF)) == ["load", "generate"]


class TestErrors:
    @pytest.mark.parametrize(
        ("model", "precision", "code", "message"),
        [
            ("", "bf16", "bad_model_id", "No model was named"),
            ("../../etc/passwd", "bf16", "bad_model_id", "not a model id"),
            (DEMO_ID, "int3", "bad_input", "“int3” is not a precision"),
            (DEMO_ID, "", "bad_input", "“” is not a precision"),
            (DEMO_ID, "NF4", "bad_input", "“NF4” is not a precision"),
            ("session/missing", "bf16", "model_not_found", "no public model session/missing"),
            ("google/gemma-3-4b-it", "nf4", "model_not_found", "no public model google/gemma-3-4b-it"),
        ],
    )
    def test_what_cannot_be_found_is_an_event(self, model, precision, code, message):
        error = failed(model, precision)
        assert error.code == code
        assert message in error.message

    def test_unknown_precision_names_those_there_are(self):
        assert "nf4-dq" in failed(DEMO_ID, "x" * 10_000).hint
        assert len(failed(DEMO_ID, "x" * 10_000).message) < 100

    def test_missing_revision(self, published):
        assert failed(published(), "bf16", revision="v99").code == "model_not_found"

    def test_gated_model(self, published):
        assert failed(published(gated="manual"), "bf16").code == "not_signed_in"

    def test_checkpoint_that_is_stored_quantized_is_refused_before_its_weights_are_fetched(
        self, hub, published, tiny_checkpoint
    ):
        config = json.loads((tiny_checkpoint("llama-tied") / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "awq", "bits": 4}
        model_id = published(files={"config.json": json.dumps(config)})

        error = failed(model_id, "nf4")

        assert error.code == "load_failed"
        assert "stored quantized already (awq)" in error.message
        assert "original weights" in error.hint
        assert "model.safetensors" not in {r.target.file for r in hub.requests.of(repo=model_id).downloads}

    def test_folder_that_is_stored_quantized_is_refused_by_the_loader_too(self, tiny_checkpoint, tmp_path):
        config = json.loads((tiny_checkpoint("llama-tied") / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (last,) = [e for e in worker.serve(Job("x/y", "sha", str(tmp_path), "nf4", 0, 0)) if isinstance(e, Failed)]
        assert "stored quantized already (gptq)" in last.message

    def test_pickled_weights_are_refused(self, published):
        model_id = published(files={"pytorch_model.bin": b"\x80\x04."}, without=["model.safetensors"])
        error = failed(model_id, "bf16")
        assert error.code == "load_failed"
        assert "safetensors" in error.message

    def test_storage_that_fails_while_weights_are_fetched(self, hub, published):
        model_id = published()
        hub.fail(model_id, on="cdn", status=503)
        assert failed(model_id, "bf16").code == "hub_down"
        hub.faults.clear()
        assert loads(model_id)

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("model.safetensors", b"not safetensors at all"),
            ("model.safetensors", SparseFile.safetensors({"lm_head.weight": ("BF16", (3, 3))})),
            ("tokenizer.json", b"{}"),
        ],
        ids=["broken weights", "weights of another model", "broken tokenizer"],
    )
    def test_broken_files_are_told_and_the_next_model_loads(self, published, file, content):
        error = failed(published(files={file: content}), "bf16")
        assert error.code == "load_failed"
        assert "session/" in error.message and error.hint
        assert loads(DEMO_ID)

    def test_what_does_not_fit_into_memory_is_refused_and_the_next_job_served(self, published):
        job = next(event for event in load_model(published(), "bf16") if isinstance(event, Job))
        *_, last = gpu.run(replace(job, expected_bytes=10**15))
        assert isinstance(last, Failed)
        assert last.code == "out_of_memory"
        assert "holds 1,000,000 GB" in last.message
        assert "smaller precision or model" in last.hint
        assert isinstance(list(gpu.run(job))[-1], Loaded)
