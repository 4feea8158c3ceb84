"""Fetching what a load reads: with progress, only what is needed, and stoppable."""

import itertools
import json
import time
from pathlib import Path

import pytest

from quantspace.errors import HubUnreachable, LoadFailed, ModelGated, QuantSpaceError
from quantspace.hub.client import repo_facts
from quantspace.hub.download import Downloaded, download, needed_files, seconds_left
from quantspace.hub.reference import ModelRef
from quantspace.settings import settings
from tests.hub import SparseFile

MB = 1_000_000
WEIGHTS = SparseFile.safetensors({"weight": ("BF16", (100, 64))})
CONFIG, TOKENIZER = '{"model_type": "llama"}', '{"version": "1.0"}'
numbers = itertools.count()


@pytest.fixture(autouse=True)
def working_hub(hub):
    yield
    hub.faults.clear()


@pytest.fixture
def published(hub):
    """Put files on the Hub under an id of their own; gives what the Hub then tells of them."""

    def publish(files, **about):
        model_id = f"download/model-{next(numbers)}"
        hub.add_repo(model_id, files, **about)
        return repo_facts(ModelRef(model_id))

    return publish


def small_model():
    return {"config.json": CONFIG, "tokenizer.json": TOKENIZER, "model.safetensors": WEIGHTS}


def large_model(size=60 * MB):
    """Large enough that the client, which writes pieces of 10 MiB, writes several."""
    return {"config.json": CONFIG, "model.safetensors": SparseFile(size, {size - 3: b"end"})}


def files_sent(hub, facts):
    return {request.target.file for request in hub.requests.of(repo=facts.ref.id).downloads}


def sent(hub, facts):
    """Bytes of files, those that are under way included."""
    return sum(request.sent for request in hub.requests.of(repo=facts.ref.id) if request.target.file)


class TestProgress:
    def test_bytes_grow_to_the_total_and_the_folder_comes_last(self, hub, published):
        facts = published(large_model())
        hub.fail(facts.ref.id, file="model.safetensors", bytes_per_second=100 * MB)

        *events, folder = download(facts)

        total = sum(facts.files.values())
        done = [event.done for event in events]
        assert all(isinstance(event, Downloaded) and event.total == total for event in events)
        assert done == sorted(done)
        assert done[-1] == total
        assert any(0 < amount < total for amount in done)
        assert isinstance(folder, Path)
        assert {path.name: path.stat().st_size for path in folder.iterdir()} == facts.files

    def test_no_more_bytes_are_reported_than_the_hub_has_sent(self, hub, published):
        facts = published(large_model())
        hub.fail(facts.ref.id, file="model.safetensors", bytes_per_second=100 * MB)
        seen = [(event.done, sent(hub, facts)) for event in download(facts) if isinstance(event, Downloaded)]
        assert all(done <= sent_by_then for done, sent_by_then in seen)
        assert any(0 < done < sum(facts.files.values()) for done, _ in seen)

    def test_second_time_nothing_is_transferred(self, hub, published):
        facts = published(small_model())
        *_, first = download(facts)
        sent = len(hub.requests.of(repo=facts.ref.id).downloads)
        *events, second = download(facts)

        assert len(hub.requests.of(repo=facts.ref.id).downloads) == sent
        assert second == first
        assert events[-1] == Downloaded(sum(facts.files.values()), sum(facts.files.values()))

    def test_new_commit_fetches_only_what_changed(self, hub, published):
        facts = published(small_model())
        *_, first = download(facts)
        hub.commit(facts.ref.id, {"tokenizer.json": '{"version": "2.0"}'})
        hub.requests.clear()
        *_, second = download(repo_facts(facts.ref))

        assert files_sent(hub, facts) == {"tokenizer.json"}
        assert second != first
        assert json.loads((second / "tokenizer.json").read_text())["version"] == "2.0"

    @pytest.mark.parametrize(("done", "left"), [(250, 30), (500, 10), (1000, 0)])
    def test_time_that_is_left_follows_from_the_mean_speed(self, done, left):
        assert seconds_left(done, 1000, time.monotonic() - 10) == pytest.approx(left, abs=0.1)

    def test_time_that_is_left_is_not_known_before_the_first_byte(self):
        assert seconds_left(0, 1000, time.monotonic() - 10) is None


class TestWhichFiles:
    @pytest.mark.parametrize(
        "other",
        [
            "pytorch_model.bin", "model.pt", "weights.pth", "tf_model.h5", "flax_model.msgpack", "rust_model.ot",
            "consolidated.safetensors", "consolidated.00.pth", "original/consolidated.00.pth", "onnx/model.onnx",
            "model.fp16.safetensors", "adapter_model.safetensors", "model-Q4_K_M.gguf", "training_args.bin",
            "unet/model.safetensors", "modeling_custom.py", "README.md", ".gitattributes", "coreml/model.mlmodel",
        ],
    )  # fmt: skip
    def test_other_formats_are_not_fetched(self, published, other):
        facts = published({**small_model(), other: b"not wanted"})
        assert needed_files(facts).keys() == small_model().keys()

    def test_only_needed_files_are_asked_for(self, hub, published):
        others = {"pytorch_model.bin": b"x", "onnx/model.onnx": b"x", "consolidated.safetensors": b"x", "a.py": b"x"}
        facts = published({**small_model(), **others})
        *_, folder = download(facts)

        asked = {r.target.file for r in hub.requests.of(repo=facts.ref.id)} - {None}
        assert asked == small_model().keys()
        assert {path.name for path in folder.iterdir()} == small_model().keys()

    def test_shards_come_with_their_index(self, hub, published):
        shards = {f"model-0000{i}-of-00002.safetensors": SparseFile(i * MB) for i in (1, 2)}
        index = {"model.safetensors.index.json": json.dumps({"weight_map": {}})}
        facts = published({"config.json": CONFIG, **shards, **index})
        list(download(facts))
        assert files_sent(hub, facts) == {"config.json", *shards, *index}

    def test_weights_that_lie_there_twice_are_fetched_once(self, published):
        shards = {f"model-0000{i}-of-00002.safetensors": WEIGHTS for i in (1, 2)}
        index = {"model.safetensors.index.json": json.dumps({"weight_map": {}})}
        facts = published({**small_model(), **shards, **index})
        assert needed_files(facts).keys() == small_model().keys()


