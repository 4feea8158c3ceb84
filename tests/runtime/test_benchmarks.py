"""Benchmarks through the real harness, on the real demo model, with a task of this machine's own."""

import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from quantspace.errors import BadInput, MeasurementFailed
from quantspace.hub.demo import DEMO_ID
from quantspace.runtime import benchmarks, session, worker
from quantspace.runtime.benchmarks import BenchmarkTask
from quantspace.runtime.job import Done, Job, Phase
from quantspace.settings import Settings

needs_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is an extra")
HERE = Settings()
QUESTIONS = (
    ("NF4 is a format of", ["4 bits", "banana trees"], 0),
    ("A byte has", ["seven legs", "8 bits"], 1),
    ("bfloat16 takes", ["2 bytes", "a holiday"], 0),
    ("The KV cache grows with the", ["moon", "context"], 1),
)


@pytest.fixture
def own_task(tmp_path, monkeypatch):
    """A multiple choice of four questions, as the harness takes it."""
    data = tmp_path / "questions.json"
    data.write_text(json.dumps([{"question": q, "choices": c, "answer": a} for q, c, a in QUESTIONS]))
    (tmp_path / "own_facts.yaml").write_text(f"""
task: own_facts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
""")
    here = replace(HERE, benchmark_folder=str(tmp_path), benchmark_tasks="own_facts")
    monkeypatch.setattr(benchmarks, "settings", lambda: here)


@pytest.fixture
def demo_job():
    yield next(event for event in session.load_model(DEMO_ID, "bf16") if isinstance(event, Job))
    worker.unload()


def by_hand(loaded):
    """Share of the questions whose right choice the model finds likelier, from its logits."""
    right = 0
    for question, choices, answer in QUESTIONS:
        begun = loaded.tokenizer(question, add_special_tokens=False)["input_ids"]
        likely = []
        for choice in choices:
            ids = loaded.tokenizer(f"{question} {choice}", add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                logits = loaded.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
            likely.append(sum(float(logits[at - 1, ids[at]]) for at in range(len(begun), len(ids))))
        right += likely.index(max(likely)) == answer
    return right / len(QUESTIONS)


@needs_harness
def test_the_harness_finds_what_the_logits_say(own_task, demo_job):
    *events, done = session.perform(demo_job, BenchmarkTask.of("own_facts", 10))
    assert isinstance(done, Done), done
    assert done.result.value == by_hand(worker._slot)
    assert done.result.questions == len(QUESTIONS)
    assert all(isinstance(event, Phase) for event in events)
    assert worker._slot.model is not None


@needs_harness
def test_a_limit_is_kept_and_a_cancel_frees_the_model(own_task, demo_job):
    *_, done = session.perform(demo_job, BenchmarkTask.of("own_facts", 2))
    assert done.result.questions == 2
    events = session.perform(demo_job, BenchmarkTask.of("own_facts", 4))
    next(events)
    events.close()
    *_, done = session.perform(demo_job, BenchmarkTask.of("own_facts", 2))
    assert done.result.questions == 2


@needs_harness
def test_data_that_cannot_be_had_are_told(demo_job):
    *_, failed = session.perform(demo_job, BenchmarkTask.of("gsm8k", 1))
    assert failed.code == "measurement_failed" and failed.message.startswith("GSM8K ended with ")


@needs_harness
@pytest.mark.parametrize(("task", "limit"), [("everything", 10), ("gsm8k", 0), ("gsm8k", "many"), ("gsm8k", 10**9)])
def test_what_is_not_offered_gets_a_sentence(task, limit):
    with pytest.raises(BadInput):
        BenchmarkTask.of(task, limit)


def test_code_of_a_model_is_never_run_where_anybody_may_visit(monkeypatch):
    assert "humaneval" in benchmarks.offered()
    monkeypatch.setenv("SPACE_ID", "somebody/quantspace")
    assert "humaneval" not in benchmarks.offered()


def test_without_the_harness_the_command_that_adds_it_is_named(monkeypatch):
    monkeypatch.setattr(benchmarks, "installed", lambda package: False)
    with pytest.raises(MeasurementFailed, match="pip install lm-eval"):
        BenchmarkTask.of("gsm8k", 10)
