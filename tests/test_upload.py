"""Sending a copy to one's own account: a new repository with all files and the card, or nothing and the reason."""

from __future__ import annotations

import itertools
import logging
import time
import traceback

import pytest

from quantspace.errors import (
    BadInput,
    HubUnreachable,
    KeepFailed,
    NameTaken,
    NotSignedIn,
    RateLimited,
    TokenLacksScope,
    TokenMalformed,
    TokenRefused,
)
from quantspace.hub.upload import Uploaded, account_of, checked_name, license_of, suggested_name, upload

MARK = "S3cr3tToWrite"
TOKEN = f"hf_{MARK}"
CARD = "---\nlibrary_name: transformers\n---\n\n# A copy\n"
numbers = itertools.count()


@pytest.fixture(autouse=True)
def writer(hub, caplog):
    """An account that may write; after each test, no log holds its token."""
    caplog.set_level(logging.DEBUG)
    account = hub.add_account(TOKEN, "ada", role="write", orgs=("lovelace",))
    yield account
    hub.faults.clear()
    hub.accounts.pop(TOKEN, None)
    assert all(MARK not in record.getMessage() for record in caplog.records)


@pytest.fixture
def name():
    return f"ada/copy-{next(numbers)}"


@pytest.fixture
def files(tmp_path, name):
    """What a copy has: one file that goes to LFS, and small ones that do not."""
    contents = {"model.safetensors": name.encode() * 500_000, "config.json": b'{"a": 1}', "vocab.txt": b""}
    for path, content in contents.items():
        (tmp_path / path).write_bytes(content)
    return {path: tmp_path / path for path in contents}


def refused(kind, *arguments, **options):
    with pytest.raises(kind) as caught:
        list(upload(*arguments, **options))
    told = "".join(traceback.format_exception(caught.value))
    assert MARK not in told + repr(vars(caught.value))
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert caught.value.message and caught.value.hint
    return caught.value


class TestSent:
    def test_a_repository_is_created_with_all_files_and_the_card(self, hub, name, files):
        *_, url = upload(files, CARD, name, TOKEN)
        assert url == f"{hub.url}/{name}"
        repo = hub.repos[name]
        stored = {path: file.read(0, file.size) for path, file in repo.head.files.items() if path != ".gitattributes"}
        assert stored == {path: where.read_bytes() for path, where in files.items()} | {"README.md": CARD.encode()}

    def test_it_is_private_unless_said_otherwise(self, hub, name, files):
        list(upload(files, CARD, name, TOKEN))
        assert hub.repos[name].private
        list(upload(files, CARD, f"{name}-open", TOKEN, private=False))
        assert not hub.repos[f"{name}-open"].private

    def test_it_may_be_one_of_an_organisation(self, hub, name, files):
        list(upload(files, CARD, name.replace("ada/", "lovelace/"), TOKEN))
        assert name.replace("ada/", "lovelace/") in hub.repos

    def test_progress_is_told_in_bytes_first_read_then_sent(self, hub, name, files):
        hub.fail(on="upload", delay=0.5)
        *steps, _ = upload(files, CARD, name, TOKEN)
        total = sum(path.stat().st_size for path in files.values())
        assert all(isinstance(step, Uploaded) and 0 <= step.done <= step.total == total for step in steps)
        assert [step.step for step in steps] == sorted(step.step for step in steps)  # read, then sent
        assert steps[-1] == Uploaded("sent", total, total)

    def test_weights_go_to_the_storage_without_the_token(self, hub, name, files):
        before = len(hub.requests)
        list(upload(files, CARD, name, TOKEN))
        put = [request for request in hub.requests[before:] if request.target.kind == "upload"]
        assert len(put) == 1
        assert "authorization" not in put[0].headers
        assert all(MARK not in request.url for request in hub.requests[before:])


