"""Quantized once, loaded often: a copy on disk is the model bit for bit, and for nobody who may not see it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from quantspace.errors import BadInput, DiskFull, KeepFailed
from quantspace.hub.demo import DEMO_ID
from quantspace.runtime import kept, kept_disk, worker
from quantspace.runtime.job import Done, Failed, Job, Loaded, LoadOptions, Message, Phase, Sampling
from quantspace.runtime.kept_rules import check_may_keep, refusal_to_keep
from quantspace.runtime.kept_task import PHASE, KeepTask
from quantspace.runtime.session import chat, load_model, perform
from quantspace.settings import settings

numbers = itertools.count()
IDS = torch.arange(5, 40)[None]
TOKEN = "hf_keeper"


@pytest.fixture(autouse=True)
def copies_of_this_test(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTSPACE_KEPT_FOLDER", str(tmp_path / "kept"))
    settings.cache_clear()
    yield
    worker.unload()
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
def limited(monkeypatch):
    """Bound all copies together."""

    def limit(count):
        monkeypatch.setenv("QUANTSPACE_KEPT_BYTES", str(count))
        settings.cache_clear()

    return limit


@pytest.fixture
def published(hub, tiny_checkpoint):
    def publish(name="llama-untied", **about):
        model_id = f"kept/model-{next(numbers)}"
        hub.add_repo(model_id, folder=tiny_checkpoint(name), **about)
        return model_id

    return publish


def load(model_id, precision="nf4-dq", **options):
    """The job of a load, its readout, and what the model says."""
    worker.unload()
    *events, last = load_model(model_id, precision, **options)
    assert isinstance(last, Loaded), last
    (job,) = [event for event in events if isinstance(event, Job)]
    return job, last.readout


def logits():
    with torch.no_grad():
        return worker._slot.model(IDS).logits


def keep(job):
    *_, last = perform(job, KeepTask.of(job))
    assert isinstance(last, Done), last
    return last.result


class TestReload:
    @pytest.mark.parametrize(
        ("precision", "architecture"),
        [
            ("nf4-dq", "llama-untied"),
            ("nf4", "llama-tied"),
            ("fp4", "qwen2-biases"),
            ("int8", "llama-tied"),
            ("int8-ao", "llama-untied"),
            ("fp8-ao", "llama-tied"),
            ("nf4-dq", "gemma3-vision"),
            ("nf4-dq", "gpt2-conv1d"),
            ("int8", "t5-float32-kept"),
            ("nf4-dq", "mixtral-experts"),
            ("nf4-moe", "mixtral-experts"),
            ("nf4-moe", "gpt-oss-experts"),
        ],
    )
    def test_a_kept_copy_is_the_model_bit_for_bit_and_byte_for_byte(self, published, precision, architecture):
        model_id = published(architecture)
        first, quantized = load(model_id, precision)
        copy = keep(first)
        before = {name: tensor.clone() for name, tensor in worker._slot.model.state_dict().items()}

        job, readout = load(model_id, precision)

        assert job.kept == str(copy.folder)
        assert (readout.footprint_bytes, readout.held_bytes) == (job.expected_footprint, job.expected_bytes)
        assert readout.held_bytes == quantized.held_bytes
        assert _tensors(readout) == _tensors(quantized)
        after = worker._slot.model.state_dict()
        assert after.keys() == before.keys()
        assert all(_same(after[name], before[name]) for name in before)

    @pytest.mark.parametrize("precision", ["nf4", "nf4-dq", "int8"])
    def test_it_says_what_the_quantized_model_says_though_that_has_answered_before(self, published, precision):
        model_id = published()
        first, _ = load(model_id, precision)
        said = logits()  # on some processors this repacks 4-bit weights for good, and rounds their scales
        keep(first)
        job, _ = load(model_id, precision)
        assert job.kept
        assert torch.equal(logits(), said)

    def test_nothing_is_downloaded_for_a_copy(self, hub, published):
        model_id = published()
        keep(load(model_id)[0])
        before = len(hub.requests)
        load(model_id)
        assert {request.target.kind for request in hub.requests[before:]} <= {"info", "auth-check"}

    def test_the_tokenizer_and_its_template_come_along(self):
        first, readout = load(DEMO_ID)
        assert readout.chat_template
        keep(first)
        job, readout = load(DEMO_ID)
        assert job.kept
        assert readout.chat_template
        *_, last = chat(job, (Message("user", "What is NF4?"),), Sampling(greedy=True, max_new_tokens=3))
        assert last.new_tokens == 3

    def test_another_commit_is_quantized_anew(self, hub, published):
        model_id = published()
        keep(load(model_id)[0])
        hub.commit(model_id, {"README.md": "changed"})
        assert not load(model_id)[0].kept

    def test_options_that_change_weights_have_a_copy_of_their_own(self, published):
        model_id = published()
        keep(load(model_id)[0])
        assert not load(model_id, options=LoadOptions(double_quant=False))[0].kept
        assert not load(model_id, options=LoadOptions(skip=("o_proj",)))[0].kept
        assert not load(model_id, "nf4")[0].kept
        assert load(model_id, options=LoadOptions(attention="eager"))[0].kept

    def test_a_copy_with_options_holds_what_was_promised(self, published):
        model_id, options = published(), LoadOptions(compute_dtype="float32", double_quant=False, skip=("o_proj",))
        first, quantized = load(model_id, options=options)
        keep(first)
        job, readout = load(model_id, options=options)
        assert job.kept
        assert readout.held_bytes == job.expected_bytes == quantized.held_bytes

    def test_a_cast_is_kept_where_it_is_smaller_than_what_was_published(self, hub, tiny_checkpoint, tmp_path):
        from transformers import AutoModelForCausalLM

        folder = tmp_path / "fp32"
        AutoModelForCausalLM.from_pretrained(tiny_checkpoint("llama-untied"), dtype="float32").save_pretrained(folder)
        for file in tiny_checkpoint("llama-untied").glob("*token*"):
            (folder / file.name).write_bytes(file.read_bytes())
        hub.add_repo("kept/fp32", folder=folder)
        first, _ = load("kept/fp32", "bf16")
        said = logits()
        copy = keep(first)
        job, readout = load("kept/fp32", "bf16")
        assert job.folder == str(copy.folder)
        assert torch.equal(logits(), said)
        assert readout.held_bytes == job.expected_bytes


def _tensors(readout):
    return {tensor.name: (tensor.storage_dtype, tensor.held_bytes) for tensor in readout.tensors}


def _same(one, other):
    if hasattr(one, "dequantize") and type(one) is not torch.Tensor:  # torchao's subclasses
        return torch.equal(one.dequantize(), other.dequantize())
    return one.dtype == other.dtype and torch.equal(one, other)


class TestRefusals:
    @pytest.mark.parametrize(
        ("precision", "options", "words"),
        [
            ("native", LoadOptions(), "stored so already"),
            ("gguf:model.gguf", LoadOptions(), "stored so already"),
            ("int4-ao", LoadOptions(), "torchao cannot save"),
            ("nf4", LoadOptions(device_map=(("a", "cpu"), ("b", "disk"))), "on one device"),
        ],
    )
    def test_what_cannot_be_kept_is_refused_with_the_reason(self, precision, options, words):
        refusal = refusal_to_keep(precision, options)
        assert words in refusal.message
        assert refusal.hint

    def test_a_cast_to_what_was_published_is_no_gain(self, published):
        job, _ = load(published(), "bf16")
        with pytest.raises(KeepFailed, match="no larger"):
            KeepTask.of(job)

    def test_an_app_that_keeps_none_says_so(self, published, limited):
        job, _ = load(published())
        limited(0)
        with pytest.raises(KeepFailed, match="keeps no copies"):
            KeepTask.of(job)

    def test_what_is_larger_than_all_copies_together_may_be_is_refused(self, published, limited):
        job, _ = load(published())
        limited(1000)
        with pytest.raises(KeepFailed, match=r"may take 1\.00 kB"):
            KeepTask.of(job)

    @pytest.mark.parametrize("closed", [{"gated": "auto"}, {"private": True}])
    def test_on_a_space_only_what_everybody_may_read_is_kept(self, hub, published, closed, monkeypatch):
        model_id = published(**closed)
        hub.add_account(TOKEN, "kept", accepted={model_id})
        job, _ = load(model_id, token=TOKEN)
        monkeypatch.setenv("SPACE_ID", "quantspace/space")
        with pytest.raises(KeepFailed, match="not open to everybody"):
            check_may_keep(job)
        assert check_may_keep(replace(job, model_id=DEMO_ID, sha="bundled")) is True


class TestWhoMaySeeIt:
    def test_a_copy_of_a_private_model_is_there_for_those_alone_who_may_read_it(self, hub, published):
        model_id = published(private=True)
        hub.add_account(TOKEN, "kept")
        hub.add_account("hf_other", "somebody")
        copy = keep(load(model_id, token=TOKEN)[0])
        assert not copy.manifest.public
        assert kept.visible_to(None) == ()
        assert kept.visible_to("hf_other") == ()
        assert [seen.key for seen in kept.visible_to(TOKEN)] == [copy.key]
        for token in (None, "hf_other"):
            *_, last = load_model(model_id, "nf4-dq", token=token)
            assert isinstance(last, Failed)
            assert last.code == "model_not_found"
        assert load(model_id, token=TOKEN)[0].kept

    def test_a_copy_of_a_public_model_is_for_all(self, published):
        copy = keep(load(published())[0])
        assert copy.manifest.public
        assert [seen.key for seen in kept.visible_to(None)] == [copy.key]


class TestDisk:
    def test_the_least_recently_used_copy_goes_first(self, published, limited):
        models = [published() for _ in range(3)]
        copies = []
        for at, model_id in enumerate(models[:2]):
            copies.append(keep(load(model_id)[0]))
            os.utime(copies[-1].folder / kept.MANIFEST, (at, at))
        limited(int(2.5 * copies[0].bytes))
        load(models[0])  # now it was used later than the second
        newest = keep(load(models[2])[0])
        assert [copy.key for copy in kept.copies()] == [newest.key, copies[0].key]
        assert sum(copy.bytes for copy in kept.copies()) <= settings().kept_bytes

    def test_a_copy_says_what_it_is_made_of(self, published):
        model_id = published()
        job, readout = load(model_id)
        copy = keep(job)
        on_disk = {path.name: path.stat().st_size for path in copy.folder.iterdir() if path.name != kept.MANIFEST}
        assert on_disk == copy.manifest.files
        assert copy.manifest.held_bytes == readout.held_bytes
        assert copy.manifest.sha == job.sha
        assert {"torch", "transformers", "bitsandbytes"} <= copy.manifest.versions.keys()
        assert not list(kept.root().glob(".*"))

    def test_progress_is_told_in_megabytes_and_reaches_its_total(self, published):
        job, _ = load(published())
        *steps, done = perform(job, KeepTask.of(job))
        assert isinstance(done, Done)
        phases = [step for step in steps if isinstance(step, Phase) and step.name == PHASE]
        assert phases[-1].done == phases[-1].total > 0

    def test_cancelling_leaves_nothing(self, published):
        job, _ = load(published())
        writing = perform(job, KeepTask.of(job))
        next(writing)
        writing.close()
        deadline = time.monotonic() + 20
        while list(kept.root().glob(".*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not list(kept.root().glob(".*"))
        assert isinstance(list(load_model(DEMO_ID, "bf16"))[-1], Loaded)

    def test_what_a_process_that_died_left_is_no_copy_and_is_removed(self):
        program = (
            "import os; from quantspace.runtime import kept_disk;"
            "(kept_disk.draft_folder() / 'model.safetensors').write_bytes(b'half'); os._exit(1)"
        )
        subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
        assert len(list(kept.root().iterdir())) == 1
        assert kept.copies() == ()
        kept_disk.make_room(1)
        assert list(kept.root().iterdir()) == []

    def test_a_draft_of_a_living_process_stays(self):
        draft = kept_disk.draft_folder()
        kept_disk.make_room(1)
        assert draft.exists()

    @pytest.mark.parametrize("damage", ["shorter", "gone", "manifest"])
    def test_a_damaged_copy_is_not_used(self, published, damage):
        model_id = published()
        copy = keep(load(model_id)[0])
        weights = copy.folder / "model.safetensors"
        if damage == "shorter":
            weights.write_bytes(weights.read_bytes()[:-1])
        elif damage == "gone":
            weights.unlink()
        else:
            (copy.folder / kept.MANIFEST).write_text("{}")
        job, _ = load(model_id)
        assert not job.kept
        again = keep(job)
        assert [one.key for one in kept.copies()] == [again.key] == [copy.key]
        assert load(model_id)[0].kept

    def test_no_room_on_the_disk_is_told_before_anything_is_deleted(self, published):
        copy = keep(load(published())[0])
        with pytest.raises(DiskFull, match="the disk has"):
            kept_disk.make_room(10**18)
        assert [one.key for one in kept.copies()] == [copy.key]

    def test_a_model_goes_on_after_its_copy_was_deleted(self, published):
        model_id = published()
        copy = keep(load(model_id)[0])
        load(model_id)
        kept_disk.delete(copy)
        assert kept.copies() == ()
        assert list(kept.root().iterdir()) == []
        assert logits().shape[-1]
        kept_disk.delete(copy)  # somebody else was faster

    @pytest.mark.parametrize("key", ["", ".", "..", "../kept", "a/b", ".draft-1", "missing", "a" * 500])
    def test_no_other_folder_can_be_named(self, key):
        with pytest.raises(BadInput, match="not here"):
            kept.named(key)


def test_what_was_measured_is_laid_beside_the_copy(published):
    from quantspace.runtime.quality.figures import Interval, Quality

    fields = {"tokens": 100, "windows": 2, "window": 64, "read_tokens": 100, "text_tokens": 100, "seconds": 1.0}
    quality = Quality(**fields, perplexity=Interval(9.0, 8.5, 9.5))
    job, _ = load(published())
    kept.remember_quality(job, quality)  # there is no copy yet: nothing happens
    copy = keep(job)
    assert kept.quality_of(copy) is None
    kept.remember_quality(job, quality)
    assert kept.quality_of(copy) == quality
    assert json.loads((copy.folder / kept.QUALITY).read_text())["perplexity"]["value"] == 9.0
    assert kept.QUALITY not in kept.named(copy.key).manifest.files
