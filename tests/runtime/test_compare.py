"""One prompt to several precisions: the reference first, a row each, failures among them, nothing left behind."""

import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from quantspace.errors import BadInput, BadModelId, MeasurementFailed, ModelNotFound
from quantspace.hub.demo import DEMO_ID, demo_folder
from quantspace.runtime import worker
from quantspace.runtime.compare import Comparison, Question, compare
from quantspace.runtime.compare_task import AnswerAndMeasure
from quantspace.runtime.job import Message, Sampling
from quantspace.runtime.quality.task import MeasureQuality
from quantspace.runtime.quality.text import bundled_text
from tests.runtime.zero_gpu import BEFORE_ANY_JOB, Scheduler, run_on_zero_gpu

pytestmark = [pytest.mark.xdist_group("compare"), pytest.mark.usefixtures("one_thread")]

numbers = itertools.count()
LESSONS = bundled_text(DEMO_ID)
BRIEF = Sampling(greedy=True, max_new_tokens=6)


@pytest.fixture(scope="module", autouse=True)
def nothing_stays_loaded():
    yield
    worker.unload()


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Outputs of the reference go below this test's folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "quantspace-compare"


@pytest.fixture
def published(hub):
    """Put the demo model on the Hub under an id of its own, its config changed as told."""

    def publish(**changes):
        model_id = f"compare/model-{next(numbers)}"
        repo = hub.add_repo(model_id, folder=demo_folder())
        if changes:
            config = json.loads((demo_folder() / "config.json").read_text()) | changes
            hub.commit(repo.id, {"config.json": json.dumps(config)})
        return model_id

    return publish


def question(*precisions, model=DEMO_ID, text=LESSONS, **changes):
    return Question(model, precisions, "What is NF4?", text, **{"text_tokens": 600, "sampling": BRIEF, **changes})


def compared(*precisions, **changes) -> Comparison:
    *_, last = compare(question(*precisions, **changes))
    assert last.phase is None and last.comparison.ended
    return last.comparison


class TestRows:
    def test_each_precision_answers_and_is_measured(self):
        before = time.time()
        found = compared("nf4-dq", "bf16")

        assert [(row.precision, row.state, row.reference) for row in found.rows] == [
            ("bf16", "done", True),
            ("nf4-dq", "done", False),
        ]
        bf16, nf4 = found.rows
        assert before <= found.ended <= time.time()
        assert nf4.readout.held_bytes < bf16.readout.held_bytes
        assert "NF4" in bf16.answer and "NF4" in nf4.answer
        for row in found.rows:
            assert row.stats.new_tokens == 6
            assert row.stats.tokens_per_s > 0 and row.stats.first_token_s > 0
            assert row.readout.seconds > 0
            assert row.quality.tokens == 598
        assert (bf16.quality.divergence, bf16.quality.ratio, bf16.quality.agreement) == (None, None, None)
        assert nf4.quality.divergence.low > 0
        assert nf4.quality.agreement.high < 1

    def test_the_reference_goes_first_whether_it_was_asked_for_or_not(self):
        assert [row.precision for row in compared("nf4", "int8", text=None).rows] == ["bf16", "int8", "nf4"]

    def test_float32_may_be_the_reference(self):
        found = compared("bf16", reference="fp32")
        assert [row.precision for row in found.rows] == ["fp32", "bf16"]
        assert found.reference.precision == "fp32"
        assert 0 < found.rows[1].quality.divergence.value < 0.01

    def test_without_a_reference_perplexity_alone_is_told(self):
        found = compared("nf4", "int8", reference="none")
        assert found.reference is None
        assert [row.precision for row in found.rows] == ["int8", "nf4"]
        for row in found.rows:
            assert row.quality.perplexity.value > 1
            assert row.quality.divergence is None

    @pytest.mark.parametrize(("dtype", "precision"), [("float32", "fp32"), ("float16", "fp16"), ("bfloat16", "bf16")])
    def test_the_reference_is_in_the_dtype_that_the_checkpoint_was_published_in(self, published, dtype, precision):
        found = compared("nf4", model=published(dtype=dtype), text=None)
        assert [row.precision for row in found.rows] == [precision, "nf4"]

    def test_answers_alone_may_be_compared(self):
        found = compared("bf16", "nf4-dq", text=None)
        assert all(row.answer and row.quality is None and row.state == "done" for row in found.rows)

    def test_all_rows_are_of_the_commit_that_the_first_was_of(self, hub, published):
        model_id = published()
        first = hub.repos[model_id].head.sha
        steps = compare(question("bf16", "nf4", model=model_id, text=None))
        for step in steps:
            if step.comparison.rows and step.comparison.rows[0].state == "done":
                hub.commit(model_id, {"config.json": "broken since"})
                break
        *_, last = steps
        assert last.comparison.sha == first
        assert {row.readout.sha for row in last.comparison.rows} == {first}


