"""How the local Hub refuses and fails, as the real client sees it."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from tests.hub import LocalHub, SparseFile
from tests.local_hub.support import CONFIG, TOKEN, WEIGHTS, download


class TestRefusals:
    def test_gated_files_without_a_token(self, hub: LocalHub, tmp_path: Path) -> None:
        with pytest.raises(GatedRepoError, match=r"(?s)401 Client Error.*Please log in") as caught:
            download(hub, tmp_path, repo="org/gated")
        assert caught.value.response.headers["X-Error-Code"] == "GatedRepo"

    @pytest.mark.parametrize(
        ("account", "message"),
        [
            ({}, "you are not in the authorized list"),
            ({"pending": {"org/gated"}}, "awaiting a review"),
            ({"rejected": {"org/gated"}}, "has been rejected"),
            ({"accepted": {"org/gated"}, "role": "fineGrained", "reads_gated": False}, "fine-grained token settings"),
        ],
        ids=["never asked", "pending", "rejected", "token without the scope"],
    )
    def test_gated_files_with_a_token_that_may_not(
        self, hub: LocalHub, tmp_path: Path, account: dict[str, object], message: str
    ) -> None:
        hub.add_account("hf_other", "grace", **account)
        with pytest.raises(GatedRepoError, match=message) as caught:
            download(hub, tmp_path, repo="org/gated", token="hf_other")
        assert caught.value.response.status_code == 403

    @pytest.mark.parametrize("account", [{"accepted": {"org/gated"}}, {"orgs": ("org",)}], ids=["accepted", "member"])
    def test_gated_files_for_those_let_in(self, hub: LocalHub, tmp_path: Path, account: dict[str, object]) -> None:
        hub.add_account("hf_other", "grace", **account)
        assert download(hub, tmp_path, repo="org/gated", token="hf_other") == b"{}"

    def test_gated_repository_describes_itself_to_everybody(self, api: HfApi) -> None:
        info = api.model_info("org/gated", files_metadata=True)
        assert (info.gated, info.safetensors.total) == ("manual", 6464)
        assert api.list_repo_files("org/gated") == ["config.json", "model.safetensors"]
        with pytest.raises(GatedRepoError):
            api.auth_check("org/gated")

    def test_token_goes_to_the_hub_alone(self, hub: LocalHub, tmp_path: Path) -> None:
        hub.accounts[TOKEN].accepted.add("org/gated")
        download(hub, tmp_path, "model.safetensors", "org/gated", token=TOKEN)
        asked = {r.origin: r.headers.get("authorization") for r in hub.requests}
        assert asked == {"hub": f"Bearer {TOKEN}", "cdn": None}

    def test_missing_repository_without_and_with_a_token(self, hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
        for token, status in ((False, 401), (TOKEN, 404)):
            with pytest.raises(RepositoryNotFoundError) as caught:
                download(hub, tmp_path, repo="org/missing", token=token)
            assert caught.value.response.status_code == status
            with pytest.raises(RepositoryNotFoundError) as caught:
                api.model_info("org/missing", token=token)
            assert caught.value.response.status_code == status
            assert caught.value.response.json()["error"] == caught.value.server_message
        assert not api.repo_exists("org/missing")

    def test_private_repository_exists_for_its_owner_alone(self, hub: LocalHub, api: HfApi) -> None:
        hub.add_account("hf_other", "grace")
        for token in (False, "hf_other"):
            with pytest.raises(RepositoryNotFoundError):
                api.model_info("ada/private", token=token)
            assert list(api.list_models(search="private", token=token)) == []
        assert api.model_info("ada/private", token=TOKEN).private

    def test_missing_file(self, hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
        with pytest.raises(EntryNotFoundError, match=r"(?s)404 Client Error.*Entry Not Found") as caught:
            download(hub, tmp_path, "missing.json")
        assert caught.value.response.headers["X-Repo-Commit"] == hub.repos["org/name"].head.sha
        assert list(tmp_path.glob("*/.no_exist/*/missing.json"))
        assert [api.file_exists("org/name", f) for f in ("config.json", "missing.json")] == [True, False]

    def test_missing_revision(self, hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
        with pytest.raises(RevisionNotFoundError):
            download(hub, tmp_path, revision="v99")
        with pytest.raises(RevisionNotFoundError, match="Invalid rev id: v99"):
            api.model_info("org/name", revision="v99")
        with pytest.raises(RevisionNotFoundError):
            list(api.list_repo_tree("org/name", revision="refs/pr/9"))
        with pytest.raises(RevisionNotFoundError):
            api.model_info("org/name", revision="naïve\nrevision")

    def test_wrong_token_is_refused_even_where_none_is_needed(self, hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
        for ask in (lambda: api.model_info("org/name", token="hf_no"), lambda: download(hub, tmp_path, token="hf_no")):
            with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header") as caught:
                ask()
            assert caught.value.response.status_code == 401

    def test_whoami_names_the_user_behind_the_token(self, hub: LocalHub, api: HfApi) -> None:
        hub.accounts[TOKEN].orgs = ("org",)
        user = api.whoami(TOKEN)
        assert (user["name"], user["type"], user["orgs"][0]["name"]) == ("ada", "user", "org")
        assert user["auth"]["accessToken"]["role"] == "read"
        with pytest.raises(HfHubHTTPError, match="Invalid user token"):
            api.whoami("hf_no")

    def test_storage_refuses_an_unsigned_url(self, hub: LocalHub) -> None:
        location = get_hf_file_metadata(hf_hub_url("org/name", "model.safetensors", endpoint=hub.url)).location
        assert get_session().get(location).status_code == 200
        assert get_session().get(location.split("?")[0]).status_code == 403


class TestFaults:
    def test_rate_limit_tells_when_to_come_back(self, hub: LocalHub, api: HfApi) -> None:
        hub.fail("org/name", status=429, retry_after=7)
        with pytest.raises(HfHubHTTPError, match=r"429 Too Many Requests: .*'api' rate limit") as caught:
            api.model_info("org/name")
        assert "Retry after 7 seconds (0/500 requests remaining" in str(caught.value)
        assert caught.value.response.headers["Retry-After"] == "7"

    def test_client_waits_out_a_rate_limit_in_listings(self, hub: LocalHub, api: HfApi) -> None:
        hub.fail("org/name", on="tree", status=429, retry_after=0, times=1)
        started = time.monotonic()
        assert "config.json" in api.list_repo_files("org/name")
        assert time.monotonic() - started >= 1  # the client adds a second
        assert [r.status for r in hub.requests] == [429, 200]

    def test_failure_of_one_repository_leaves_the_others_alone(self, hub: LocalHub, api: HfApi) -> None:
        hub.fail("org/name", status=503)
        with pytest.raises(HfHubHTTPError, match="503"):
            api.model_info("org/name")
        assert api.model_info("org/gated").id == "org/gated"
        hub.faults.clear()
        assert api.model_info("org/name").id == "org/name"

    def test_cached_file_survives_a_hub_that_is_down(self, hub: LocalHub, tmp_path: Path) -> None:
        download(hub, tmp_path)
        hub.fail(status=500)
        assert json.loads(download(hub, tmp_path)) == CONFIG

    def test_download_retries_after_one_failure(self, hub: LocalHub, tmp_path: Path) -> None:
        rule = hub.fail("org/name", file="*.json", method="HEAD", status=502, times=1)
        assert json.loads(download(hub, tmp_path)) == CONFIG
        assert rule.hits == 1

    def test_storage_that_fails_is_told_at_once(self, hub: LocalHub, tmp_path: Path) -> None:
        hub.fail("org/name", on="cdn", status=503)
        with pytest.raises(HfHubHTTPError, match="503"):
            download(hub, tmp_path, "model.safetensors")

    @pytest.mark.parametrize(
        ("size", "cut", "resumed_at"), [(20_000, 1_000, None), (12 << 20, 11 << 20, 10 << 20)], ids=["small", "large"]
    )
    def test_truncated_download_is_taken_up_again(
        self, hub: LocalHub, tmp_path: Path, size: int, cut: int, resumed_at: int | None
    ) -> None:
        """The client keeps whole pieces of 10 MiB (DOWNLOAD_CHUNK_SIZE) and asks for the rest by range."""
        hub.add_repo("org/cut", {"weights.bin": SparseFile(size, {size - 3: b"end"})})
        hub.fail("org/cut", file="*.bin", truncate_after=cut, times=1)
        assert download(hub, tmp_path, "weights.bin", "org/cut") == bytes(size - 3) + b"end"
        first, second = hub.requests.downloads
        assert first.sent == cut
        assert second.headers.get("range") == (None if resumed_at is None else f"bytes={resumed_at}-")

    def test_truncated_answer_of_the_api_is_a_protocol_error(self, hub: LocalHub, api: HfApi) -> None:
        hub.fail("org/name", on="info", truncate_after=20)
        with pytest.raises(httpx2.RemoteProtocolError, match="without sending complete message body"):
            api.model_info("org/name")

    def test_closed_connection_is_a_protocol_error(self, hub: LocalHub, api: HfApi) -> None:
        hub.fail("org/name", on="info", close=True, times=1)
        with pytest.raises(httpx2.RemoteProtocolError, match="disconnected without sending a response"):
            api.model_info("org/name")
        assert api.model_info("org/name").id == "org/name"

    def test_slow_body_takes_its_time_and_arrives(self, hub: LocalHub, tmp_path: Path) -> None:
        hub.fail("org/name", file="model.safetensors", bytes_per_second=20_000)
        started = time.monotonic()
        assert len(download(hub, tmp_path, "model.safetensors")) == WEIGHTS.size
        assert time.monotonic() - started >= 0.9 * WEIGHTS.size / 20_000

    def test_late_answer_runs_into_the_time_limit_of_the_client(self, hub: LocalHub, api: HfApi) -> None:
        hub.fail("org/name", on="info", delay=30)
        with pytest.raises(httpx2.ReadTimeout):
            api.model_info("org/name", timeout=0.2)

    def test_hub_that_is_too_late_for_a_first_download(self, hub: LocalHub, tmp_path: Path) -> None:
        hub.fail("org/name", method="HEAD", delay=1, times=1)
        assert json.loads(download(hub, tmp_path, etag_timeout=0.2)) == CONFIG

    def test_body_that_is_not_json(self, hub: LocalHub, api: HfApi) -> None:
        hub.fail("org/name", on="info", status=200, body=b"<html>a proxy's sign-in page</html>")
        with pytest.raises(json.JSONDecodeError):
            api.model_info("org/name")

    def test_redirect_loop_is_given_up(self, hub: LocalHub, api: HfApi) -> None:
        hub.fail("org/name", on="info", status=302, headers={"Location": "/api/models/org/name"})
        with pytest.raises(httpx2.TooManyRedirects):
            api.model_info("org/name")

    def test_endless_body_ends_when_the_client_leaves(self, hub: LocalHub) -> None:
        hub.fail("org/name", file="config.json", body=b"[" * 65536, endless=True)
        with get_session().stream("GET", hf_hub_url("org/name", "config.json", endpoint=hub.url)) as answer:
            read = 0
            for chunk in answer.iter_bytes():
                read += len(chunk)
                if read > 10 << 20:
                    break
        assert read > 10 << 20

    def test_missing_hub_is_reported_as_unreachable(self, tmp_path: Path) -> None:
        hub = LocalHub()
        with hub.running():
            pass
        with pytest.raises((LocalEntryNotFoundError, httpx2.ConnectError)):
            HfApi(endpoint=hub.url, token=False).model_info("org/name")


def test_stopping_does_not_wait_for_those_who_wait() -> None:
    hub = LocalHub()
    hub.add_repo("org/name")
    hub.fail(delay=60)
    with hub.running() as url:
        asking = ThreadPoolExecutor(1).submit(get_session().get, f"{url}/api/models")
        while not hub.requests:
            time.sleep(0.01)
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 1
    assert isinstance(asking.exception(timeout=1), httpx2.RemoteProtocolError)


def test_mistake_of_the_hub_itself_fails_the_test(tmp_path: Path) -> None:
    hub = LocalHub()
    (tmp_path / "config.json").write_text("{}")
    hub.add_repo("org/name", folder=tmp_path)
    with pytest.raises(RuntimeError, match="The local Hub failed"), hub.running() as url:
        (tmp_path / "config.json").unlink()
        assert get_session().get(f"{url}/api/models/org/name").status_code == 500
