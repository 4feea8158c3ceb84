"""The seam between the app and the GPU: what crosses it pickles, and errors cross it as data.

On ZeroGPU a job runs in a process that `spaces` forks. That is run for real here, on the CPU: a local server stands
for ZeroGPU's scheduler, and only the three steps that need a driver are left out (`ZERO_GPU`, below).
"""

import json
import os
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest

from quantspace.estimation.stored import StoredTensor
from quantspace.hub.demo import DEMO_ID, demo_folder
from quantspace.runtime import gpu, worker
from quantspace.runtime.job import Failed, Job, Loaded, Message, Phase, Readout, Sampling, Stats, Text
from quantspace.settings import settings

ROOT = Path(__file__).parents[2]
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


class Scheduler(ThreadingHTTPServer):
    """ZeroGPU's side: hands out one GPU, and keeps a list of what it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), SchedulerRequest)
        self.asked = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def of(self, path):
        return [query for asked, query in self.asked if asked == path]


class SchedulerRequest(BaseHTTPRequestHandler):
    def do_POST(self):
        link = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(link.query).items()}
        self.server.asked.append((link.path, query))
        taken = len(self.server.of("/schedule"))
        status = 503 if link.path == "/schedule" and taken == TURNS.index("no gpu free") + 1 else 200
        body = json.dumps({
            "idle": TURNS[min(taken, len(TURNS)) - 1] in KEPT_WORKER,
            "nvidiaIndex": 0,
            "nvidiaUUID": "GPU-0",
            "allowToken": f"turn-{taken}",
        }).encode()  # fmt: skip
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


# Each turn is one call of `gpu.run`; the scheduler hands out a GPU for each.
TURNS = ["load", "chat", "missing files", "chat after an error", "stopped", "chat in a new worker", "no gpu free",
         "worker killed", "chat after a death", "needs the larger gpu"]  # fmt: skip
KEPT_WORKER = {"chat", "missing files", "chat after an error", "stopped"}

ZERO_GPU = """
import json, multiprocessing, os, sys
import torch
torch.version.cuda = "12.8"  # `spaces` reads these on import; a CPU build of torch lacks them
torch._C._cuda_init = lambda: None
torch.cuda._is_in_bad_fork = bool  # asked in another process, so it has to pickle
from dataclasses import replace
from quantspace.runtime import gpu
import spaces.zero.torch
torch.version.cuda = None
spaces.zero.torch.init = lambda uuid: None  # would open the CUDA driver
spaces.zero.torch.move = lambda callback=None: None

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
    cgroup = tmp_path_factory.mktemp("zero") / "cgroup"
    cgroup.write_text("0::/\n")
    scheduler = Scheduler()
    thread = threading.Thread(target=scheduler.serve_forever, daemon=True)
    thread.start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", ZERO_GPU, DEMO_ID, str(demo_folder()), *TURNS],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "SPACES_ZERO_GPU": "true",
                "SPACES_ZERO_DEVICE_API_URL": scheduler.url,
                "ZEROGPU_PROC_SELF_CGROUP_PATH": str(cgroup),
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    finally:
        scheduler.shutdown()
        scheduler.server_close()
    lines = [line for line in done.stdout.splitlines() if line.startswith("TOLD ")]
    assert lines, done.stderr[-4000:]
    return SimpleNamespace(**json.loads(lines[0].removeprefix("TOLD ")), scheduler=scheduler, stderr=done.stderr)


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