class TestFailures:
    def test_a_precision_that_fails_is_a_row_with_its_sentence_and_the_others_go_on(self):
        found = compared("native", "nf4-dq")
        states = {row.precision: row.state for row in found.rows}
        assert states == {"bf16": "done", "nf4-dq": "done", "native": "failed"}
        failed = next(row for row in found.rows if row.state == "failed")
        assert failed.error.message and failed.error.hint is not None
        assert failed.readout is None

    def test_where_the_reference_fails_the_others_are_measured_without_one(self, published):
        """Its load is refused: the float32 copy of it that is asked for has no room."""
        found = compared_without_room("fp32", "nf4", model=published())
        reference, nf4 = found.rows
        assert reference.state == "failed" and reference.error.code == "out_of_memory"
        assert nf4.state == "done" and nf4.quality.perplexity.value > 1 and nf4.quality.divergence is None

    def test_an_answer_that_fails_leaves_the_quality(self, published, hub):
        model_id = published()
        hub.commit(model_id, {"chat_template.jinja": "{{ raise_exception('I take no part in comparisons') }}"})
        for row in compared("bf16", "nf4", model=model_id).rows:
            assert row.state == "failed"
            assert "I take no part in comparisons" in row.error.message
            assert row.quality.perplexity.value > 1

    def test_a_model_that_cannot_be_had_ends_it_at_once(self):
        with pytest.raises(ModelNotFound):
            list(compare(question("bf16", "nf4", model="compare/missing")))
        with pytest.raises(BadModelId):
            list(compare(question("bf16", "nf4", model="../../etc/passwd", reference="none")))

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"precisions": ("bf16", "int3")}, "“int3” is not a precision"),
            ({"precisions": ("q4_k_m",)}, "Q4_K_M"),
            ({"prompt": "  "}, "no prompt"),
            ({"prompt": "x" * 400_001}, "400,001 characters"),
            ({"text_tokens": 10}, "10 tokens is not measured"),
            ({"text_tokens": 10**6}, "1,000,000 tokens is not measured"),
        ],
        ids=str,
    )
    def test_what_cannot_be_compared_is_refused(self, changes, words):
        with pytest.raises(BadInput, match=words):
            replace(question("bf16"), **changes)

    @pytest.mark.parametrize("precisions", [(), ("bf16",)])
    def test_one_precision_is_nothing_to_compare(self, precisions):
        with pytest.raises(BadInput, match="Choose at least two"):
            list(compare(question(*precisions)))


def test_a_disk_that_takes_no_files_is_told(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with pytest.raises(MeasurementFailed, match="no room for temporary files"):
        list(compare(question("bf16", "nf4")))


def compared_without_room(*precisions, model):
    """A comparison in which the first of the rows has grown past this machine's memory between estimate and load."""
    from quantspace.runtime import session

    prepare = session.prepare

    def grown(model, precision, *rest):
        job = yield from prepare(model, precision, *rest)
        return replace(job, expected_bytes=10**15) if precision == precisions[0] else job

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "prepare", grown)
        return compared(*precisions[1:], model=model, reference=precisions[0])


