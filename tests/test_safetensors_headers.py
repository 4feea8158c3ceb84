"""Headers of safetensors files by range request: what they tell, what they cost, and what is refused of them."""

import itertools
import json
import struct
import time

import pytest
from safetensors import SafetensorError, deserialize

from quantspace.errors import HubUnreachable, ModelUnsupported
from quantspace.hub import safetensors_headers
from quantspace.hub.client import repo_facts
from quantspace.hub.fetch import Fetched
from quantspace.hub.reference import ModelRef
from quantspace.hub.safetensors_files import weight_bytes, weight_files
from quantspace.hub.safetensors_headers import BITS, parse_header, parse_index, read_headers
from tests.bench.headers import llama, sharded
from tests.hub import SparseFile

SOON = 5  # seconds: nobody waits longer for an error
numbers = itertools.count()
F32 = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.fixture(autouse=True)
def working_hub(hub):
    """Every test leaves a Hub without faults to the next."""
    yield
    hub.faults.clear()


def on_hub(hub, files):
    """Facts of a repository with these files, of this test's own."""
    model_id = f"headers/model-{next(numbers)}"
    hub.add_repo(model_id, files)
    return repo_facts(ModelRef(model_id))


def written(header, data=b"", length=None):
    """The bytes of a file with this header: an object or raw text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def parsed(header, data=24, **changes):
    """What is read of a file with this header and so many bytes of data."""
    body = written(header, **changes)
    return parse_header(body, len(body) + data, "model.safetensors")


BROKEN = {
    "no object": ([1, 2], "not an object"),
    "words": (b"hello", "can't be read"),
    "not UTF-8": (b'{"\xff": 1}', "can't be read"),
    "NaN": (b'{"a": NaN}', "can't be read"),
    "deep": (b'{"a":' + b'{"b":' * 100_000 + b"1" + b"}" * 100_001, "can't be read"),
    "key twice": (b'{"a":%b,"a":%b}' % ((json.dumps(F32).encode(),) * 2), "“a” stands in it twice"),
    "key in an entry twice": (
        b'{"a":{"dtype":"F32","dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}',
        "“dtype” stands in it twice",
    ),
    "entry a list": ({"a": []}, "“a” has an entry that is not a JSON object"),
    "no dtype": ({"a": {**F32, "dtype": None}}, "has dtype “None”"),
    "unknown dtype": ({"a": {**F32, "dtype": "F128"}}, "has dtype “F128”"),
    "dtype a list": ({"a": {**F32, "dtype": ["F32"]}}, "which the format has not"),
    "negative shape": ({"a": {**F32, "shape": [-2, -3]}}, "a shape that no tensor has"),
    "shape of floats": ({"a": {**F32, "shape": [2.0, 3.0]}}, "a shape that no tensor has"),
    "shape of truths": ({"a": {**F32, "shape": [True, 6]}}, "a shape that no tensor has"),
    "shape of words": ({"a": {**F32, "shape": "2,3"}}, "a shape that no tensor has"),
    "huge shape": ({"a": {**F32, "shape": [2**62, 2**62, 0]}}, "a shape that no tensor has"),
    "many dimensions": ({"a": {**F32, "shape": [1] * 17 + [6]}}, "a shape that no tensor has"),
    "no offsets": ({"a": {**F32, "data_offsets": None}}, "no data_offsets"),
    "three offsets": ({"a": {**F32, "data_offsets": [0, 24, 48]}}, "no data_offsets"),
    "negative offsets": ({"a": {**F32, "data_offsets": [-24, 0]}}, "no data_offsets"),
    "offsets of floats": ({"a": {**F32, "data_offsets": [0.0, 24.0]}}, "no data_offsets"),
    "backwards": ({"a": {**F32, "data_offsets": [24, 0]}}, "which is not its shape"),
    "too long": ({"a": {**F32, "data_offsets": [0, 25]}}, "which is not its shape"),
    "overlap": ({"a": F32, "b": {**F32, "data_offsets": [20, 44]}}, "“b” overlaps the one before"),
    "same place": ({"a": F32, "b": F32}, "overlaps the one before"),
    "hole": ({"a": {**F32, "data_offsets": [8, 32]}}, "“a” leaves a hole before it"),
    "beyond the file": ({"a": {**F32, "shape": [3, 3], "data_offsets": [0, 36]}}, "36 bytes of data"),
    "short of the file": ({"a": {**F32, "shape": [3], "data_offsets": [0, 12]}}, "12 bytes of data"),
    "metadata a list": ({"__metadata__": [1], "a": F32}, "__metadata__"),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "a": F32}, "__metadata__"),
    "name with a line feed": ({"a\nb": F32}, "no name of a tensor"),
    "half a character": (b'{"\\ud800": %b}' % json.dumps(F32).encode(), "no name of a tensor"),
    "name of 257 letters": ({"a" * 257: F32}, "no name of a tensor"),
    "long number": (b'{"a": ' + b"9" * 5000 + b"}", "can't be read"),
    "lists by the million": (b'{"a":[' + b"[]," * 2_000_000 + b"[]]}", "more than 150,000 tensors"),
    "numbers by the million": (b'{"a":[' + b"0," * 6_000_000 + b"0]}", "more than 150,000 tensors"),
}  # fmt: skip
FILES = dict.fromkeys(("model.safetensors.index.json", "a.safetensors", "b.safetensors", "c.bin", "t/a.safetensors"), 9)
# What the library takes of these: it does not look at names, nor for keys that stand twice.
LENIENT = ("key twice", "name with a line feed", "half a character", "name of 257 letters", "many dimensions")


class TestReading:
    def test_names_dtypes_shapes_and_bytes_are_those_of_the_file(self, hub, tiny_checkpoint):
        folder = tiny_checkpoint("llama-untied")
        facts = on_hub(hub, {"model.safetensors": folder / "model.safetensors"})
        (header,) = read_headers(facts)
        truth = dict(deserialize((folder / "model.safetensors").read_bytes()))
        assert {t.name: (t.dtype, list(t.shape), t.bytes) for t in header.tensors} == {
            name: (tensor["dtype"], tensor["shape"], len(tensor["data"])) for name, tensor in truth.items()
        }

    def test_single_file_takes_one_request(self, hub, tiny_checkpoint):
        facts = on_hub(hub, {"model.safetensors": tiny_checkpoint("llama-untied") / "model.safetensors"})
        cost = Fetched()
        read_headers(facts, cost=cost)
        assert cost.requests == 1

    def test_header_longer_than_guessed_takes_one_more_and_no_byte_twice(self, hub):
        tensors = {f"model.layers.{n}.a.very.long.name.of.a.tensor.weight": ("BF16", (4, 4)) for n in range(2000)}
        file = SparseFile.safetensors(tensors)
        facts = on_hub(hub, {"model.safetensors": file})
        cost = Fetched()
        (header,) = read_headers(facts, cost=cost)
        assert len(header.tensors) == 2000
        assert cost.requests == 2
        assert cost.bytes == file.size - header.data_bytes

    def test_a_70b_in_30_shards_takes_a_request_each_and_under_2_mb(self, hub):
        files = sharded(llama(80, 8192, 28672, 8, 128256), 30)
        facts = on_hub(hub, files)
        cost = Fetched()
        headers = read_headers(facts, cost=cost)
        assert sum(header.data_bytes for header in headers) == 141_107_412_992  # Llama-3.1-70B in BF16
        assert len(headers) == 30
        assert cost.requests == 31
        assert cost.bytes < 2 * 10**6 / 8  # and mostly far less
        sent = hub.requests.of(repo=facts.ref.id).downloads.sent
        assert cost.bytes <= sent < 2 * 10**6

    def test_requests_run_beside_each_other(self, hub):
        facts = on_hub(hub, sharded(llama(16, 64, 128, 2, 256), 16))
        hub.fail(facts.ref.id, file="*-of-*.safetensors", on="resolve", method="GET", delay=0.3)
        assert len(read_headers(facts)) == 16
        assert 2 < hub.requests.of("resolve", repo=facts.ref.id).peak_concurrency <= safetensors_headers.WORKERS

    def test_shards_without_an_index_are_read_too(self, hub):
        files = sharded(llama(4, 64, 128, 2, 256), 3)
        del files["model.safetensors.index.json"]
        assert len(read_headers(on_hub(hub, files))) == 3

    def test_parts_of_a_pipeline_are_read_once_each(self, hub):
        file = SparseFile.safetensors({"a.weight": ("F16", (4, 4))})
        files = dict.fromkeys(
            (
                "unet/diffusion_pytorch_model.safetensors",
                "unet/diffusion_pytorch_model.fp16.safetensors",
                "vae/diffusion_pytorch_model.fp16.safetensors",
                "all_in_one.safetensors",
            ),
            file,
        )
        headers = read_headers(on_hub(hub, {**files, "model_index.json": "{}"}))
        assert [header.path for header in headers] == [
            "unet/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.fp16.safetensors",
        ]

    def test_paths_choose_among_files(self, hub):
        one, other = (SparseFile.safetensors({name: ("F16", (4, 4))}) for name in ("a", "b"))
        facts = on_hub(hub, {"model.safetensors": one, "text/model.safetensors": other})
        (header,) = read_headers(facts, paths=["text/model.safetensors"])
        assert [tensor.name for tensor in header.tensors] == ["b"]

    def test_repository_without_them_says_so(self, hub):
        with pytest.raises(ModelUnsupported, match="no safetensors files"):
            read_headers(on_hub(hub, {"pytorch_model.bin": b"0"}))

    def test_body_that_ends_early_is_told(self, hub):
        facts = on_hub(hub, {"model.safetensors": SparseFile.safetensors({"a": ("F16", (40, 40))})})
        hub.fail(facts.ref.id, file="model.safetensors", on="cdn", truncate_after=20)
        with pytest.raises(HubUnreachable):
            read_headers(facts)

    def test_error_of_one_shard_ends_the_rest_and_what_was_fetched_is_counted(self, hub):
        files = sharded(llama(24, 64, 128, 2, 256), 24)
        files["model-00001-of-00024.safetensors"] = struct.pack("<Q", 2**63) + b"{}"
        facts = on_hub(hub, files)
        hub.fail(facts.ref.id, file="model-00002-*", delay=3.5)
        cost = Fetched()
        started = time.monotonic()
        with pytest.raises(ModelUnsupported, match=r"model-00001-of-00024\.safetensors.*claims"):
            read_headers(facts, cost=cost)
        assert time.monotonic() - started < 3.5  # nobody waits for the others
        assert 2 <= cost.requests < 24

    def test_headers_that_are_too_large_together_are_refused(self, hub, monkeypatch):
        monkeypatch.setattr(safetensors_headers, "MAX_ALL", 1000)
        with pytest.raises(ModelUnsupported, match=r"more than 1\.00 kB"):
            read_headers(on_hub(hub, sharded(llama(4, 64, 128, 2, 256), 3)))

    def test_too_many_tensors_together_are_refused(self, hub, monkeypatch):
        monkeypatch.setattr(safetensors_headers, "MAX_TENSORS", 30)
        files = sharded(llama(4, 64, 128, 2, 256), 3)
        del files["model.safetensors.index.json"]
        with pytest.raises(ModelUnsupported, match="more than 30 tensors"):
            read_headers(on_hub(hub, files))


class TestWhichFiles:
    @pytest.mark.parametrize(
        ("files", "expected"),
        [
            (["model.safetensors", "consolidated.safetensors", "original/consolidated.safetensors"], [0]),
            (["a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors", "consolidated.safetensors"], [0, 1]),
            (["model.safetensors.index.json", "model-00001-of-00002.safetensors", "consolidated.safetensors"], [0]),
            (["model.safetensors.index.json", "layer-1.safetensors", "layer-2.safetensors"], [0]),
            (["model.safetensors", "model-00001-of-00001.safetensors"], [0]),
            (["model.safetensors", "model.fp16.safetensors"], [0]),
            (["model.fp16.safetensors", "model.fp32.safetensors"], [0]),
            (["consolidated.safetensors", "tokenizer.json"], [0]),
            (["adapter_model.safetensors"], [0]),
            (["flux1-dev.safetensors", "ae.safetensors"], [0, 1]),
            (["model_index.json", "all.safetensors"], [1]),
            (["a/model.safetensors", "original/model.safetensors"], [0]),
            (["original/model.safetensors"], [0]),
            (["pytorch_model.bin", "config.json"], []),
        ],
    )  # fmt: skip
    def test_each_model_is_taken_once(self, files, expected):
        assert weight_files(dict.fromkeys(files, 8)) == tuple(files[place] for place in expected)

    def test_variant_of_an_index_is_known(self):
        files = ["a/model.fp16-00001-of-00002.safetensors", "a/model.safetensors.index.fp16.json"]
        assert weight_files(dict.fromkeys(files, 8)) == (files[1],)

    def test_ten_times_the_files_take_no_hundred_times_as_long(self):
        def seconds(count: int) -> float:
            index, shard = "m{}.safetensors.index.json", "m{}-00001-of-00001.safetensors"
            files = {name.format(n): size for n in range(count) for name, size in ((index, 7), (shard, 100))}
            started = time.thread_time()
            assert weight_bytes(files) == count * 100
            assert len(weight_files(files, [path for path in files if path.endswith(".safetensors")])) == count
            return time.thread_time() - started

        fewer, more = (min(seconds(count) for _ in range(3)) for count in (1_000, 10_000))
        assert more < 40 * fewer

    @pytest.mark.parametrize(
        ("files", "expected"),
        [
            ({"model.safetensors.index.json": 9, "model-00001-of-00002.safetensors": 3, "x.safetensors": 5}, 3),
            ({"model.safetensors.index.json": 9, "layer-1.safetensors": 3, "layer-2.safetensors": 5}, 8),
            ({"a/model.safetensors.index.json": 9, "a/model-1-of-1.safetensors": 3, "b/model.safetensors": 5}, 8),
            ({"model.safetensors.index.json": 9}, 0),
        ],
    )
    def test_bytes_of_an_index_are_those_of_what_it_may_name(self, files, expected):
        assert weight_bytes(files) == expected


class TestHeader:
    def test_sound_ones_are_read_as_the_library_reads_them(self):
        for header, data in (
            ({}, 0),
            ({"a": F32}, 24),
            ({"__metadata__": {"format": "pt"}, "a": F32}, 24),
            ({"__metadata__": None, "a": F32}, 24),
            ({"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, 4),
            ({"a": {"dtype": "F32", "shape": [0, 5], "data_offsets": [0, 0]}}, 0),
            ({"b": {"dtype": "I8", "shape": [3], "data_offsets": [24, 27]}, "a": F32}, 27),
        ):
            truth = deserialize(written(header, b"\0" * data))
            found = parsed(header, data).tensors
            assert {t.name: list(t.shape) for t in found} == {name: tensor["shape"] for name, tensor in truth}

    @pytest.mark.parametrize("dtype", BITS)
    def test_every_dtype_has_the_size_that_the_library_gives_it(self, dtype):
        size = 16 * BITS[dtype] // 8
        header = {"a": {"dtype": dtype, "shape": [16], "data_offsets": [0, size]}}
        deserialize(written(header, b"\0" * size))
        assert parsed(header, size).data_bytes == size

    @pytest.mark.parametrize("case", BROKEN)
    def test_broken_one_is_refused_with_what_is_wrong(self, case):
        header, message = BROKEN[case]
        started = time.monotonic()
        with pytest.raises(ModelUnsupported) as caught:
            parsed(header)
        assert time.monotonic() - started < SOON
        assert message in caught.value.message
        assert "model.safetensors" in caught.value.message
        assert len(caught.value.message) < 300
        assert caught.value.hint

    @pytest.mark.parametrize("case", [case for case in BROKEN if "million" not in case])
    def test_the_library_takes_none_that_is_read_here_otherwise(self, case):
        header, _ = BROKEN[case]
        try:
            deserialize(written(header, b"\0" * 24))
        except SafetensorError:
            return
        assert case in LENIENT

    @pytest.mark.parametrize(
        ("data", "size", "message"),
        [
            (b"", 0, "has 0 bytes"),
            (b"\2\0\0", 3, "has 3 bytes"),
            (struct.pack("<Q", 2**63), 100, "claims 9,223,372,036,854,775,808 bytes and the file has 100"),
            (struct.pack("<Q", 93) + b"{}", 100, "claims 93 bytes and the file has 100"),
            (struct.pack("<Q", 10**9), 10**12, "claims 1.00 GB, and no more than 20.00 MB are read"),
            (struct.pack("<Q", 50) + b"{}", 100, "ends after 10"),
        ],
    )
    def test_length_that_no_header_has_is_refused(self, data, size, message):
        with pytest.raises(ModelUnsupported, match=message):
            parse_header(data, size, "model.safetensors")

    def test_header_far_above_any_published_one_is_not_fetched(self, hub):
        tensors = {
            f"model.layers.{n}.self_attn.a_projection_of_a_long_name.weight": ("BF16", (4, 4)) for n in range(200_000)
        }
        facts = on_hub(hub, {"model.safetensors": SparseFile.safetensors(tensors)})
        cost, started = Fetched(), time.process_time()
        with pytest.raises(ModelUnsupported, match=r"no more than 20\.00 MB"):
            read_headers(facts, cost=cost)
        assert cost.requests == 1
        assert time.process_time() - started < 1

    def test_bytes_of_data_behind_the_header_do_no_harm(self):
        body = written({"a": F32}, b"\0" * 24)
        assert parse_header(body, len(body), "model.safetensors").data_bytes == 24


class TestIndex:
    def test_files_have_the_tensors_it_names(self):
        index = {"metadata": {}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "a.safetensors"}}
        found = parse_index(json.dumps(index).encode(), FILES)
        assert found == {"a.safetensors": ["x", "z"], "b.safetensors": ["y"]}

    def test_files_are_named_from_its_folder(self):
        index = json.dumps({"weight_map": {"x": "a.safetensors"}}).encode()
        assert parse_index(index, FILES, "t/model.safetensors.index.json") == {"t/a.safetensors": ["x"]}

    @pytest.mark.parametrize(
        ("index", "message"),
        [
            ("[]", "not an object"),
            ("{}", "no weight_map"),
            ('{"weight_map": ["a.safetensors"]}', "no weight_map"),
            ('{"weight_map": {}}', "names no tensor"),
            ('{"weight_map": {"x": 1}}', "does not name the file of “x”"),
            ('{"weight_map": {"x": "../../x"}}', "names “../../x”"),
            ('{"weight_map": {"x": "/etc/passwd"}}', "names “/etc/passwd”"),
            ('{"weight_map": {"x": "d.safetensors"}}', "names “d.safetensors”"),
            ('{"weight_map": {"x": "c.bin"}}', "names “c.bin”"),
            ('{"weight_map": {"x": "a.safetensors", "x": "b.safetensors"}}', "“x” stands in it twice"),
            ('{"weight_map": {"x\\u0000": "a.safetensors"}}', "no name of a tensor"),
            ('{"weight_map": NaN}', "can't be read"),
            ("{" * 100_000, "can't be read"),
        ],
    )
    def test_broken_one_is_refused_with_what_is_wrong(self, index, message):
        with pytest.raises(ModelUnsupported) as caught:
            parse_index(index.encode(), FILES)
        assert message in caught.value.message
        assert "model.safetensors.index.json" in caught.value.message

    def test_one_beyond_the_limit_is_not_fetched(self, hub):
        facts = on_hub(hub, {"model.safetensors.index.json": SparseFile(10**9)})
        with pytest.raises(ModelUnsupported, match="more than 38"):
            read_headers(facts)
        assert not hub.requests.of(repo=facts.ref.id).downloads

    def test_more_files_than_any_model_has_are_refused(self, hub, monkeypatch):
        monkeypatch.setattr(safetensors_headers, "MAX_FILES", 2)
        with pytest.raises(ModelUnsupported, match="3 safetensors files"):
            read_headers(on_hub(hub, sharded(llama(4, 64, 128, 2, 256), 3)))