class TestRefused:
    def test_a_name_that_is_taken_is_never_written_over(self, hub, name, files):
        hub.add_repo(name, {"config.json": b"mine"})
        head = hub.repos[name].head.sha
        error = refused(NameTaken, files, CARD, name, TOKEN)
        assert f"{name} is there already" in error.message
        assert hub.repos[name].head.sha == head

    @pytest.mark.parametrize("role", ["read", "fineGrained"])
    def test_a_token_without_the_right_to_write(self, hub, name, files, writer, role):
        writer.role = role
        error = refused(TokenLacksScope, files, CARD, name, TOKEN)
        assert "may not create a repository of ada" in error.message
        assert "type Write" in error.hint
        assert name not in hub.repos

    def test_somebody_elses_account(self, hub, name, files):
        error = refused(TokenLacksScope, files, CARD, name.replace("ada/", "grace/"), TOKEN)
        assert "grace" in error.message

    def test_an_unknown_token(self, name, files):
        refused(TokenRefused, files, CARD, name, f"hf_{MARK}Unknown")

    def test_what_cannot_be_a_token_is_not_sent(self, hub, name, files):
        before = len(hub.requests)
        with pytest.raises(TokenMalformed):
            list(upload(files, CARD, name, f"hf_{MARK}\nmore"))
        assert len(hub.requests) == before

    @pytest.mark.parametrize("step", ["preupload", "lfs-batch", "commit"])
    def test_what_breaks_off_leaves_no_empty_repository(self, hub, name, files, step):
        hub.fail(on=step, status=403)
        refused(TokenLacksScope, files, CARD, name, TOKEN)
        assert name not in hub.repos

    def test_storage_that_refuses_the_bytes(self, hub, name, files):
        hub.fail(on="upload", status=400)
        error = refused(KeepFailed, files, CARD, name, TOKEN)
        assert "400" in error.message
        assert name not in hub.repos

    def test_too_much_at_a_time(self, hub, name, files):
        hub.fail(on="commit", status=429, retry_after=0)
        refused(RateLimited, files, CARD, name, TOKEN)

    def test_a_hub_that_closes_the_connection(self, hub, name, files):
        hub.fail(on="create", close=True)
        error = refused(HubUnreachable, files, CARD, name, TOKEN)
        assert name in error.message

    def test_stopping_leaves_nothing(self, hub, name, files):
        hub.fail(on="preupload", delay=1.0)
        sending = upload(files, CARD, name, TOKEN)
        for step in sending:
            if step.step == "sent":
                break
        sending.close()
        hub.faults.clear()
        for _ in range(100):
            if name not in hub.repos:
                break

            time.sleep(0.1)
        assert name not in hub.repos


class TestAccount:
    def test_whose_token_it_is_and_whether_it_writes(self, hub, writer):
        assert (account_of(TOKEN).name, account_of(TOKEN).writes) == ("ada", True)
        writer.role = "read"
        assert not account_of(TOKEN).writes
        writer.role = "fineGrained"
        assert account_of(TOKEN).writes  # the Hub will tell

    def test_without_a_token_the_next_step_names_a_write_token(self):
        with pytest.raises(NotSignedIn) as caught:
            account_of(None)
        assert "type Write" in caught.value.hint

    def test_a_wrong_token(self):
        with pytest.raises(TokenRefused) as caught:
            account_of(f"hf_{MARK}Unknown")
        assert "write token" in caught.value.hint


class TestNames:
    @pytest.mark.parametrize(
        ("user", "model", "precision", "name"),
        [
            ("ada", "google/gemma-3-4b-it", "nf4-dq", "ada/gemma-3-4b-it-nf4-dq"),
            ("", "gpt2", "int8", "gpt2-int8"),
            ("ada", "x/" + "m" * 200, "nf4", "ada/" + "m" * 96),
            ("ada", "x/a b\u2026c", "nf4", "ada/a-b-c-nf4"),
        ],
    )
    def test_the_suggested_one_says_what_is_in_it(self, user, model, precision, name):
        assert suggested_name(user, model, precision) == name

    def test_a_name_alone_is_in_ones_own_account(self):
        assert checked_name(" copy ", "ada") == "ada/copy"
        assert checked_name("lovelace/copy", "ada") == "lovelace/copy"

    @pytest.mark.parametrize("name", ["", "a/b/c", "a b", "ada/", "/", "ada/..", "x" * 200, "ada/<b>"])
    def test_what_is_no_name_is_told(self, name):
        with pytest.raises(BadInput, match="no name of a repository"):
            checked_name(name, "ada")


class TestLicense:
    def test_it_is_the_originals(self, hub):
        card = {"license": "other", "license_name": "gemma", "license_link": "https://ai.google.dev/gemma/terms"}
        repo = hub.add_repo(f"license/model-{next(numbers)}", {"config.json": b"{}"}, cardData=card)
        assert license_of(repo.id, repo.head.sha, None) == card

    def test_it_is_left_out_where_it_is_not_known(self, hub):
        repo = hub.add_repo(f"license/model-{next(numbers)}", {"config.json": b"{}"}, cardData={"license": ["mit"]})
        assert license_of(repo.id, repo.head.sha, None) == {}
        assert license_of("license/missing", "0" * 40, None) == {}
