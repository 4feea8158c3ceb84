"""A chat through an engine elsewhere: a real `transformers serve`, with the demo model, on another port."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from quantspace.hub.demo import DEMO_ID, demo_folder
from quantspace.runtime import remote, session
from quantspace.runtime.job import Failed, Message, Sampling, Stats, Text
from quantspace.runtime.remote import Engine, RemoteModel
from quantspace.settings import Settings
from tests.app_server import NOWHERE, free_port

START_SECONDS = 120
GREEDY = Sampling(max_new_tokens=12, greedy=True)
QUESTION = [Message("user", "What is NF4?")]

pytestmark = pytest.mark.xdist_group("served")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of `transformers serve`."""
    port, log = free_port(), tmp_path_factory.mktemp("served") / "log.txt"
    command = [Path(sys.executable).parent / "transformers", "serve", str(demo_folder()), "--device", "cpu"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)], env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=output, stderr=output
        )
        try:
            _wait(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            process.wait()


def _wait(url, process, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(url, timeout=2).raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.3)
    raise RuntimeError(log.read_text()[-3000:])


def target(url, model=None):
    return RemoteModel(Engine("Cluster", url), model or str(demo_folder()))


def told(events):
    return "".join(event.piece for event in events if isinstance(event, Text))


def test_the_engine_says_what_the_same_model_says_here(served):
    there = list(session.chat(target(served), QUESTION, GREEDY))
    here = list(session.ask(DEMO_ID, "bf16", QUESTION, GREEDY))
    assert told(there) and told(there).strip() == told(here).strip()


def test_its_tokens_are_counted_and_an_answer_that_is_cut_says_so(served):
    *_, stats = session.chat(target(served), QUESTION, GREEDY)
    assert isinstance(stats, Stats)
    assert (stats.new_tokens, stats.ended, stats.device) == (12, "length", "Cluster")
    assert stats.first_token_s > 0 and stats.tokens_per_s > 0


def test_an_answer_comes_in_pieces_and_can_be_stopped(served):
    events = session.chat(target(served), QUESTION, Sampling(max_new_tokens=200, greedy=True))
    for event in events:
        if isinstance(event, Text) and event.piece:
            break
    events.close()
    *_, stats = session.chat(target(served), QUESTION, GREEDY)  # the engine is free again
    assert stats.new_tokens == 12


def test_what_the_engine_refuses_is_told_in_its_words(served):
    *_, failed = session.chat(target(served, "acme/not-there"), QUESTION, GREEDY)
    assert isinstance(failed, Failed)
    assert failed.message.startswith("Cluster refused with HTTP ") and failed.hint


def test_an_engine_that_is_not_there_is_named():
    *_, failed = session.chat(target(f"{NOWHERE}/v1"), QUESTION, GREEDY)
    assert failed.code == "engine_unreachable"
    assert failed.message.startswith("Cluster can't be reached")


def test_settings_name_engines_and_the_models_that_they_serve(monkeypatch):
    text = "Lab = http://lab:8000/v1/ org/model; Cluster=https://cluster/v1"
    monkeypatch.setattr(remote, "settings", lambda: Settings(engines=text))
    assert remote.engines() == (
        Engine("Lab", "http://lab:8000/v1", "org/model"),
        Engine("Cluster", "https://cluster/v1"),
    )
    assert remote.served_models(remote.engines()[0]) == ("org/model",)


def test_a_broken_entry_is_shown_to_who_starts_the_app(monkeypatch):
    monkeypatch.setattr(remote, "settings", lambda: Settings(engines="ftp://somewhere"))
    with pytest.raises(ValueError, match="name = https://host/v1"):
        remote.engines()


def test_no_token_of_this_machine_goes_to_an_engine():
    """Who would run the app while signed in to Hugging Face must not tell that to every engine."""
    heard = _heard(HF_TOKEN="hf_thisMachinesOwn")
    assert heard == "Bearer none"


def _heard(**environment):
    """The authorization that an engine is sent by a process with these variables."""
    script = """
import http.server, threading
from quantspace.runtime.remote import Engine, RemoteModel, answer
from quantspace.runtime.job import Message, Sampling
class Ear(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.headers['Authorization'], flush=True)
        self.send_error(503)
    def log_message(self, *_): pass
server = http.server.HTTPServer(('127.0.0.1', 0), Ear)
threading.Thread(target=server.serve_forever, daemon=True).start()
try:
    target = RemoteModel(Engine('E', f'http://127.0.0.1:{server.server_port}/v1'), 'm')
    list(answer(target, [Message('user', 'x')], Sampling()))
except Exception:
    pass
"""
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[0]


def test_images_go_along_as_data(tmp_path):
    picture = tmp_path / "dot.png"
    picture.write_bytes(b"\x89PNG")
    (sent,) = remote._request(target("http://x/v1"), [Message("user", "What is it?", (str(picture),))], GREEDY)[
        "messages"
    ]
    image, text = sent["content"]
    assert image["image_url"]["url"] == "data:image/png;base64,iVBORw=="
    assert text == {"type": "text", "text": "What is it?"}


def test_sampling_is_passed_on():
    request = remote._request(
        target("http://x/v1"), QUESTION, replace(GREEDY, greedy=False, temperature=0.5, top_p=0.9)
    )
    assert (request["temperature"], request["top_p"], request["max_tokens"]) == (0.5, 0.9, 12)
