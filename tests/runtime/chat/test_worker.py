"""Jobs of a chat in the worker: one model and one job at a time, errors as events."""

import queue
import threading
from dataclasses import replace
from itertools import pairwise

import pytest

from quantspace.hub.demo import DEMO_ID
from quantspace.runtime import worker
from quantspace.runtime.job import Failed, Loaded, Message, Phase, Stats, Text
from tests.runtime.chat.asking import QUESTION, demo_job
from tests.tiny_models import save_tiny

pytestmark = [
    pytest.mark.xdist_group("chat"),  # one process, so that each model is loaded once
    pytest.mark.usefixtures("one_thread"),
]


class TestWorker:
    @pytest.fixture(autouse=True)
    def empty_worker(self):
        worker.unload()
        yield
        worker.unload()

    def phases(self, job):
        """The names of a job's phases in order, and its last event."""
        events = list(worker.serve(job))
        names = [event.name for event in events if isinstance(event, Phase)]
        return [name for name, following in pairwise([*names, None]) if name != following], events[-1]

    def test_job_without_messages_loads_and_shows_what_is_held(self):
        phases, last = self.phases(demo_job("nf4-dq"))
        assert phases == ["load"]
        assert isinstance(last, Loaded)
        assert (last.readout.model_id, last.readout.precision) == (DEMO_ID, "nf4-dq")

    def test_job_with_messages_is_answered_with_the_model_that_is_there(self):
        self.phases(demo_job("nf4-dq"))
        phases, last = self.phases(demo_job("nf4-dq", QUESTION))
        assert phases == ["generate"]
        assert isinstance(last, Stats)

    def test_job_with_messages_loads_the_model_that_is_not_there(self):
        phases, last = self.phases(demo_job("bf16", QUESTION))
        assert phases == ["load", "generate"]
        assert isinstance(last, Stats)

    def test_another_precision_replaces_the_model(self):
        loads = [self.phases(demo_job(precision))[0] for precision in ("bf16", "nf4-dq", "nf4-dq", "bf16")]
        assert loads == [["load"], ["load"], [], ["load"]]

    def test_another_commit_replaces_the_model(self):
        self.phases(demo_job("bf16"))
        assert self.phases(replace(demo_job("bf16"), sha="other"))[0] == ["load"]

    def test_error_of_a_load_is_an_event_and_the_next_job_is_served(self, tmp_path):
        _, last = self.phases(replace(demo_job("bf16"), folder=str(tmp_path / "missing")))
        assert isinstance(last, Failed)
        assert last.code == "load_failed"
        assert last.hint
        assert isinstance(self.phases(demo_job("bf16"))[1], Loaded)

    def test_error_of_an_answer_is_an_event_and_the_model_stays(self):
        self.phases(demo_job("bf16"))
        _, last = self.phases(demo_job("bf16", [Message("user", "memory " * 5000)]))
        assert isinstance(last, Failed)
        assert last.code == "chat_failed"
        assert self.phases(demo_job("bf16", QUESTION))[0] == ["generate"]

    @pytest.mark.parametrize("architecture", ["llama-tied", "gpt2-conv1d", "gemma3-text"])
    def test_checkpoint_without_a_tokenizer_is_told(self, tmp_path, architecture):
        save_tiny(architecture, tmp_path)
        _, last = self.phases(replace(demo_job("bf16"), folder=str(tmp_path), sha="mute"))
        assert isinstance(last, Failed)
        assert "comes without a tokenizer" in last.message
        assert last.hint

    def test_broken_tokenizer_is_told(self, tmp_path):
        save_tiny("llama-tied", tmp_path)
        (tmp_path / "tokenizer.json").write_text('{"model":')
        _, last = self.phases(replace(demo_job("bf16"), folder=str(tmp_path), sha="broken"))
        assert isinstance(last, Failed)
        assert "tokenizer" in last.message
        assert "can't be read" in last.message

    def test_mistake_of_our_own_is_an_event_too(self, monkeypatch):
        def broken(job, crew):
            raise ZeroDivisionError("division by zero")
            yield

        monkeypatch.setattr(worker, "load", broken)
        assert list(worker.serve(demo_job("bf16"))) == [
            Failed("internal", "Something broke here: ZeroDivisionError: division by zero", "Try again.")
        ]

    def test_closed_job_makes_way_for_the_next(self):
        stream = worker.serve(demo_job("bf16", QUESTION, max_new_tokens=500))
        assert any(isinstance(event, Text) for event in stream)
        stream.close()
        assert self.phases(demo_job("bf16", QUESTION))[0] == ["generate"]

    def test_second_job_at_once_waits_for_its_turn(self):
        first = worker.serve(demo_job("bf16", QUESTION))
        next(first)  # it runs now, and stays where it is until it is read on

        seen = queue.Queue()
        second = threading.Thread(target=lambda: [seen.put(event) for event in worker.serve(demo_job("nf4-dq"))])
        second.start()
        assert seen.get(timeout=10) == Phase("wait")

        assert isinstance(list(first)[-1], Stats)
        second.join(timeout=30)
        later = list(seen.queue)
        assert Phase("wait") not in later[-2:]
        assert isinstance(later[-1], Loaded)
        assert later[-1].readout.precision == "nf4-dq"
