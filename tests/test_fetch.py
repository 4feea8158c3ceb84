"""Small parts of files over a network that does what networks do, and from servers that mean no good."""

import gzip
import itertools
import socket
import struct
import threading
import time
from contextlib import contextmanager

import pytest

from quantspace.errors import (
    BodyBrokeOff,
    GarbledAnswer,
    HubDown,
    HubTimedOut,
    HubUnreachable,
    ModelNotFound,
    ModelUnsupported,
    RateLimited,
    RedirectLoop,
)
from quantspace.hub.client import RepoFacts, check_access, repo_facts, whoami
from quantspace.hub.fetch import Fetched, fetch_file, fetch_range
from quantspace.hub.reference import ModelRef
from quantspace.hub.transport import MAX_JSON_BYTES, MOST_REDIRECTS
from quantspace.settings import settings
from tests.hub import SparseFile

SHORT = 0.4  # seconds that a question may take here
LATE = 2.5  # seconds until its refusal is there at the latest: this machine may be busy
WEIGHTS = bytes(range(256)) * 400
TEXT = b'{"a": "' + b"x" * 5000 + b'"}'
SIZE = 2**36  # of a sparse file
numbers = itertools.count()


@pytest.fixture(autouse=True)
def working_hub(hub):
    yield
    hub.faults.clear()


@pytest.fixture
def facts(hub):
    """Of a repository of this test's own."""
    model_id = f"fetch/model-{next(numbers)}"
    files = {"config.json": TEXT, "model.safetensors": WEIGHTS, "huge.gguf": SparseFile(SIZE, {SIZE - 4: b"tail"})}
    hub.add_repo(model_id, files)
    return repo_facts(ModelRef(model_id))


def refusal(kind, ask, within=LATE):
    """The error that `ask` ends with: of exactly this class, with a next step, in time, with nothing behind it."""
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        ask()
    assert time.monotonic() - started < within
    assert type(caught.value) is kind
    assert caught.value.message.endswith(".") and caught.value.hint.endswith(".")
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    return caught.value