class TestProgressAndCancel:
    def test_every_step_tells_the_precision_and_the_phase(self):
        told = [(step.precision, step.phase.name) for step in compare(question("bf16", "nf4")) if step.phase]
        for precision in ("bf16", "nf4"):
            names = [name for at, name in told if at == precision]
            assert {"load", "generate", "Measuring quality, in tokens"} <= set(names)

    def test_the_answer_grows_while_it_is_made(self):
        told = [step.comparison.rows[0].answer for step in compare(question("bf16", "nf4", text=None)) if step.phase
                and step.comparison.rows]  # fmt: skip
        assert told[0] == ""
        assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(told))

    def test_outputs_are_on_the_disk_while_they_are_needed_and_gone_after(self, own_folder):
        kept = set()
        for step in compare(question("bf16", "nf4")):
            if step.precision == "nf4":
                kept |= {file.stat().st_size for file in own_folder.rglob("*.bin")}
        assert kept == {598 * 2048 * 2}  # tokens, vocabulary, bytes of bfloat16
        assert list(own_folder.iterdir()) == []

    @pytest.mark.parametrize("at", ["load", "generate", "Measuring quality, in tokens"])
    def test_closing_leaves_no_files_and_a_free_worker(self, own_folder, at):
        worker.unload()
        steps = compare(question("bf16", "nf4"))
        assert any(step.phase.name == at for step in steps)
        steps.close()
        assert not own_folder.exists() or list(own_folder.iterdir()) == []
        assert compared("bf16", "nf4", text=None).rows[1].state == "done"

    def test_outputs_that_a_killed_process_left_are_removed_the_next_time(self, own_folder):

        for name, age in (("old", 7 * 3600), ("young", 60)):
            (own_folder / name).mkdir(parents=True)
            os.utime(own_folder / name, (time.time() - age,) * 2)
        compared("bf16", "nf4", text=None)
        assert [folder.name for folder in own_folder.iterdir()] == ["young"]
        shutil.rmtree(own_folder)


# What the stand-in for a driver would be in the way of: the class is read before.
_BEFORE = "from quantspace.estimation.builder import demo_inventory; demo_inventory()"
_ON_ZERO_GPU = """
from quantspace.runtime.compare import Question, compare
from quantspace.runtime.job import Sampling
from quantspace.runtime.quality.text import bundled_text
gpu.warm_up()
asked = Question("quantspace/demo", ("bf16", "nf4"), "What is NF4?", bundled_text("quantspace/demo"), 600,
                 sampling=Sampling(greedy=True, max_new_tokens=4))
*_, last = compare(asked)
print("TOLD", json.dumps([gpu.on_zero_gpu(), *({
    "precision": row.precision, "state": row.state, "answer": row.answer,
    "divergence": row.quality and row.quality.divergence and row.quality.divergence.value,
} for row in last.comparison.rows)]))
"""


def test_on_zero_gpu_each_precision_is_one_job_in_a_worker(tmp_path):
    told = run_on_zero_gpu(_BEFORE + BEFORE_ANY_JOB + _ON_ZERO_GPU, [], tmp_path, Scheduler(kept={2}))
    zero, bf16, nf4 = told.seen
    assert zero
    assert (bf16["state"], nf4["state"]) == ("done", "done"), told.stderr[-4000:]
    assert bf16["answer"] and nf4["answer"]
    assert nf4["divergence"] > 0
    assert len(told.scheduler.of("/schedule")) == 2


class TestSeam:
    def test_the_task_pickles(self):
        task = AnswerAndMeasure((Message("user", "Hi"),), BRIEF, MeasureQuality("text", 9))
        assert pickle.loads(pickle.dumps(task)) == task

    def test_more_work_asks_for_more_seconds(self):
        short = AnswerAndMeasure((), BRIEF)
        assert short.seconds() < replace(short, quality=MeasureQuality("text", 64)).seconds()
        assert short.seconds() < replace(short, sampling=replace(BRIEF, max_new_tokens=100)).seconds()

    def test_the_page_needs_no_torch_for_it(self):
        script = "import sys, quantspace.runtime.compare, quantspace.share.report; assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
