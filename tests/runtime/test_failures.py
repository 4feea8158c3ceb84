"""What can break a load, provoked for real: it is told in a sentence, all is given back, and the next load works."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from quantspace.hub.demo import DEMO_ID
from quantspace.runtime import worker
from quantspace.runtime.job import Done, Failed, Job, Loaded, Message, Sampling, Stats
from quantspace.runtime.session import chat, load_model
from tests.hub import SparseFile

ROOT = Path(__file__).parents[2]
MB = 10**6
BRIEF = Sampling(greedy=True, max_new_tokens=3)
QUESTION = (Message("user", "What is NF4?"),)
numbers = itertools.count()


@pytest.fixture(autouse=True)
def clean_slate(hub):
    yield
    hub.faults.clear()
    worker.unload()


@pytest.fixture
def published(hub, tiny_checkpoint):
    """A tiny checkpoint on the Hub, changed as told; gives its id."""

    def publish(files=None, without=()):
        model_id = f"failures/model-{next(numbers)}"
        repo = hub.add_repo(model_id, folder=tiny_checkpoint("llama-tied"))
        hub.commit(repo.id, files or {}, delete=tuple(without))
        return model_id

    return publish


def sparse(folder, **sizes):
    """A checkpoint that takes no disk, its weights zero."""
    from tests.bench.sparse_checkpoint import write_sparse
    from tests.tiny_models import TEXT

    write_sparse({"model_type": "llama", "architectures": ["LlamaForCausalLM"], **TEXT, **sizes}, folder)
    return folder


@pytest.fixture(scope="module")
def large_checkpoint(tmp_path_factory):
    """A checkpoint of 150 MB."""
    return sparse(tmp_path_factory.mktemp("large"), vocab_size=300_000, hidden_size=128, max_position_embeddings=256)


@pytest.fixture(scope="module")
def wide_checkpoint(tmp_path_factory):
    """A checkpoint whose activations take 100 MB for a prompt of 3,000 tokens."""
    return sparse(tmp_path_factory.mktemp("wide"), intermediate_size=8192, max_position_embeddings=8192)


def run(program, *arguments, small_disk="", **environment):
    """What a program of `failure_programs` prints; `small_disk` is the folder of a file system of its own."""
    command = [sys.executable, "-m", "tests.runtime.failure_programs", program, *map(str, arguments)]
    if small_disk:
        mount = f'mount -t tmpfs -o size={environment.pop("disk_bytes")} none "{small_disk}" && exec "$@"'
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *command]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"} | environment
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def can_mount():
    probe = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return shutil.which("unshare") and subprocess.run(probe, check=False, capture_output=True).returncode == 0


needs_a_disk_to_fill = pytest.mark.skipif(not can_mount(), reason="no file system may be mounted here")


def failed(model_id, precision="bf16"):
    *_, last = load_model(model_id, precision)
    assert isinstance(last, Failed), last
    assert last.message and last.hint
    assert "Traceback" not in last.message
    return last


def next_load_works():
    assert isinstance(list(load_model(DEMO_ID, "bf16"))[-1], Loaded)


class TestMemory:
    @pytest.mark.skipif(sys.platform != "linux", reason="the address space is limited as Linux does it")
    def test_memory_that_runs_out_while_loading(self, large_checkpoint):
        result = run("memory_for_a_load", large_checkpoint)
        assert result["code"] == "out_of_memory", result
        assert "Memory ran out" in result["message"]
        assert "smaller precision or model" in result["hint"]
        assert result["kept"] < 30 * MB
        assert result["next"] == "Loaded"

    @pytest.mark.skipif(sys.platform != "linux", reason="the address space is limited as Linux does it")
    def test_memory_that_runs_out_while_answering(self, wide_checkpoint):
        result = run("memory_for_an_answer", wide_checkpoint)
        assert result["code"] == "out_of_memory", result
        assert "Clear the chat" in result["hint"]
        assert result["kept"] < 30 * MB
        assert result["next"] == "Stats"


class TestDisk:
    @needs_a_disk_to_fill
    def test_a_disk_that_fills_during_a_download(self, hub, tmp_path):
        model_id = f"failures/model-{next(numbers)}"
        weights = SparseFile.safetensors({"weight": ("BF16", (20_000, 1000))})
        hub.add_repo(model_id, {"config.json": '{"model_type": "llama"}', "model.safetensors": weights})
        hub.fail(model_id, file="model.safetensors", bytes_per_second=20 * MB)
        result = run("disk_for_a_download", model_id, small_disk=tmp_path, disk_bytes="64m", HF_HOME=str(tmp_path))
        assert result["code"] == "disk_full", result
        assert "disk ran full" in result["message"]
        assert result["kept"] < 1 * MB
        assert result["next"] == "whole"

    @needs_a_disk_to_fill
    def test_a_disk_that_fills_while_a_copy_is_written(self, large_checkpoint, tmp_path):
        where = {"QUANTSPACE_KEPT_FOLDER": f"{tmp_path}/kept", "HF_HUB_OFFLINE": "1"}
        result = run("disk_for_a_copy", large_checkpoint, small_disk=tmp_path, disk_bytes="400m", **where)
        assert result["code"] == "disk_full", result
        assert "has been deleted" in result["message"]
        assert result["kept"] < 1 * MB
        assert (result["next"], result["copies"]) == (Done.__name__, 1)


class TestFiles:
    def _weights(self, tiny_checkpoint):
        return (tiny_checkpoint("llama-tied") / "model.safetensors").read_bytes()

    @pytest.mark.parametrize("damage", ["truncated", "length", "header", "offsets", "tensor missing"])
    def test_a_corrupt_shard(self, published, tiny_checkpoint, damage):
        weights = self._weights(tiny_checkpoint)
        (length,) = struct.unpack("<Q", weights[:8])
        header = json.loads(weights[8 : 8 + length])
        if damage == "truncated":
            broken = weights[: len(weights) // 2]
        elif damage == "length":
            broken = struct.pack("<Q", 2**60) + weights[8:]
        elif damage == "header":
            broken = weights[:12] + bytes([weights[12] ^ 0xFF]) + weights[13:]
        else:
            name = next(name for name in header if name.endswith("q_proj.weight"))
            if damage == "offsets":
                header[name]["data_offsets"][1] += 2
            else:
                header[f"{name}.elsewhere"] = header.pop(name)
            text = json.dumps(header).encode()
            broken = struct.pack("<Q", len(text)) + text + weights[8 + length :]
        error = failed(published({"model.safetensors": broken}))
        assert error.code in ("load_failed", "model_unsupported")
        next_load_works()

    def test_bytes_that_broke_on_this_disk_are_fetched_again(self, published):
        model_id = published()
        *events, _ = load_model(model_id, "bf16")
        (job,) = [event for event in events if isinstance(event, Job)]
        worker.unload()
        weights = (Path(job.folder) / "model.safetensors").resolve()
        whole = weights.read_bytes()
        weights.write_bytes(whole[:12] + b"\xff" + whole[13:])

        error = failed(model_id)
        assert "broken on this disk" in error.message
        assert "Load it again" in error.hint
        assert not weights.exists()

        assert isinstance(list(load_model(model_id, "bf16"))[-1], Loaded)
        assert weights.read_bytes() == whole

    def test_a_missing_tokenizer(self, published):
        error = failed(published(without=["tokenizer.json", "tokenizer_config.json"]))
        assert error.code == "load_failed"
        assert "tokenizer" in error.message
        next_load_works()

    @pytest.mark.parametrize(
        ("template", "words"),
        [
            ("{{ raise_exception('Roles must alternate.') }}", "Roles must alternate."),
            ("{{ messages[7].content }}", "no element 7"),
            ("{% for message in messages %}{{ message.content }}", "endfor"),
        ],
    )
    def test_a_template_that_raises(self, published, tiny_checkpoint, template, words):
        told = json.loads((tiny_checkpoint("llama-tied") / "tokenizer_config.json").read_text())
        config = json.dumps(told | {"chat_template": template})
        model_id = published({"tokenizer_config.json": config}, without=["chat_template.jinja"])
        *events, last = load_model(model_id, "bf16")
        assert isinstance(last, Loaded), last
        (job,) = [event for event in events if isinstance(event, Job)]
        *_, last = chat(job, QUESTION, BRIEF)
        assert isinstance(last, Failed), last
        assert words in last.message
        assert last.hint
        next_load_works()
        job = next(event for event in load_model(DEMO_ID, "bf16") if isinstance(event, Job))
        assert isinstance(list(chat(job, QUESTION, BRIEF))[-1], Stats)
