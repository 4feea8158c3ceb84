"""A token goes to the Hub alone, and stands in nothing that is kept, shown or logged, whatever goes wrong."""

import itertools
import logging
import pickle
import socket
import threading
import traceback

import httpx2
import pytest

from quantspace.errors import (
    AccessRejected,
    AwaitingReview,
    BodyBrokeOff,
    GarbledAnswer,
    HubDown,
    HubTimedOut,
    HubUnreachable,
    ModelDisabled,
    ModelNotFound,
    ModelUnsupported,
    NotSignedIn,
    QuantSpaceError,
    RateLimited,
    RedirectLoop,
    TermsNotAccepted,
    TokenLacksScope,
    TokenMalformed,
    TokenRefused,
)
from quantspace.hub import search
from quantspace.hub.client import check_access, repo_facts, sent_token, whoami
from quantspace.hub.download import download
from quantspace.hub.fetch import fetch_file, fetch_range
from quantspace.hub.json_files import fetch_json
from quantspace.hub.reference import ModelRef
from quantspace.hub.refusals import hub_errors
from quantspace.hub.search import search_models
from tests.hub import SparseFile

MARK = "S3cr3tOfThisTest"  # in every token here
TOKEN, UNKNOWN = f"hf_{MARK}LetIn", f"hf_{MARK}Unknown"
FILES = {"config.json": b'{"a": 1}', "model.safetensors": SparseFile.safetensors({"a": ("F32", (64, 64))})}
numbers = itertools.count()


