"""What the local Hub tells and serves, as the real client sees it."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import HfApi, HfFileSystem, get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils import get_session

from tests.hub import LocalHub, SparseFile
from tests.local_hub.support import CONFIG, GB, WEIGHTS, download


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