@contextmanager
def server(speak):
    """A server that treats each connection as `speak` does; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()

        def serve():
            while not over.is_set():
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=converse, args=(connection,), daemon=True).start()

        def converse(connection):
            with connection:
                try:
                    connection.recv(65536)
                    speak(connection, over)
                except OSError:
                    pass  # the client has left

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/file"
        finally:
            over.set()


def lead_to(hub, facts, address, file="model.safetensors"):
    hub.fail(facts.ref.id, on="resolve", file=file, status=302, headers={"Location": address})


class TestParts:
    def test_part_of_a_file_is_that_part_and_no_byte_more_is_sent(self, hub, facts):
        cost = Fetched()
        assert fetch_range(facts, "model.safetensors", 300, 1000, cost=cost) == WEIGHTS[300:1300]
        assert (cost.bytes, cost.requests) == (1000, 1)
        assert hub.requests.of(repo=facts.ref.id).downloads.sent == 1000

    def test_end_of_a_file_of_64_gib_is_read_alone(self, hub, facts):
        assert fetch_range(facts, "huge.gguf", SIZE - 4, 100) == b"tail"
        assert hub.requests.of(repo=facts.ref.id).downloads.sent == 4

    def test_part_that_reaches_past_the_end_is_what_there_is(self, facts):
        assert fetch_range(facts, "model.safetensors", len(WEIGHTS) - 3, 10) == WEIGHTS[-3:]

    def test_no_bytes_are_no_request(self, hub, facts):
        assert fetch_range(facts, "model.safetensors", 5, 0) == b""
        assert not hub.requests.of(repo=facts.ref.id).downloads

    @pytest.mark.parametrize("start", [len(WEIGHTS), 2**63, -1])
    def test_part_outside_the_file_is_refused_without_asking(self, hub, facts, start):
        error = refusal(ModelUnsupported, lambda: fetch_range(facts, "model.safetensors", start, 8))
        assert f"Byte {start} of model.safetensors" in error.message
        assert not hub.requests.of(repo=facts.ref.id).downloads

    def test_part_past_the_end_of_a_file_of_unknown_size_is_refused_by_the_storage(self, facts):
        unknown = RepoFacts(facts.ref, facts.sha, {})
        error = refusal(ModelUnsupported, lambda: fetch_range(unknown, "model.safetensors", 10**9, 8))
        assert "ends before" in error.message

    @pytest.mark.parametrize(
        "path", ["../../etc/passwd", "/etc/passwd", "a//b", "./a", "a/../../b", "a\\b", "a\nb", ""]
    )
    def test_path_that_leaves_the_repository_is_not_asked_for(self, hub, facts, path):
        asked = len(hub.requests)
        refusal(ModelNotFound, lambda: fetch_file(facts, path, 100))
        refusal(ModelNotFound, lambda: fetch_range(facts, path, 0, 100))
        assert len(hub.requests) == asked

    def test_such_paths_are_no_files_of_a_model_though_the_hub_lists_them(self, hub, facts):
        listed = '[{"rfilename": "../../x", "size": 1}, {"rfilename": 7}, 3, {"rfilename": "a.gguf", "size": -1}]'
        body = f'{{"sha": "{facts.sha}", "siblings": {listed}}}'
        hub.fail(facts.ref.id, on="info", body=body.encode())
        assert repo_facts(facts.ref).files == {"a.gguf": 0}

    def test_threads_may_share_one_account_of_the_cost(self, facts):
        cost = Fetched()
        asking = [
            threading.Thread(target=fetch_range, args=(facts, "huge.gguf", at * 10, 10, None, cost)) for at in range(16)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert (cost.bytes, cost.requests) == (160, 16)


class TestWholeFiles:
    def test_small_file_is_read_whole(self, facts):
        assert fetch_file(facts, "config.json", len(TEXT)) == TEXT

    def test_file_above_the_limit_is_refused_without_asking(self, hub, facts):
        error = refusal(ModelUnsupported, lambda: fetch_file(facts, "huge.gguf", 1000))
        assert "has more than" in error.message
        assert not hub.requests.of(repo=facts.ref.id).downloads

    def test_file_that_turns_out_larger_than_was_told_is_refused_after_the_limit(self, facts):
        told_small = RepoFacts(facts.ref, facts.sha, {"huge.gguf": 10})
        assert "has more than" in refusal(ModelUnsupported, lambda: fetch_file(told_small, "huge.gguf", 1000)).message

    def test_file_that_never_ends_is_refused_after_the_limit(self, hub, facts):
        hub.fail(facts.ref.id, file="config.json", endless=True)
        refusal(ModelUnsupported, lambda: fetch_file(facts, "config.json", 10**6))


def part(facts, seconds=SHORT):
    return fetch_range(facts, "model.safetensors", 100, 50_000, seconds=seconds)


def whole(facts, seconds=SHORT):
    return fetch_file(facts, "config.json", 10**6, seconds=seconds)


class TestHostileAnswers:
    @pytest.mark.parametrize("fetch", [part, whole], ids=["part", "whole"])
    @pytest.mark.parametrize(
        ("kind", "fault", "words"),
        [
            (HubTimedOut, {"delay": 30}, "within 0.4 s"),
            (HubTimedOut, {"bytes_per_second": 400}, "within 0.4 s"),
            (BodyBrokeOff, {"truncate_after": 10}, "broke off"),
            (HubUnreachable, {"close": True}, "can't be reached"),
            (HubDown, {"status": 500}, "with 500"),
            (HubDown, {"status": 503}, "with 503"),
            (RateLimited, {"status": 429, "retry_after": 17}, "limits requests"),
            (GarbledAnswer, {"status": 204}, "does not speak as the Hub does"),
            (GarbledAnswer, {"status": 302, "headers": {"Location": "file:///etc/passwd"}}, "no file of the Hub"),
            (
                HubUnreachable,
                {"status": 302, "headers": {"Location": "http://127.0.0.1:99999999/"}},
                "can't be reached",
            ),
            (GarbledAnswer, {"status": 304}, "does not speak as the Hub does"),
            (ModelNotFound, {"status": 404}, "no public model"),
            (HubDown, {"status": 502, "body": b"<html>" + b"x" * 10**6}, "with 502"),
        ],
    )
    def test_each_trouble_has_its_own_error_in_time(self, hub, facts, fetch, kind, fault, words):
        hub.fail(facts.ref.id, file="*", **fault)
        assert words in refusal(kind, lambda: fetch(facts)).message
        hub.faults.clear()
        assert fetch(facts, 20)  # the next one is served

    def test_wait_that_the_hub_asks_for_is_told(self, hub, facts):
        hub.fail(facts.ref.id, status=429, retry_after=17)
        assert "Wait 17 s" in refusal(RateLimited, lambda: part(facts)).hint

    @pytest.mark.parametrize("value", ["-1", "1e99", "99999999999999999999", "soon", "Wed, 21 Oct 2026 07:28:00 GMT"])
    def test_wait_that_is_no_number_is_a_minute(self, hub, facts, value):
        hub.fail(facts.ref.id, status=429, headers={"Retry-After": value})
        assert "Wait a minute" in refusal(RateLimited, lambda: part(facts)).hint

    @pytest.mark.parametrize("fetch", [part, whole], ids=["part", "whole"])
    def test_redirects_that_lead_in_a_circle_end_after_a_few(self, hub, facts, fetch):
        hub.fail(facts.ref.id, file="*", status=302, headers={"Location": f"/{facts.ref.id}/resolve/main/config.json"})
        before = len(hub.requests)
        assert "from one address to the next" in refusal(RedirectLoop, lambda: fetch(facts, 5)).message
        assert len(hub.requests) - before == MOST_REDIRECTS + 1

    def test_redirects_that_are_slow_each_are_late_together(self, hub, facts):
        address = f"/{facts.ref.id}/resolve/main/config.json"
        hub.fail(facts.ref.id, file="*", status=302, delay=SHORT / 3, headers={"Location": address})
        refusal(HubTimedOut, lambda: part(facts))

    @pytest.mark.parametrize("fetch", [part, whole], ids=["part", "whole"])
    def test_body_that_comes_compressed_all_the_same_is_refused(self, hub, facts, fetch):
        packed = gzip.compress(b"\0" * 10**7)  # 10 kB that would be 10 MB
        hub.fail(
            facts.ref.id, file="config.json", on="resolve-cache", body=packed, headers={"Content-Encoding": "gzip"}
        )
        hub.fail(facts.ref.id, on="cdn", headers={"Content-Encoding": "gzip"})
        assert "compressed" in refusal(GarbledAnswer, lambda: fetch(facts, 5)).message

    @pytest.mark.parametrize(
        "told",
        ["bytes 0-49999/102400", "bytes 100-200/102400", "bytes 100-999999/1000000", "bytes 100-50/102400", "bytes */9",
         "items 100-50099/102400", "bytes 100-50099", "bytes -1--1/-1", "x", "bytes 100-9999999999999999999999/*", ""],
    )  # fmt: skip
    def test_part_that_is_not_the_one_asked_for_is_refused(self, hub, facts, told):
        hub.fail(facts.ref.id, on="cdn", headers={"Content-Range": told})
        assert "another part" in refusal(GarbledAnswer, lambda: part(facts, 5)).message

    def test_whole_file_in_place_of_a_part_is_refused_unless_the_part_is_its_beginning(self, hub, facts):
        hub.fail(facts.ref.id, on="resolve", file="model.safetensors", status=200, body=WEIGHTS)
        assert "whole files" in refusal(GarbledAnswer, lambda: part(facts, 5)).message
        assert fetch_range(facts, "model.safetensors", 0, 100) == WEIGHTS[:100]

    def test_part_that_never_ends_is_cut_and_refused(self, hub, facts):
        hub.fail(facts.ref.id, on="cdn", endless=True)
        refusal(GarbledAnswer, lambda: part(facts, 5))

    def test_headers_that_come_a_byte_at_a_time_end_at_the_deadline(self, hub, facts):
        def drip(connection, over):
            for sign in itertools.cycle(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10**4):
                if over.wait(0.05):
                    return
                connection.sendall(bytes([sign]))

        with server(drip) as address:
            lead_to(hub, facts, address)
            refusal(HubTimedOut, lambda: part(facts))

    def test_chunks_that_never_finish_end_at_the_deadline(self, hub, facts):
        def drip(connection, over):
            connection.sendall(b"HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not over.wait(0.05):
                connection.sendall(b"0")  # digits of a chunk's size

        with server(drip) as address:
            lead_to(hub, facts, address)
            refusal(HubTimedOut, lambda: part(facts))

    def test_body_that_drips_ends_at_the_deadline_though_each_byte_is_in_time(self, hub, facts):
        def drip(connection, over):
            connection.sendall(
                b"HTTP/1.1 206 Partial Content\r\nContent-Length: 50000\r\n"
                b"Content-Range: bytes 100-50099/102400\r\n\r\n"
            )
            while not over.wait(0.02):
                connection.sendall(b"0")

        with server(drip) as address:
            lead_to(hub, facts, address)
            refusal(HubTimedOut, lambda: part(facts))

    @pytest.mark.parametrize(
        ("said", "kind"),
        [
            (b"", HubUnreachable),
            (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 50000\r\n\r\nabc", BodyBrokeOff),
            (b"HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", BodyBrokeOff),
        ],
        ids=["before", "in a body", "in a chunk"],
    )
    def test_connection_that_is_reset(self, hub, facts, said, kind):
        def reset(connection, over):
            connection.sendall(said)
            time.sleep(0.05)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        with server(reset) as address:
            lead_to(hub, facts, address)
            refusal(kind, lambda: part(facts, 5))

    @pytest.mark.parametrize(
        "said",
        [
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"\0" * 1000,
            b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 10**6,
            b"HTTP/9.9 abc\r\n\r\n",
        ],
        ids=["ssh", "zeros", "endless header", "status"],
    )
    def test_what_answers_is_no_web_server(self, hub, facts, said):
        with server(lambda connection, over: connection.sendall(said)) as address:
            lead_to(hub, facts, address)
            refusal(HubUnreachable, lambda: part(facts, 5))


class TestHostileFacts:
    def test_endless_answer_about_a_model_is_cut_at_the_limit(self, hub, facts):
        rule = hub.fail(facts.ref.id, on="info", endless=True)
        assert "goes on and on" in refusal(GarbledAnswer, lambda: repo_facts(facts.ref), within=6).message
        assert rule.hits == 1
        (asked,) = hub.requests.of("info", repo=facts.ref.id)[-1:]
        assert asked.sent < 2 * MAX_JSON_BYTES

    def test_100_mb_about_a_model_are_not_read(self, hub, facts):
        hub.fail(facts.ref.id, on="info", body=b'{"sha": "' + b"x" * 100_000_000 + b'"}')
        refusal(GarbledAnswer, lambda: repo_facts(facts.ref), within=6)

    @pytest.mark.parametrize("ask", [repo_facts, lambda ref: check_access(RepoFacts(ref, "main", {}))])
    def test_answer_that_comes_too_slowly_is_late(self, hub, facts, ask, monkeypatch):
        monkeypatch.setenv("QUANTSPACE_HUB_TIMEOUT", str(SHORT))
        settings.cache_clear()
        try:
            hub.fail(facts.ref.id, bytes_per_second=4)
            hub.fail(facts.ref.id, on="auth-check", delay=30)
            refusal(HubTimedOut, lambda: ask(facts.ref))
        finally:
            monkeypatch.undo()
            settings.cache_clear()

    @pytest.mark.parametrize(
        "body",
        [b"", b"null", b"3", b"[]", b'"sha"', b"{}", b"<html>sign in</html>", b'{"sha": 3}', b'{"sha": "../../x"}',
         b'{"sha": "' + b"a" * 40 + b'", "siblings": 3}', b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b"\xff\xfe\x00",
         b'{"sha": ' + b"9" * 5000 + b"}"],
        ids=lambda body: repr(body[:24]),
    )  # fmt: skip
    def test_what_answers_is_not_the_hub(self, hub, facts, body):
        hub.fail(facts.ref.id, on="info", status=200, body=body)
        assert "proxy" in refusal(GarbledAnswer, lambda: repo_facts(facts.ref)).hint

    def test_odd_fields_are_left_out_and_stand_in_nobodys_way(self, hub, facts):
        odd = (
            f'{{"sha": "{facts.sha}", "siblings": [{{"rfilename": "a.gguf", "size": "7"}}],'
            '"config": [], "cardData": "x", "gguf": {"total": 1e400}, "library_name": {}, "pipeline_tag": 3,'
            '"safetensors": {"parameters": {"BF16": -1, "F32": 1e99, "I8": true, "F16": "3", "U8": 5}},'
            '"inferenceProviderMapping": 3, "createdAt": "never"}'
        )
        hub.fail(facts.ref.id, on="info", body=odd.encode())
        told = repo_facts(facts.ref)
        assert (told.files, told.counts, told.gguf_parameters) == ({"a.gguf": 0}, {"U8": 5}, None)
        assert (told.library, told.task, told.model_type, told.base_models) == (None, None, None, ())

    def test_name_of_an_account_that_is_none(self, hub):
        hub.add_account("hf_strange", "strange")
        for body in (b"{}", b"[]", b'{"name": 3}', b'{"name": ""}'):
            hub.fail(on="whoami", body=body)
            refusal(GarbledAnswer, lambda: whoami("hf_strange"))
            hub.faults.clear()
        assert whoami("hf_strange") == "strange"
