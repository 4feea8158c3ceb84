"""GGUF files, really loaded: unpacked by transformers, and as they are where llama-cpp-python is installed."""

from importlib.util import find_spec

import pytest

from quantspace.estimation.gguf import engine
from quantspace.hub.demo import DEMO_ID
from quantspace.runtime import gguf_job, session, worker
from quantspace.runtime.job import Failed, Job, Loaded, Message, Sampling, Stats, Text
from tests.gguf_demo import demo_gguf

REPO = "acme/demo-GGUF"
GREEDY = Sampling(max_new_tokens=40, greedy=True)
QUESTION = [Message("user", "What is NF4?")]

needs_llama = pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is an extra")
runners = pytest.mark.parametrize(
    "runner", ["transformers", pytest.param("llama.cpp", marks=needs_llama)]
)  # fmt: skip


@pytest.fixture(scope="module")
def published(hub, tmp_path_factory):
    """A repository with the demo model in three files."""
    folder = tmp_path_factory.mktemp("gguf")
    files = {path.name: path for path in (demo_gguf(folder, kind) for kind in ("F16", "Q8_0", "Q4_0"))}
    hub.add_repo(REPO, {name: path.read_bytes() for name, path in files.items()})
    yield files
    worker.unload()


def load(monkeypatch, runner, kind):
    monkeypatch.setattr(gguf_job, "runner", lambda: runner)
    events = list(session.load_model(REPO, f"gguf:demo-{kind}.gguf"))
    job = next(event for event in events if isinstance(event, Job))
    loaded = events[-1]
    assert isinstance(loaded, Loaded), loaded
    return job, loaded.readout


def answer(job):
    return "".join(event.piece for event in session.chat(job, QUESTION, GREEDY) if isinstance(event, Text)).strip()


@runners
@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_what_was_estimated_is_what_it_holds(published, monkeypatch, runner, kind):
    job, readout = load(monkeypatch, runner, kind)
    assert readout.held_bytes == job.expected_bytes
    assert readout.footprint_bytes == job.expected_footprint
    assert sum(tensor.held_bytes for tensor in readout.tensors) == readout.held_bytes


@runners
def test_it_answers_as_the_original_does(published, monkeypatch, runner):
    job, _ = load(monkeypatch, runner, "F16")
    here = session.ask(DEMO_ID, "bf16", QUESTION, GREEDY)
    assert answer(job) == "".join(event.piece for event in here if isinstance(event, Text)).strip()


@needs_llama
def test_llama_cpp_holds_the_file_and_transformers_its_sixteen_bits(published, monkeypatch):
    _, packed = load(monkeypatch, "llama.cpp", "Q4_0")
    _, unpacked = load(monkeypatch, "transformers", "Q4_0")
    assert packed.held_bytes < published["demo-Q4_0.gguf"].stat().st_size < unpacked.held_bytes / 3


@needs_llama
def test_llama_cpp_stops_at_the_asked_number_of_tokens_and_when_it_is_told_to(published, monkeypatch):
    job, _ = load(monkeypatch, "llama.cpp", "Q8_0")
    *_, stats = session.chat(job, QUESTION, Sampling(max_new_tokens=5, greedy=True))
    assert isinstance(stats, Stats) and (stats.new_tokens, stats.ended) == (5, "length")
    assert stats.prompt_tokens > 0 and stats.tokens_per_s > 0
    events = session.chat(job, QUESTION, Sampling(max_new_tokens=2000, greedy=True))
    next(event for event in events if isinstance(event, Text) and event.piece)
    events.close()
    assert answer(job)


def test_a_file_that_is_not_there_is_told(published):
    *_, failed = session.load_model(REPO, "gguf:other.gguf")
    assert isinstance(failed, Failed) and failed.message == "acme/demo-GGUF has no file “other.gguf”."


def test_where_nothing_runs_it_the_package_is_named_before_anything_is_fetched(published, monkeypatch, hub):
    monkeypatch.setattr(gguf_job, "runner", lambda: "")
    *events, failed = session.load_model(REPO, "gguf:demo-F16.gguf")
    assert isinstance(failed, Failed) and engine.INSTALL in failed.hint
    assert not any(event.name == "download" for event in events)
