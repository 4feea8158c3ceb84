"""The seam between the app and the GPU: what crosses it pickles, and errors cross it as data.

On ZeroGPU a job runs in a process that `spaces` forks. That is run for real here, on the CPU: see `zero_gpu`.
"""

import pickle
from types import SimpleNamespace

import pytest

from quantspace.estimation.stored import StoredTensor
from quantspace.hub.demo import DEMO_ID, demo_folder
from quantspace.runtime import gpu, worker
from quantspace.runtime.job import Failed, Job, Loaded, Message, Phase, Readout, Sampling, Stats, Text
from quantspace.settings import settings
from tests.runtime.zero_gpu import BEFORE_ANY_JOB, Scheduler, run_on_zero_gpu

STATS = Stats(10, 20, 0.5, 40.0, "eos", 2)
TENSOR = StoredTensor("lm_head.weight", (4, 2), "bfloat16", "uint8 (nf4)", 4, 68, None)
READOUT = Readout(DEMO_ID, "bundled", "nf4", "LlamaForCausalLM", "CPU", 4, 72, (TENSOR,), 0.1, True, 2048)
JOB = Job(DEMO_ID, "bundled", str(demo_folder()), "bf16", 0, 0)
QUESTION = (Message("user", "What is NF4?"),)
BRIEF = Sampling(greedy=True, max_new_tokens=3)


def changed(job, **changes):
    return Job(**{**{name: getattr(job, name) for name in Job.__slots__}, **changes})


@pytest.mark.parametrize(
    "crossing",
    [
        changed(JOB, messages=QUESTION, sampling=BRIEF),
        Phase("load", 3, 9),
        Loaded(READOUT),
        Text("piece", STATS),
        STATS,
        Failed("load_failed", "It broke.", "Try again."),
    ],
    ids=lambda crossing: type(crossing).__name__,
)
def test_what_crosses_the_seam_pickles(crossing):
    assert pickle.loads(pickle.dumps(crossing)) == crossing


@pytest.mark.parametrize("field", ["model_id", "sha", "precision"])
def test_job_of_another_model_commit_or_precision_has_another_key(field):
    assert changed(JOB, **{field: "other"}).key != JOB.key
    assert changed(JOB, messages=QUESTION, folder="/elsewhere").key == JOB.key


@pytest.mark.parametrize(
    ("expected_bytes", "messages", "max_new_tokens", "seconds"),
    [
        (0, (), 256, settings().gpu_seconds_min),
        (10**6, QUESTION, 1, settings().gpu_seconds_min),
        (20 * 10**9, (), 2048, 20),  # a load alone does not pay for tokens
        (20 * 10**9, QUESTION, 200, 30),
        (10**15, QUESTION, 2048, settings().gpu_seconds_max),
    ],
)
def test_seconds_asked_for_follow_the_work_within_what_visitors_have(expected_bytes, messages, max_new_tokens, seconds):
    job = changed(
        JOB, expected_bytes=expected_bytes, messages=messages, sampling=Sampling(max_new_tokens=max_new_tokens)
    )
    assert gpu.seconds_for(job) == seconds
    assert isinstance(gpu.seconds_for(job), int)


class TestWithoutZeroGpu:
    @pytest.fixture(autouse=True)
    def empty_worker(self):
        worker.unload()
        yield
        worker.unload()

    def test_there_is_no_zero_gpu_here(self):
        assert not gpu.on_zero_gpu()

    def test_run_gives_what_the_worker_gives(self):
        job = changed(JOB, messages=QUESTION, sampling=BRIEF)
        list(worker.serve(JOB))
        answers = [[e.piece for e in serve(job) if isinstance(e, Text)] for serve in (gpu.run, worker.serve)]
        assert "".join(answers[0]) == "".join(answers[1])

    def test_error_is_an_event(self):
        *_, last = gpu.run(changed(JOB, folder="/nowhere"))
        assert isinstance(last, Failed)
        assert last.code == "load_failed"

    def test_closing_frees_the_worker(self):
        stream = gpu.run(changed(JOB, messages=QUESTION, sampling=Sampling(max_new_tokens=500)))
        assert any(isinstance(event, Text) for event in stream)
        stream.close()
        assert isinstance(list(gpu.run(JOB))[-1], Loaded)


# Each turn is one call of `gpu.run`; the scheduler hands out a GPU for each.
TURNS = ["load", "chat", "missing files", "chat after an error", "stopped", "chat in a new worker", "no gpu free",
         "worker killed", "chat after a death", "needs the larger gpu"]  # fmt: skip
KEPT_WORKER = {"chat", "missing files", "chat after an error", "stopped"}

