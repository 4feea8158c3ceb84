"""Headers of GGUF files: equal to what the `gguf` package reads, cheap, and safe against files that lie."""

import itertools
import struct
import time

import gguf
import numpy as np
import pytest
from gguf.quants import quantize

from quantspace.errors import HubUnreachable, ModelUnsupported
from quantspace.hub.client import repo_facts
from quantspace.hub.fetch import Fetched
from quantspace.hub.ggml_types import FILE_TYPES, GGML_TYPES
from quantspace.hub.gguf_files import gguf_files, header_label, label_of, not_a_model
from quantspace.hub.gguf_header import parse_header
from quantspace.hub.gguf_reader import ALL_BYTES, TooMuchToRead, read_alike, read_gguf
from quantspace.hub.gguf_values import MAX_VALUES, Unread
from quantspace.hub.reference import ModelRef
from quantspace.settings import settings
from tests.gguf_bytes import CountingBytes, built, key, parsed, sample, tensor
from tests.gguf_samples import quantized, sparse_gguf
from tests.hub import SparseFile

numbers = itertools.count()
LITTLE, BIG = gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG
ROWS = 3


def real_array(kind):
    """A small array in one of ggml's types: quantized by the `gguf` package where it can, else plain bytes."""
    values = np.linspace(-1, 1, ROWS * 256, dtype=np.float32).reshape(ROWS, 256)
    plain = {"F64": np.float64, "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "F16": np.float16}
    if kind.name in plain:
        return values.astype(plain[kind.name]), None
    if kind.name == "F32":
        return values, None
    try:
        return quantize(values, kind), kind
    except NotImplementedError:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        return np.zeros((ROWS, 256 // block * size), np.uint8), kind


def write_all(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def seen_by_gguf(path):
    """Name, shape as in PyTorch, type, bytes and place of every tensor, as the `gguf` package reads them."""
    return [
        (t.name, tuple(map(int, t.shape[::-1])), t.tensor_type.name, int(t.n_bytes), int(t.data_offset))
        for t in gguf.GGUFReader(path).tensors
    ]


def seen_by_us(header):
    return [(t.name, t.shape, t.type, t.bytes, header.data_at + t.offset) for t in header.tensors]


class TestTypes:
    def test_every_type_has_the_number_and_the_block_that_the_gguf_package_gives_it(self):
        ours = {number: (kind.name, kind.block, kind.size) for number, kind in GGML_TYPES.items()}
        assert ours == {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}

    def test_every_kind_of_file_is_called_as_llama_cpp_calls_it(self):
        theirs = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
        del theirs[int(gguf.LlamaFileType.GUESSED)]
        assert theirs == FILE_TYPES


class TestEqualToTheGgufPackage:
    @pytest.mark.parametrize("endian", [LITTLE, BIG], ids=["little-endian", "big-endian"])
    def test_tensors_of_every_type_are_the_same(self, tmp_path, endian):
        path = tmp_path / "all.gguf"
        writer = gguf.GGUFWriter(path, "llama", endianess=endian)
        for kind in gguf.GGML_QUANT_SIZES:
            data, raw = real_array(kind)
            writer.add_tensor(f"blk.0.{kind.name}.weight", data, raw_dtype=raw)
        writer.add_tensor("four.weight", np.zeros((2, 3, 5, 7), np.float32))
        writer.add_tensor("vector", np.zeros(9, np.float32))
        write_all(writer)
        header = parsed(path.read_bytes())
        assert header.big_endian == (endian is BIG)
        assert seen_by_us(header) == seen_by_gguf(path)
        assert {t.type for t in header.tensors} == {kind.name for kind in gguf.GGML_QUANT_SIZES}

    @pytest.mark.parametrize("endian", [LITTLE, BIG], ids=["little-endian", "big-endian"])
    def test_metadata_of_every_type_of_value_is_the_same(self, tmp_path, endian):
        writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen3", endianess=endian)
        given = {
            "uint8": 255, "int8": -128, "uint16": 65535, "int16": -32768, "uint32": 2**32 - 1, "int32": -(2**31),
            "uint64": 2**64 - 1, "int64": -(2**63), "float32": 0.5, "float64": 0.1, "bool": True, "string": "héllo\n",
        }  # fmt: skip
        for kind, value in given.items():
            getattr(writer, f"add_{kind}")(f"x.{kind}", value)
        lists = {"numbers": [1, -2, 3], "floats": [0.25, 0.5], "bools": [True, False], "texts": ["a", "ü", ""]}
        for name, value in lists.items():
            writer.add_array(f"x.{name}", value)
        write_all(writer)
        header = parsed((tmp_path / "m.gguf").read_bytes())
        assert {key: header.metadata[f"x.{key}"] for key in given | lists} == given | lists
        assert header.architecture == "qwen3"

    def test_alignment_of_the_file_is_followed(self, tmp_path):
        path = tmp_path / "aligned.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_custom_alignment(4096)
        for name in "abc":
            writer.add_tensor(name, np.zeros(5, np.float32))
        write_all(writer)
        header = parsed(path.read_bytes())
        assert header.alignment == 4096
        assert seen_by_us(header) == seen_by_gguf(path)

    def test_version_2_is_read_as_version_3_is(self):
        data = sample()
        older = data[:4] + struct.pack("<I", 2) + data[8:]
        assert parsed(older).version == 2
        assert parsed(older).tensors == parsed(data).tensors


class TestReading:
    def test_vocabularies_are_passed_over_and_their_length_is_kept(self):
        file = sparse_gguf("llama", {"block_count": 1}, {"a": ((2, 2), "F32")}, vocabulary=MAX_VALUES + 1)
        metadata = parsed(file.parts[0], file.size).metadata
        for values in ("tokens", "scores", "token_type"):
            assert metadata[f"tokenizer.ggml.{values}"] == Unread(MAX_VALUES + 1)
        assert metadata["llama.block_count"] == 1

    @pytest.mark.parametrize("first", [1, 24, 100, 4096])
    def test_header_is_the_same_however_small_the_pieces_are(self, first):
        data = sample(vocabulary=5000)
        assert parse_header(CountingBytes(data), len(data), "m", first=first) == parse_header(
            CountingBytes(data), len(data), "m"
        )

    def test_at_most_16_mb_of_a_40_gb_file_with_the_largest_vocabulary_are_fetched(self, hub):
        layer = {f"blk.{i}.ffn_up.weight": ((28672, 8192), "Q4_K") for i in range(290)}
        file = sparse_gguf("gemma3", {"block_count": 290}, layer, vocabulary=262_144)
        assert file.size > 38 * 10**9
        model_id = f"gguf/large-{next(numbers)}"
        hub.add_repo(model_id, {"m.gguf": file})
        cost = Fetched()
        header = read_gguf(repo_facts(ModelRef(model_id)), "m.gguf", cost=cost)
        assert len(header.tensors) == 290
        assert cost.bytes <= 16 * 2**20
        assert cost.bytes <= 2 * header.data_at + 2**20

    def test_split_file_is_one_header_whichever_part_is_named(self, hub):
        tensors = quantized({f"blk.{i}.ffn_up.weight": (64, 256) for i in range(7)}, "Q4_K")
        parts = sparse_gguf("llama", {"block_count": 7}, tensors, parts=3)
        paths = [f"q/m-Q4_K_M-{n:05}-of-00003.gguf" for n in (1, 2, 3)]
        model_id = f"gguf/split-{next(numbers)}"
        hub.add_repo(model_id, dict(zip(paths, parts, strict=True)))
        facts = repo_facts(ModelRef(model_id))
        for path in (paths[0], paths[2]):
            header = read_gguf(facts, path)
            assert {t.name: (t.shape, t.type) for t in header.tensors} == tensors
            assert header.get("block_count") == 7

    def test_part_that_is_missing_is_said(self, hub):
        parts = sparse_gguf("llama", {}, {name: ((4, 4), "F32") for name in "abc"}, parts=3)
        model_id = f"gguf/missing-{next(numbers)}"
        hub.add_repo(model_id, {"m-00001-of-00003.gguf": parts[0], "m-00003-of-00003.gguf": parts[2]})
        with pytest.raises(ModelUnsupported, match="one of 3 parts, of which 1 are not there"):
            read_gguf(repo_facts(ModelRef(model_id)), "m-00001-of-00003.gguf")

    def test_other_files_of_the_model_cost_a_fraction_and_their_tensors_are_their_own(self, hub):
        shapes = {f"blk.{i}.ffn_up.weight": (512, 256) for i in range(50)}
        kinds = ("Q8_0", "Q4_K", "IQ2_XXS")
        files = {
            f"m-{kind}.gguf": sparse_gguf(
                "llama", {"block_count": 50, "general.name": "x" * len(kind) * 100}, quantized(shapes, kind), 100_000
            )
            for kind in kinds
        }
        model_id = f"gguf/alike-{next(numbers)}"
        hub.add_repo(model_id, files)
        facts = repo_facts(ModelRef(model_id))
        known, whole, cost = read_gguf(facts, "m-Q8_0.gguf", cost=(first := Fetched())), first.bytes, Fetched()
        others = [file for file in gguf_files(facts) if file.path != "m-Q8_0.gguf"]
        found = dict(zip((file.label for file in others), read_alike(facts, known, others, cost=cost), strict=True))
        for kind in kinds[1:]:
            assert found[kind] == read_gguf(facts, f"m-{kind}.gguf").tensors
            assert {t.type for t in found[kind]} == {kind}
        assert cost.bytes < whole / 5

    def test_file_whose_list_lies_elsewhere_is_read_itself_and_what_a_broken_one_lacks_is_said(self, hub):
        shapes = {f"blk.{i}.ffn_up.weight": (512, 256) for i in range(5)}
        known = sparse_gguf("llama", {}, quantized(shapes, "Q8_0"), vocabulary=10_000)
        elsewhere = sparse_gguf("llama", {}, quantized(shapes, "Q4_K"), vocabulary=100_000)
        cut = SparseFile(known.size // 2, known.parts)
        found, facts = alike(hub, {"a": known, "b": elsewhere, "c": cut, "d": b"no GGUF" * 9})
        assert found["b"] == read_gguf(facts, "b.gguf").tensors
        for name, said in (("c", "ends before the end of"), ("d", "is not a GGUF file")):
            assert isinstance(found[name], ModelUnsupported)
            assert said in found[name].message

    def test_files_of_a_second_model_cost_one_header_more(self, hub):
        first, second = ({f"blk.{i}.ffn_up.weight": (512, width) for i in range(5)} for width in (256, 512))
        files = {"a": sparse_gguf("llama", {}, quantized(first, "Q8_0"), vocabulary=1000)}
        for kind in ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"):
            files[f"b-{kind}"] = sparse_gguf("qwen3", {}, quantized(second, kind), vocabulary=100_000)
        cost = Fetched()
        found, facts = alike(hub, files, cost)
        read_gguf(facts, "b-Q8_0.gguf", cost=(whole := Fetched()))
        for name in files.keys() - {"a"}:
            assert found[name] == read_gguf(facts, f"{name}.gguf").tensors
        assert cost.bytes < 2 * whole.bytes

    def test_split_file_whose_first_part_has_metadata_alone_is_read_beside_another(self, hub):
        listed = [tensor(b"t"), tensor(b"u", offset=128)]
        files = {
            "a": built(listed),
            "m-00001-of-00002": built(keys=[key()]),
            "m-00002-of-00002": built(listed),
        }
        found, _ = alike(hub, files, cost := Fetched())
        assert [each.name for each in found["m-00001-of-00002"]] == ["t", "u"]
        assert cost.requests == 2

    def test_headers_beyond_what_one_question_reads_are_told_apart_from_broken_ones(self, hub):
        files = {"a": built([tensor()]), "near": built([tensor()])}
        for number in range(12):  # vocabularies of 5 MB, none as long as another
            count = 600_000 + 20_000 * number
            words = struct.pack("<IQ", 8, count) + bytes(8 * count)
            files[f"far-{number}"] = built([tensor()], keys=[key(kind=9, value=words)])
        cost = Fetched()
        found, _ = alike(hub, files, cost)
        refused = [each for each in found.values() if not isinstance(each, tuple)]
        assert {type(each) for each in refused} == {TooMuchToRead}
        assert 0 < len(refused) < 12
        assert isinstance(found["near"], tuple)
        assert cost.bytes <= ALL_BYTES

    def test_file_that_the_hub_does_not_give_is_told_apart_and_can_be_read_later(self, hub):
        fault = hub.fail(f"gguf/alike-{(number := next(numbers))}", file="b.gguf", status=503)
        files = {"a": built([tensor()]), "b": built([tensor()])}
        found, facts = alike(hub, files, number=number)
        assert isinstance(found["b"], HubUnreachable)
        hub.faults.remove(fault)
        (again,) = read_alike(facts, read_gguf(facts, "a.gguf"), gguf_files(facts)[1:])
        assert [each.name for each in again] == ["t"]

    def test_when_the_time_has_passed_no_more_is_asked_for(self, hub, monkeypatch):
        _, facts = alike(hub, {"a": built([tensor()]), "b": built([tensor()])})
        known, cost = read_gguf(facts, "a.gguf"), Fetched()
        monkeypatch.setenv("QUANTSPACE_FETCH_SECONDS", "0")
        settings.cache_clear()
        try:
            (found,) = read_alike(facts, known, gguf_files(facts)[1:], cost=cost)
        finally:
            monkeypatch.undo()
            settings.cache_clear()
        assert isinstance(found, HubUnreachable)
        assert found.message == "The header of b.gguf did not arrive within 0 s."
        assert cost.requests == 0

    def test_lists_that_are_not_found_take_little_time_however_long_they_are(self, hub):
        files = {
            prefix: built(
                [tensor(f"{prefix}.{n}.{'x' * 30}".encode(), (1,), 24, 32 * n) for n in range(19_000)],
                data=32 * 19_000,
            )
            for prefix in "abcde"
        }
        started = time.process_time()
        found, _ = alike(hub, files)
        assert {len(each) for each in found.values()} == {19_000}
        assert time.process_time() - started < 5


class TestFiles:
    @pytest.mark.parametrize(
        ("path", "label"),
        [
            ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
            ("x-UD-Q4_K_XL-00001-of-00003.gguf", "UD-Q4_K_XL"),
            ("BF16/m-00001-of-00002.gguf", "BF16"),
            ("m.IQ2_XXS.gguf", "IQ2_XXS"),
            ("m-iq4_nl.gguf", "IQ4_NL"),
            ("gemma-3-4b-it-q4_0.gguf", "Q4_0"),
            ("m.fp16.gguf", "F16"),
            ("m-Q4_0_4_8.gguf", "Q4_0_4_8"),
            ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
            ("Qwen3-8B.gguf", ""),
        ],
    )
    def test_label_is_read_from_the_name(self, path, label):
        assert label_of(path) == label

    def test_parts_are_one_file_and_what_is_no_model_is_told_apart(self, hub):
        model_id = f"gguf/kinds-{next(numbers)}"
        names = ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf", "m-Q4_0.gguf", "mmproj-F16.gguf"]
        hub.add_repo(model_id, {**dict.fromkeys(names, b"xx"), "m.imatrix.gguf": b"x", "README.md": "x"})
        found = [
            (file.path, len(file.paths), file.size, file.kind) for file in gguf_files(repo_facts(ModelRef(model_id)))
        ]
        assert found == [
            ("m.imatrix.gguf", 1, 1, "other"),
            ("m-Q4_0.gguf", 1, 2, "model"),
            ("mmproj-F16.gguf", 1, 2, "projector"),
            ("m-Q8_0-00001-of-00002.gguf", 2, 4, "model"),
        ]

    @pytest.mark.parametrize(
        "name",
        [
            "m-00001-of-00000",
            "m-00000-of-00000",
            "m-00000-of-00001",
            "m-00003-of-00002",
            "m-00001-of-99999",
            "m-99999-of-99999",
            "m-00001-of-01001",
        ],
    )
    def test_part_that_cannot_be_is_refused_and_leaves_sound_files_alone(self, hub, name):
        model_id = f"gguf/parts-{next(numbers)}"
        sound = ["m-00001-of-00001.gguf", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
        hub.add_repo(model_id, {path: built() for path in [f"{name}.gguf", *sound]})
        facts = repo_facts(ModelRef(model_id))
        with pytest.raises(ModelUnsupported, match="which can't be read"):
            read_gguf(facts, f"{name}.gguf")
        files = {file.paths for file in gguf_files(facts)}
        assert files == {(f"{name}.gguf",), tuple(sound[:1]), tuple(sound[1:])}
        for path in sound:
            assert read_gguf(facts, path).tensors == ()

    def test_parts_in_two_folders_or_of_two_spellings_are_not_put_together(self, hub):
        model_id = f"gguf/apart-{next(numbers)}"
        paths = ["a/m-00001-of-00002.gguf", "b/m-00002-of-00002.gguf", "m-00001-of-00002.gguf", "m-00001-of-00002.GGUF"]
        hub.add_repo(model_id, {path: built([tensor()]) for path in paths})
        facts = repo_facts(ModelRef(model_id))
        assert {file.paths for file in gguf_files(facts)} == {(path,) for path in paths}
        for path in paths:
            with pytest.raises(ModelUnsupported, match="one of 2 parts, of which 1 are not there"):
                read_gguf(facts, path)

    def test_file_without_a_label_is_called_by_its_metadata_else_by_its_commonest_type(self):
        tensors = {"a": ((4, 256), "Q6_K"), "b": ((8, 256), "IQ4_XS")}
        told = sparse_gguf("llama", {"general.file_type": 15}, tensors)
        untold = sparse_gguf("llama", {}, tensors)
        assert header_label(parsed(told.parts[0], told.size)) == "Q4_K_M"
        assert header_label(parsed(untold.parts[0], untold.size)) == "IQ4_XS"

    @pytest.mark.parametrize(
        ("architecture", "metadata", "tensors", "said"),
        [
            ("llama", {"general.type": "adapter"}, {"a": ((2, 2), "F32")}, "adapter"),
            ("clip", {}, {"v.a": ((2, 2), "F32")}, "vision"),
            ("llama", {"general.type": "model"}, {}, "vocabulary"),
            ("llama", {"general.type": "model"}, {"a": ((2, 2), "F32")}, ""),
        ],
    )
    def test_file_that_holds_no_model_is_said_to(self, architecture, metadata, tensors, said):
        file = sparse_gguf(architecture, metadata, tensors)
        what = not_a_model(parsed(file.parts[0], file.size))
        assert said in what
        assert bool(said) == bool(what)


def alike(hub, files, cost=None, number=None):
    """What `read_alike` gives of a repository's files beside `a`, by name, and what the Hub tells of it."""
    model_id = f"gguf/alike-{next(numbers) if number is None else number}"
    hub.add_repo(model_id, {f"{name}.gguf": file for name, file in files.items()})
    facts = repo_facts(ModelRef(model_id))
    others = [file for file in gguf_files(facts) if file.path != "a.gguf"]
    found = read_alike(facts, read_gguf(facts, "a.gguf"), others, cost=cost)
    return {file.path.removesuffix(".gguf"): each for file, each in zip(others, found, strict=True)}, facts
