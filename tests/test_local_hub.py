"""The local Hub as the real `huggingface_hub` client sees it. Nothing of the client is patched."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, HfFileSystem, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils import get_session

from tests.hub import LocalHub, SparseFile

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2}
TOKEN = "hf_ada_secret"
GB = 1_000_000_000
WEIGHTS = SparseFile.safetensors({"embed": ("BF16", (100, 64)), "norm": ("F32", (64,))})


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    """A running Hub with a small model, a gated one and a private one, and a user named ada."""
    hub = LocalHub()
    files = {"config.json": json.dumps(CONFIG), "model.safetensors": WEIGHTS, "onnx/extra/notes.txt": "notes"}
    hub.add_repo("org/name", files, tags=["license:mit"], pipeline_tag="text-generation", downloads=10, likes=3)
    hub.add_repo("org/gated", {"config.json": "{}", "model.safetensors": WEIGHTS}, gated="manual")
    hub.add_repo("ada/private", {"config.json": "{}"}, private=True)
    hub.add_account(TOKEN, "ada")
    with hub.running():
        yield hub


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    return HfApi(endpoint=hub.url, token=False)


def download(hub: LocalHub, cache: Path, file: str = "config.json", repo: str = "org/name", **options: object) -> bytes:
    options = {"token": False, **options}
    return Path(hf_hub_download(repo, file, endpoint=hub.url, cache_dir=cache, **options)).read_bytes()


class TestDescriptions:
    def test_model_info_tells_of_the_model(self, hub: LocalHub, api: HfApi) -> None:
        info = api.model_info("org/name")
        assert (info.id, info.author, info.sha) == ("org/name", "org", hub.repos["org/name"].head.sha)
        assert (info.gated, info.private, info.downloads, info.likes) == (False, False, 10, 3)
        assert info.pipeline_tag == "text-generation"
        assert info.tags[:2] == ["license:mit", "safetensors"]
        assert info.config == {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        assert {s.rfilename: s.size for s in info.siblings} == dict.fromkeys(
            ("config.json", "model.safetensors", "onnx/extra/notes.txt")
        )

    def test_parameters_are_counted_from_the_safetensors_headers(self, api: HfApi) -> None:
        counts = api.model_info("org/name").safetensors
        assert (counts.parameters, counts.total) == ({"BF16": 6400, "F32": 64}, 6464)

    def test_files_metadata_adds_sizes_and_lfs_hashes(self, api: HfApi) -> None:
        siblings = {s.rfilename: s for s in api.model_info("org/name", files_metadata=True).siblings}
        assert siblings["model.safetensors"].lfs.sha256 == WEIGHTS.sha256
        assert siblings["model.safetensors"].size == siblings["model.safetensors"].lfs.size == WEIGHTS.size
        assert siblings["config.json"].lfs is None
        assert siblings["config.json"].size == len(json.dumps(CONFIG))

    def test_expand_gives_what_was_asked_for_and_no_more(self, api: HfApi) -> None:
        info = api.model_info("org/name", expand=["safetensors", "gated"])
        assert (info.safetensors.total, info.gated) == (6464, False)
        assert (info.siblings, info.sha) == (None, None)

    def test_tree_lists_folders_and_files(self, api: HfApi) -> None:
        entries = {e.path: e for e in api.list_repo_tree("org/name", recursive=True)}
        assert list(entries) == ["onnx", "onnx/extra", "config.json", "model.safetensors", "onnx/extra/notes.txt"]
        assert isinstance(entries["onnx"], RepoFolder)
        assert isinstance(entries["model.safetensors"], RepoFile)
        assert entries["model.safetensors"].lfs.sha256 == WEIGHTS.sha256
        assert entries["model.safetensors"].xet_hash is None

    def test_tree_of_a_folder_is_not_recursive_by_itself(self, api: HfApi) -> None:
        assert [e.path for e in api.list_repo_tree("org/name", "onnx")] == ["onnx/extra"]
        assert [e.path for e in api.list_repo_tree("org/name", "onnx/extra")] == ["onnx/extra/notes.txt"]

    def test_tree_of_a_missing_folder_is_entry_not_found(self, api: HfApi) -> None:
        with pytest.raises(EntryNotFoundError, match="does not exist"):
            list(api.list_repo_tree("org/name", "nowhere"))

    def test_long_trees_come_in_pages(self, hub: LocalHub, api: HfApi) -> None:
        names = [f"file-{i:04}.txt" for i in range(1500)]
        hub.add_repo("org/long", dict.fromkeys(names, b"x"))
        assert api.list_repo_files("org/long") == names
        assert len(hub.requests.of("tree", repo="org/long")) == 2

    def test_expanded_tree_tells_the_last_commit(self, hub: LocalHub, api: HfApi) -> None:
        entry = next(e for e in api.list_repo_tree("org/name", expand=True) if e.path == "config.json")
        assert entry.last_commit.oid == hub.repos["org/name"].head.sha
        assert entry.security.safe

    def test_paths_info_leaves_out_what_does_not_exist(self, api: HfApi) -> None:
        found = api.get_paths_info("org/name", ["model.safetensors", "onnx", "missing.bin"])
        assert [(type(e), e.path) for e in found] == [(RepoFile, "model.safetensors"), (RepoFolder, "onnx")]
        assert found[0].size == WEIGHTS.size

    def test_search_finds_ids_that_hold_every_word_most_downloaded_first(self, hub: LocalHub, api: HfApi) -> None:
        hub.add_repo("other/name-large", downloads=99)
        assert [m.id for m in api.list_models(search="NAME")] == ["other/name-large", "org/name"]
        assert [m.id for m in api.list_models(search="name large")] == ["other/name-large"]
        assert [m.id for m in api.list_models(search="name", limit=1)] == ["other/name-large"]
        assert [m.id for m in api.list_models(author="org", gated=True)] == ["org/gated"]
        assert list(api.list_models(search="nothing-like-it")) == []

    def test_search_with_expand_tells_the_parameter_counts(self, api: HfApi) -> None:
        (found,) = api.list_models(search="org/name", expand=["safetensors", "downloads"])
        assert (found.safetensors.total, found.downloads) == (6464, 10)

    def test_refs_and_commits_are_listed(self, hub: LocalHub, api: HfApi) -> None:
        first, second = hub.repos["org/name"].head.sha, hub.commit("org/name", {"new.txt": "new"})
        hub.tag("org/name", "v1", first)
        refs = api.list_repo_refs("org/name")
        assert [(r.name, r.target_commit) for r in refs.branches + refs.tags] == [("main", second), ("v1", first)]
        assert [c.commit_id for c in api.list_repo_commits("org/name")] == [second, first]

    def test_ids_without_a_namespace_work_everywhere(self, hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
        hub.add_repo("gpt2", {"config.json": "{}", "a/b.bin": b"weights"})
        assert api.model_info("gpt2").id == api.model_info("gpt2", revision="main").id == "gpt2"
        assert api.list_repo_files("gpt2") == ["a/b.bin", "config.json"]
        assert api.get_paths_info("gpt2", "a/b.bin")[0].size == 7
        assert download(hub, tmp_path, "config.json", "gpt2") == b"{}"
        assert download(hub, tmp_path, "a/b.bin", "gpt2") == b"weights"

    def test_renamed_repositories_redirect(self, hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
        hub.add_repo("community/gpt2", {"config.json": "{}", "w.bin": b"weights"}, formerly=("gpt2", "old/gpt2"))
        assert api.model_info("gpt2").id == api.model_info("old/gpt2").id == "community/gpt2"
        assert api.get_paths_info("gpt2", "w.bin")[0].size == 7
        assert download(hub, tmp_path, "config.json", "gpt2") == b"{}"
        assert download(hub, tmp_path, "w.bin", "old/gpt2") == b"weights"


class TestDownloads:
    def test_snapshot_is_equal_byte_for_byte(self, hub: LocalHub, tmp_path: Path) -> None:
        folder = Path(snapshot_download("org/name", endpoint=hub.url, cache_dir=tmp_path, token=False))
        assert folder.name == hub.repos["org/name"].head.sha
        for path, file in hub.repos["org/name"].head.files.items():
            assert (folder / path).read_bytes() == file.read(0, file.size)

    def test_second_snapshot_downloads_nothing(self, hub: LocalHub, tmp_path: Path) -> None:
        first = snapshot_download("org/name", endpoint=hub.url, cache_dir=tmp_path, token=False)
        hub.requests.clear()
        assert snapshot_download("org/name", endpoint=hub.url, cache_dir=tmp_path, token=False) == first
        assert hub.requests.downloads == []
        assert [r.target.kind for r in hub.requests] == ["info"]

    def test_new_commit_is_noticed_and_brings_what_changed_alone(self, hub: LocalHub, tmp_path: Path) -> None:
        old = hub.repos["org/name"].head.sha
        assert json.loads(download(hub, tmp_path)) == CONFIG
        download(hub, tmp_path, "model.safetensors")
        new = hub.commit("org/name", {"config.json": '{"changed": true}'}, delete=("onnx/extra/notes.txt",))
        hub.requests.clear()
        folder = Path(snapshot_download("org/name", endpoint=hub.url, cache_dir=tmp_path, token=False))
        assert folder.name == new != old
        assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
        assert [r.target.file for r in hub.requests.downloads] == ["config.json"]

    def test_older_revisions_stay(self, hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
        old = hub.repos["org/name"].head.sha
        hub.tag("org/name", "v1")
        hub.commit("org/name", {"config.json": "{}"})
        hub.commit("org/name", {"config.json": "[]"}, branch="refs/pr/1")
        assert api.model_info("org/name", revision="v1").sha == old
        assert json.loads(download(hub, tmp_path, revision="v1")) == CONFIG
        assert json.loads(download(hub, tmp_path, revision=old)) == CONFIG
        assert download(hub, tmp_path, revision="main") == b"{}"
        assert download(hub, tmp_path, revision="refs/pr/1") == b"[]"
        assert api.list_repo_files("org/name", revision="refs/pr/1") == api.list_repo_files("org/name")

    def test_small_files_come_from_the_hub_and_lfs_files_from_the_storage(self, hub: LocalHub, tmp_path: Path) -> None:
        download(hub, tmp_path, "config.json")
        download(hub, tmp_path, "model.safetensors")
        assert [(r.target.kind, r.target.file) for r in hub.requests.downloads] == [
            ("resolve-cache", "config.json"),
            ("cdn", "model.safetensors"),
        ]

    def test_metadata_names_commit_size_and_hash(self, hub: LocalHub) -> None:
        url = hf_hub_url("org/name", "model.safetensors", endpoint=hub.url)
        metadata = get_hf_file_metadata(url, token=False, endpoint=hub.url)
        assert metadata.commit_hash == hub.repos["org/name"].head.sha
        assert (metadata.etag, metadata.size) == (WEIGHTS.sha256, WEIGHTS.size)
        assert metadata.location.startswith(hub.urls["cdn"])
        assert metadata.xet_file_data is None

    def test_folder_on_disk_is_served_as_a_repository(self, hub: LocalHub, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "weights.bin").write_bytes(b"\1\2\3")
        hub.add_repo("org/disk", folder=tmp_path)
        assert download(hub, tmp_path / "cache", "sub/weights.bin", "org/disk") == b"\1\2\3"

    def test_names_with_spaces_and_accents_are_served(self, hub: LocalHub, tmp_path: Path) -> None:
        hub.add_repo("org/names", {"à la carte/x y.json": "{}", "ü %2F.bin": b"b"})
        assert download(hub, tmp_path, "à la carte/x y.json", "org/names") == b"{}"
        assert download(hub, tmp_path, "ü %2F.bin", "org/names") == b"b"

    def test_compressed_text_arrives_as_it_was(self, tmp_path: Path) -> None:
        text = json.dumps({str(i): i for i in range(1000)}).encode()
        hub = LocalHub(gzip_text=True)
        hub.add_repo("org/text", {"vocab.json": text})
        with hub.running():
            assert download(hub, tmp_path, "vocab.json", "org/text") == text
        assert hub.requests.downloads.sent < len(text) / 2

    def test_transformers_reads_a_config_in_another_process(self, hub: LocalHub, tmp_path: Path) -> None:
        program = "from transformers import AutoConfig; print(AutoConfig.from_pretrained('org/name').hidden_size)"
        environment = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert (done.stdout.strip(), done.returncode) == ("64", 0), done.stderr


class TestRanges:
    SIZE = 10 * GB

    @pytest.fixture
    def big_url(self, hub: LocalHub) -> str:
        tensors = {f"layers.{i}.weight": ("BF16", (50_000, 10_000)) for i in range(10)}
        hub.add_repo("org/big", {"model.safetensors": SparseFile.safetensors(tensors)})
        return hf_hub_url("org/big", "model.safetensors", endpoint=hub.url)

    def test_header_of_a_10_gb_file_is_read_by_range(self, hub: LocalHub, api: HfApi, big_url: str) -> None:
        header = api.parse_safetensors_file_metadata("org/big", "model.safetensors")
        assert header.parameter_count == {"BF16": 5_000_000_000}
        assert api.model_info("org/big").safetensors.total == 5_000_000_000
        assert api.get_paths_info("org/big", "model.safetensors")[0].size > self.SIZE
        assert hub.requests.downloads.sent == 100_001

    @pytest.mark.parametrize(
        ("asked", "first", "length"),
        [
            (f"bytes={9 * GB}-{9 * GB + 99}", 9 * GB, 100),
            ("bytes=-16", None, 16),
            (f"bytes={10 * GB}-", 10 * GB, None),
        ],
    )
    def test_any_range_is_served(self, hub: LocalHub, big_url: str, asked: str, first: int, length: int) -> None:
        size = hub.repos["org/big"].head.files["model.safetensors"].size
        length = size - first if length is None else length
        first = size - length if first is None else first
        answer = get_session().get(big_url, headers={"Range": asked})
        assert answer.status_code == 206
        assert answer.headers["Content-Range"] == f"bytes {first}-{first + length - 1}/{size}"
        assert answer.content == bytes(length)

    def test_range_past_the_end_is_416_and_tells_the_size(self, hub: LocalHub, big_url: str) -> None:
        size = hub.repos["org/big"].head.files["model.safetensors"].size
        answer = get_session().get(big_url, headers={"Range": f"bytes={size}-"})
        assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{size}")

    def test_small_files_serve_ranges_too(self, hub: LocalHub) -> None:
        url = hf_hub_url("org/name", "config.json", endpoint=hub.url)
        answer = get_session().get(url, headers={"Range": "bytes=1-4"})
        assert (answer.status_code, answer.content) == (206, json.dumps(CONFIG).encode()[1:5])

    def test_file_system_reads_the_parts_it_is_asked_for(self, hub: LocalHub, big_url: str) -> None:
        files = HfFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
        with files.open("org/big/model.safetensors", "rb", block_size=1 << 16) as file:
            length = int.from_bytes(file.read(8), "little")
            assert "layers.9.weight" in json.loads(file.read(length))
        assert hub.requests.downloads.sent < 1 << 18

    def test_requests_in_parallel_are_seen_as_such(self, hub: LocalHub, big_url: str) -> None:
        hub.fail("org/big", on="cdn", delay=0.5)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: get_session().get(big_url, headers={"Range": f"bytes={i}-{i}"}), range(4)))
        assert hub.requests.of("cdn").peak_concurrency == 4


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