class TestRefusals:
    @pytest.mark.parametrize(
        "weights", [{"pytorch_model.bin": b"\x80\x04."}, {"model.gguf": b"GGUF"}, {"README.md": b"words"}]
    )
    def test_model_without_safetensors_is_refused_and_nothing_fetched(self, hub, published, weights):
        facts = published({"config.json": CONFIG, **weights})
        with pytest.raises(LoadFailed, match="no safetensors weights") as caught:
            list(download(facts))
        assert "model.safetensors" in caught.value.hint
        assert not files_sent(hub, facts)

    def test_model_larger_than_this_machine_may_fetch_is_refused_and_nothing_fetched(self, hub, published):
        facts = published({"config.json": CONFIG, "model.safetensors": SparseFile(settings().max_download_bytes)})
        with pytest.raises(LoadFailed, match=r"weights of download/.* are 40.00 GB; at most 40.00 GB") as caught:
            list(download(facts))
        assert "smaller model" in caught.value.hint
        assert not files_sent(hub, facts)

    def test_gated_weights_without_a_token(self, hub, published):
        facts = published(small_model(), gated="manual")
        with pytest.raises(ModelGated) as caught:
            list(download(facts))
        assert "Accept them at" in caught.value.hint

    def test_storage_that_fails_is_told_and_the_next_try_works(self, hub, published):
        facts = published(small_model())
        hub.fail(facts.ref.id, on="cdn", status=503)
        with pytest.raises(HubUnreachable, match="503"):
            list(download(facts))

        hub.faults.clear()
        *_, folder = download(facts)
        assert (folder / "model.safetensors").stat().st_size == WEIGHTS.size

    @pytest.mark.parametrize(
        "fault", [{"truncate_after": 100}, {"body": b"too short"}], ids=["connection breaks off", "wrong length"]
    )
    def test_body_that_ends_early_is_told_and_the_next_try_works(self, hub, published, fault):
        facts = published(small_model())
        hub.fail(facts.ref.id, file="model.safetensors", **fault)
        with pytest.raises(QuantSpaceError) as caught:
            list(download(facts))
        assert facts.ref.id in caught.value.message
        assert "ry again" in caught.value.hint

        hub.faults.clear()
        *_, folder = download(facts)
        assert (folder / "model.safetensors").stat().st_size == WEIGHTS.size

    def test_connection_that_breaks_off_once_is_taken_up_unnoticed(self, hub, published):
        facts = published(small_model())
        rule = hub.fail(facts.ref.id, file="model.safetensors", truncate_after=100, times=1)
        *_, folder = download(facts)
        assert rule.hits == 1
        assert (folder / "model.safetensors").stat().st_size == WEIGHTS.size


class TestStopping:
    def test_closing_stops_the_transfer_and_a_later_call_completes_it(self, hub, published):
        facts = published(large_model())
        total = sum(facts.files.values())
        hub.fail(facts.ref.id, file="model.safetensors", bytes_per_second=40 * MB)

        transfer = download(facts)
        assert any(event.done > MB for event in transfer)  # some of the weights have come
        transfer.close()

        request = hub.requests.of("cdn", repo=facts.ref.id)[0]
        deadline = time.monotonic() + 5
        while request.finished is None and time.monotonic() < deadline and not _stalled(request):
            time.sleep(0.05)
        assert request.sent < total * 0.9

        hub.faults.clear()
        *_, folder = download(facts)
        weights = folder / "model.safetensors"
        assert weights.stat().st_size == facts.files["model.safetensors"]
        assert weights.read_bytes().endswith(b"end")

    def test_files_that_have_come_whole_are_not_fetched_again(self, hub, published):
        facts = published(large_model())
        hub.fail(facts.ref.id, file="model.safetensors", bytes_per_second=40 * MB)
        transfer = download(facts)
        assert any(event.done > MB for event in transfer)
        transfer.close()
        hub.faults.clear()
        hub.requests.clear()

        list(download(facts))
        assert files_sent(hub, facts) == {"model.safetensors"}

    def test_closing_before_the_first_step_asks_for_nothing(self, hub, published):
        facts = published(small_model())
        download(facts).close()
        assert not files_sent(hub, facts)


def _stalled(request, seconds=0.3):
    """Whether nothing more is sent: the client has left."""
    before = request.sent
    time.sleep(seconds)
    return request.sent == before