_ON_ZERO_GPU = """
from quantspace.runtime.job import Job, Message, Phase, Sampling, Text
question = (Message("user", "What is NF4?"),)
load = Job(sys.argv[1], "bundled", sys.argv[2], "nf4-dq", 0, 0)
chat = replace(load, messages=question, sampling=Sampling(greedy=True, max_new_tokens=8))
long = replace(chat, sampling=Sampling(max_new_tokens=2000))
JOBS = {"load": load, "missing files": replace(load, folder="/nowhere", sha="x"), "stopped": long,
        "worker killed": load, "needs the larger gpu": replace(load, expected_bytes=10**14, sha="y")}

def told(event):
    return [type(event).__name__, {name: str(getattr(event, name)) for name in event.__slots__}]

def take(turn):
    events = []
    for event in (stream := gpu.run(JOBS.get(turn, chat))):
        events.append(told(event))
        if isinstance(event, Text) and turn == "stopped":
            stream.close()
        if isinstance(event, Phase) and turn == "worker killed":
            for process in multiprocessing.active_children():
                process.kill()
    return events

gpu.warm_up()
turns = {turn: take(turn) for turn in sys.argv[3:]}
print("TOLD", json.dumps({"pid": os.getpid(), "zero": gpu.on_zero_gpu(), "turns": turns}))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the app saw of each turn, and what the scheduler was asked."""
    number = {turn: place for place, turn in enumerate(TURNS, 1)}
    scheduler = Scheduler(kept={number[turn] for turn in KEPT_WORKER}, refused={number["no gpu free"]})
    arguments = [DEMO_ID, str(demo_folder()), *TURNS]
    found = run_on_zero_gpu(BEFORE_ANY_JOB + _ON_ZERO_GPU, arguments, tmp_path_factory.mktemp("zero"), scheduler)
    return SimpleNamespace(**found.seen, scheduler=found.scheduler, stderr=found.stderr)


@pytest.mark.xdist_group("zero-gpu")  # one process, so that the turns are taken once
class TestOnZeroGpu:
    def ending(self, told, turn):
        return told.turns[turn][-1]

    def names(self, told, turn):
        """Names of the phases of a turn, each once."""
        return list(dict.fromkeys(event[1]["name"] for event in told.turns[turn] if event[0] == "Phase"))

    def test_app_knows_where_it_is(self, told):
        assert told.zero

    def test_model_is_loaded_and_read_out(self, told):
        assert self.names(told, "load") == ["load"]
        kind, loaded = self.ending(told, "load")
        assert kind == "Loaded"
        assert "precision='nf4-dq'" in loaded["readout"]

    def test_answer_streams_from_the_model_that_the_worker_kept(self, told):
        assert self.names(told, "chat") == ["generate"]
        assert any(kind == "Text" and event["piece"] for kind, event in told.turns["chat"])
        assert self.ending(told, "chat")[0] == "Stats"

    def test_new_worker_loads_the_model_itself(self, told):
        assert self.names(told, "chat in a new worker") == ["load", "generate"]
        assert self.ending(told, "chat in a new worker")[0] == "Stats"

    def test_work_is_done_in_other_processes(self, told):
        pids = [query["pid"] for query in told.scheduler.of("/allow")]
        new_workers = [turn for turn in TURNS if turn not in KEPT_WORKER | {"no gpu free"}]
        assert len(set(pids)) == len(new_workers)
        assert str(told.pid) not in pids

    def test_error_inside_the_worker_is_an_event_and_the_worker_lives(self, told):
        kind, error = self.ending(told, "missing files")
        assert (kind, error["code"]) == ("Failed", "load_failed")
        assert error["hint"]
        assert self.ending(told, "chat after an error")[0] == "Stats"

    def test_stopped_answer_hands_its_gpu_back(self, told):
        released = [query["allowToken"] for query in told.scheduler.of("/release")]
        assert f"turn-{TURNS.index('stopped') + 1}" in released
        assert self.ending(told, "stopped")[0] == "Text"

    def test_no_free_gpu_is_an_event(self, told):
        ((kind, error),) = told.turns["no gpu free"]
        assert (kind, error["code"]) == ("Failed", "gpu_unavailable")
        assert "No GPU was available" in error["message"]
        assert error["hint"]

    def test_death_of_a_worker_is_an_event_and_the_next_one_serves(self, told):
        kind, error = self.ending(told, "worker killed")
        assert (kind, error["code"]) == ("Failed", "gpu_unavailable")
        assert "aborted" in error["message"]
        assert self.ending(told, "chat after a death")[0] == "Stats"

    def test_larger_gpu_is_asked_for_where_the_smaller_will_not_do(self, told):
        sizes = [query["gpuSize"] for query in told.scheduler.of("/schedule")]
        assert sizes == ["large"] * (len(TURNS) - 1) + ["xlarge"]
        assert self.ending(told, "needs the larger gpu")[1]["code"] == "out_of_memory"

    def test_seconds_are_asked_for_within_the_limits(self, told):
        seconds = [int(query["durationSeconds"]) for query in told.scheduler.of("/schedule")]
        assert seconds[0] == settings().gpu_seconds_min
        assert seconds[-1] == settings().gpu_seconds_max
        assert all(settings().gpu_seconds_min <= asked <= settings().gpu_seconds_max for asked in seconds)

    def test_nothing_raises_on_the_way(self, told):
        assert "Traceback" not in told.stderr