@pytest.fixture(autouse=True)
def everything_said(hub, caplog):
    """After each test: no log record holds a token, and no request carries one anywhere but in its header."""
    caplog.set_level(logging.DEBUG)
    loud = [logging.getLogger(name) for name in ("httpx2", "httpcore2", "huggingface_hub", "quantspace")]
    before = [(logger.level, logger.propagate) for logger in loud]
    for logger in loud:
        logger.setLevel(logging.DEBUG)
        logger.propagate = True
    asked = len(hub.requests)
    yield
    hub.faults.clear()
    hub.accounts.pop(TOKEN, None)
    for logger, (level, propagate) in zip(loud, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
    for record in caplog.records:
        assert MARK not in f"{record.getMessage()} {record.__dict__!r}"
    for request in hub.requests[asked:]:
        assert MARK not in request.url
        assert all(MARK not in value for name, value in request.headers.items() if name != "authorization")
        assert request.origin == "hub" or "authorization" not in request.headers


@pytest.fixture
def repo(hub):
    """A repository of this test's own, whose gate is open to the account behind the token."""

    def make(**about):
        model_id = f"token/model-{next(numbers)}"
        hub.add_repo(model_id, about.pop("files", FILES), **about)
        hub.add_account(TOKEN, "ada", accepted={model_id})
        return ModelRef(model_id)

    return make


def everything_in(error):
    """All that a handler, a log or a pickle could make of an exception, and of those behind it."""
    parts, seen, waiting = [], set(), [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        parts += [str(one), repr(one), repr(one.args), repr(vars(one)), *traceback.format_exception(one)]
        for value in vars(one).values():
            request = getattr(value, "request", value)
            if isinstance(request, httpx2.Request):
                parts.append(repr(request.headers.raw))
        waiting += [one.__cause__, one.__context__]
    parts.append(repr(pickle.dumps(error.as_data())))
    return "\n".join(parts)


def refused(kind, ask):
    with pytest.raises(QuantSpaceError) as caught:
        ask()
    assert type(caught.value) is kind
    assert MARK not in everything_in(caught.value)
    return caught.value


class TestRefusals:
    """Each reason by its own class and code, with its own way out."""

    def test_not_signed_in(self, hub, repo):
        facts = repo_facts(repo(gated="manual"))
        error = refused(NotSignedIn, lambda: check_access(facts))
        assert error.code == "not_signed_in"
        assert f"{hub.url}/{facts.ref.id}" in error.hint
        assert "use a read token" in error.hint and f"{hub.url}/settings/tokens" in error.hint

    @pytest.mark.parametrize(
        ("account", "kind", "code", "words", "way_out"),
        [
            ({"accepted": set()}, TermsNotAccepted, "terms_not_accepted", "not yet accepted", "Accept them at {page}"),
            ({"pending": True}, AwaitingReview, "awaiting_review", "awaiting a review", "settings/gated-repos"),
            ({"rejected": True}, AccessRejected, "access_rejected", "rejected", "{page}"),
            (
                {"role": "fineGrained", "reads_gated": False},
                TokenLacksScope,
                "token_lacks_scope",
                "fine-grained",
                "Tick “Read access to contents of all public gated repos you can access”",
            ),
        ],
    )
    @pytest.mark.parametrize("through", ["check", "file", "part", "download"])
    def test_gate_that_stays_closed_says_why(self, hub, repo, through, account, kind, code, words, way_out):
        ref = repo(gated="manual")
        fields = {name: {ref.id} if value is True else value for name, value in account.items()}
        hub.add_account(TOKEN, "ada", **({"accepted": {ref.id}} | fields))
        facts = repo_facts(ref, TOKEN)
        ask = {
            "check": lambda: check_access(facts, TOKEN),
            "file": lambda: fetch_file(facts, "config.json", 1000, TOKEN),
            "part": lambda: fetch_range(facts, "model.safetensors", 0, 8, TOKEN),
            "download": lambda: list(download(facts, TOKEN)),
        }[through]
        error = refused(kind, ask)
        assert error.code == code
        assert words in error.message and ref.id in error.message
        assert way_out.format(page=f"{hub.url}/{ref.id}") in error.hint

    def test_gate_that_is_open_is_passed(self, repo):
        facts = repo_facts(repo(gated="manual"), TOKEN)
        check_access(facts, TOKEN)
        assert fetch_json(facts, "config.json", TOKEN) == {"a": 1}
        check_access(repo_facts(repo()))  # a public one needs no token

    @pytest.mark.parametrize(
        "ask",
        [whoami, lambda token: repo_facts(ModelRef("openly/there"), token),
         lambda token: repo_facts(ModelRef("nobody/there"), token)],
        ids=["whoami", "public", "missing"],
    )  # fmt: skip
    def test_token_that_is_wrong_or_expired(self, hub, ask):
        hub.add_repo("openly/there", FILES)
        error = refused(TokenRefused, lambda: ask(UNKNOWN))
        assert error.code == "token_refused"
        assert f"{hub.url}/settings/tokens" in error.hint

    def test_model_that_is_not_there_or_private(self, hub, repo):
        private = repo(private=True)
        for ref in (private, ModelRef("nobody/there")):
            assert "no public model" in refused(ModelNotFound, lambda ref=ref: repo_facts(ref)).message
            assert "private" in refused(ModelNotFound, lambda ref=ref: repo_facts(ref)).hint
            assert "or it is private" in refused(ModelNotFound, lambda ref=ref: repo_facts(ref, TOKEN)).message
        hub.add_account(TOKEN, "token")  # whose namespace it is
        assert repo_facts(private, TOKEN).private

    @pytest.mark.parametrize(
        ("fault", "kind", "code"),
        [
            ({"status": 403, "headers": {"X-Error-Message": "Access to this resource is disabled."}}, ModelDisabled,
             "model_disabled"),
            ({"status": 451}, ModelDisabled, "model_disabled"),
            ({"status": 403}, TokenLacksScope, "token_lacks_scope"),
            ({"status": 429, "retry_after": 9}, RateLimited, "rate_limited"),
            ({"status": 500}, HubDown, "hub_down"),
            ({"status": 400}, HubUnreachable, "hub_unreachable"),
            ({"close": True}, HubUnreachable, "hub_unreachable"),
            ({"truncate_after": 3}, BodyBrokeOff, "body_broke_off"),
            ({"body": b"<html>"}, GarbledAnswer, "garbled_answer"),
            ({"headers": {"Content-Encoding": "br"}}, GarbledAnswer, "garbled_answer"),
            ({"status": 302, "headers": {"Location": "?again"}}, RedirectLoop, "redirect_loop"),
        ],
    )  # fmt: skip
    def test_trouble_on_the_way(self, hub, repo, fault, kind, code):
        ref = repo()
        hub.fail(ref.id, on="info", **fault)
        assert refused(kind, lambda: repo_facts(ref, TOKEN)).code == code

    def test_token_that_the_hub_repeats_in_its_refusal_is_not_repeated(self, hub, repo):
        ref = repo()
        for status in (400, 401, 403, 404, 416, 429, 500):
            said = f"Bearer {TOKEN} is no good"
            hub.fail(ref.id, status=status, body=said.encode(), headers={"X-Error-Message": said})
            kind = ModelUnsupported if status == 416 else QuantSpaceError
            with pytest.raises(kind) as caught:
                repo_facts(ref, TOKEN)
            assert MARK not in everything_in(caught.value)
            hub.faults.clear()

    def test_late_answers_and_large_files(self, hub, repo):
        facts = repo_facts(repo(), TOKEN)
        hub.fail(facts.ref.id, delay=30)
        refused(HubTimedOut, lambda: fetch_file(facts, "config.json", 1000, TOKEN, seconds=0.1))
        hub.faults.clear()
        refused(ModelUnsupported, lambda: fetch_file(facts, "config.json", 3, TOKEN))
        refused(ModelNotFound, lambda: fetch_file(facts, "../x", 3, TOKEN))

    def test_library_exceptions_are_told_and_emptied_on_their_way_through(self, hub, repo):
        ref = repo()
        with pytest.raises(TokenRefused) as caught, hub_errors(ref):
            from huggingface_hub import HfApi

            HfApi().model_info(ref.id, token=UNKNOWN)
        assert MARK not in everything_in(caught.value)


class TestWhereItGoes:
    def test_storage_of_the_hub_never_sees_it(self, hub, repo):
        facts = repo_facts(repo(), TOKEN)
        hub.requests.clear()
        fetch_range(facts, "model.safetensors", 0, 8, TOKEN)
        list(download(facts, TOKEN))
        assert {r.headers.get("authorization") for r in hub.requests if r.origin == "hub"} == {f"Bearer {TOKEN}"}
        assert len(hub.requests.of("cdn")) >= 2
        assert all("authorization" not in r.headers for r in hub.requests.of("cdn"))

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_no_other_origin_sees_it_though_the_way_leads_there_and_back(self, hub, repo, status):
        ref, heard = repo(), []
        with socket.create_server(("127.0.0.1", 0)) as elsewhere:
            address = f"http://127.0.0.1:{elsewhere.getsockname()[1]}"

            def answer():
                connection, _ = elsewhere.accept()
                with connection:
                    heard.append(connection.recv(65536))
                    back = f"{hub.url}/api/models/{ref.id}"
                    connection.sendall(f"HTTP/1.1 302 F\r\nLocation: {back}\r\nContent-Length: 0\r\n\r\n".encode())

            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            hub.fail(ref.id, on="info", times=1, status=status, headers={"Location": address})
            before = len(hub.requests)
            assert repo_facts(ref, TOKEN).sha
            thread.join()
        assert heard and b"authorization" not in heard[0].lower() and MARK.encode() not in heard[0]
        assert [("authorization" in r.headers) for r in hub.requests[before:]] == [True, False]

    def test_cookie_that_an_answer_sets_goes_with_nobody_elses_question(self, hub, repo):
        ref = repo()
        hub.fail(ref.id, headers={"Set-Cookie": f"session={TOKEN}; Path=/"})
        repo_facts(ref, TOKEN)
        repo_facts(ref)
        assert "cookie" not in hub.requests[-1].headers

    def test_question_without_a_token_is_asked_without_one_on_a_space(self, hub, repo, monkeypatch):
        ref = repo()
        monkeypatch.setenv("HF_TOKEN", UNKNOWN)  # of the Space's owner
        monkeypatch.setenv("SPACE_ID", "org/space")
        assert sent_token(None) is False
        assert repo_facts(ref).sha
        assert search_models(ref.id)[0].id == ref.id
        refused(NotSignedIn, lambda: whoami(None))
        assert all("authorization" not in r.headers for r in hub.requests.of(repo=ref.id))

    def test_machine_that_is_logged_in_is_known_by_its_name_at_home(self, hub, repo, monkeypatch):
        repo()
        refused(NotSignedIn, lambda: whoami(None))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert whoami(None) == "ada"


class TestWhatIsNoToken:
    @pytest.mark.parametrize(
        "garbage",
        [f"{TOKEN}\n", f" {TOKEN}", f"hf_ {MARK}", f"{TOKEN}\r\nX-Evil: 1", f"{TOKEN}\0", f"“{TOKEN}”", f"{MARK}é",
         f"{MARK}ключ",
         f"Bearer {TOKEN}", f"{MARK}," * 2, MARK * 1000],
        ids=range(11),
    )  # fmt: skip
    def test_it_is_refused_with_a_sentence_and_not_sent(self, hub, repo, garbage):
        ref = repo()
        facts = repo_facts(ref)
        before = len(hub.requests)
        for ask in (
            lambda: sent_token(garbage),
            lambda: repo_facts(ref, garbage),
            lambda: check_access(facts, garbage),
            lambda: whoami(garbage),
            lambda: fetch_file(facts, "config.json", 100, garbage),
            lambda: fetch_range(facts, "model.safetensors", 0, 8, garbage),
        ):
            error = refused(TokenMalformed, ask)
            assert error.code == "token_malformed"
            assert "was not sent" in error.message
        assert search_models("anything", token=garbage) == []
        assert len(hub.requests) == before

    def test_a_login_of_the_machine_that_can_not_be_sent_is_not_repeated_either(self, repo, monkeypatch):
        ref = repo()
        monkeypatch.setenv("HF_TOKEN", f"hf_{MARK} and more")
        refused(TokenMalformed, lambda: repo_facts(ref))

    def test_empty_token_is_none(self, repo):
        assert repo_facts(repo(), "").sha


def test_search_keeps_no_token(hub, repo):
    ref = repo(private=True)
    hub.add_account(TOKEN, "token")
    search._found.clear()
    assert [model.id for model in search_models(ref.id, token=TOKEN)] == [ref.id]
    assert search_models(ref.id) == []
    assert MARK not in repr(list(search._found.items()))
