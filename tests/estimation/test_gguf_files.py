"""Rows of real GGUF files: their true bytes, their cache, and how many of their layers fit."""

import itertools
from dataclasses import replace
from math import prod

import pytest

from quantspace.errors import BadInput, ModelNotFound, ModelUnsupported
from quantspace.estimation.builder import inventory_for
from quantspace.estimation.fit import Hardware, Workload, fit, fit_table, recommend
from quantspace.estimation.gguf.from_header import file_by_size, file_of
from quantspace.estimation.gguf.repository import MAX_READ, read_gguf_inventory, with_gguf_files
from quantspace.estimation.gguf.rows import asked_file, file_precisions, precision_for
from quantspace.estimation.hardware import find_gpu
from quantspace.estimation.inventory_file import dump, load
from quantspace.hub.client import repo_facts
from quantspace.hub.fetch import Fetched
from quantspace.hub.gguf_files import GgufPaths, label_of
from quantspace.hub.reference import ModelRef
from quantspace.precision import PRECISIONS
from tests.gguf_samples import (
    BYTES,
    LLAMA,
    header_of,
    llama_files,
    llama_tensors,
    quantized,
    sparse_gguf,
    sum_of,
    tensor_bytes,
    tensors_of,
)
from tests.hub import SparseFile

numbers = itertools.count()


@pytest.fixture
def repository(hub):
    """Make a repository of files, and give what the Hub tells of it."""

    def made(files, **card):
        model_id = f"gguf-rows/{next(numbers)}"
        hub.add_repo(model_id, files, **card)
        return repo_facts(ModelRef(model_id))

    return made


def card(name="a100-80gb", count=1, ram=0):
    return Hardware(find_gpu(name), count, ram)


class TestRows:
    def test_each_file_is_a_row_of_its_true_size_and_there_are_no_others(self, repository):
        rows = fit_table(read_gguf_inventory(repository(llama_files())), card(), Workload())
        assert [row.precision.id for row in rows] == [f"gguf:m-{kind}.gguf" for kind in ("Q8_0", "Q4_K", "Q2_K")]
        for row, kind in zip(rows, ("Q8_0", "Q4_K", "Q2_K"), strict=True):
            assert row.weights.footprint == sum_of(llama_tensors(), kind)
            assert row.exact
            assert row.loadable
            assert row.precision.engine == "llama.cpp"

    @pytest.mark.parametrize("tied", [False, True])
    def test_token_embeddings_stay_in_system_memory_unless_they_are_the_head_too(self, repository, tied):
        inventory = read_gguf_inventory(repository(llama_files(["Q4_K"], tied=tied)))
        whole = sum_of(llama_tensors(tied=tied), "Q4_K")
        embeddings = tensor_bytes((32_000, 4096), "Q6_K")
        on_gpu = fit_table(inventory, card(), Workload())[0]
        assert on_gpu.weights.held == whole - (0 if tied else embeddings)
        assert fit_table(inventory, card("cpu"), Workload())[0].weights.held == whole
        assert any("stay in system memory" in note for note in on_gpu.notes) != tied

    @pytest.mark.parametrize("gpu", ["a100-80gb", "cpu"])
    @pytest.mark.parametrize("count", [1, 2])
    def test_terms_of_a_row_sum_to_its_parts(self, repository, gpu, count):
        rows = fit_table(read_gguf_inventory(repository(llama_files())), card(gpu, count), Workload(5000, 3))
        for row in rows:
            for part, terms in row.terms().items():
                assert sum(term.bytes for term in terms) == getattr(row.needed, part)

    def test_split_file_is_one_row(self, repository):
        parts = sparse_gguf("llama", LLAMA, quantized(llama_tensors(), "Q4_K"), parts=3)
        facts = repository({f"m-Q4_K_M-{n:05}-of-00003.gguf": part for n, part in enumerate(parts, 1)})
        (row,) = fit_table(read_gguf_inventory(facts), card(), Workload())
        assert row.weights.footprint == sum_of(llama_tensors(), "Q4_K")
        assert row.file.size == sum(part.size for part in parts)
        assert row.precision.label == "Q4_K_M"

    def test_largest_file_that_fits_is_recommended_and_float32_only_where_nothing_else_is(self, repository):
        inventory = read_gguf_inventory(repository(llama_files(["F32", "F16", "Q4_K"])))
        assert recommend(fit_table(inventory, card(), Workload())) == "gguf:m-F16.gguf"
        alone = read_gguf_inventory(repository(llama_files(["F32"])))
        assert recommend(fit_table(alone, card(), Workload())) == "gguf:m-F32.gguf"

    def test_where_nothing_fits_nothing_is_recommended(self, repository):
        inventory = read_gguf_inventory(repository(llama_files(["F32"], layers=80)))
        assert recommend(fit_table(inventory, card("t4"), Workload())) is None

    def test_25_files_with_a_large_vocabulary_cost_less_than_one_header_twice(self, repository):
        kinds = [kind for kind in BYTES if kind not in ("Q8_1", "Q8_K") and not kind.startswith("I")] + ["IQ4_XS"]
        files = {
            f"m-{kind}.gguf": sparse_gguf("llama", LLAMA, quantized(llama_tensors(), kind), 262_144)
            for kind in kinds[:25]
        }
        cost = Fetched()
        inventory = read_gguf_inventory(repository(files), cost=cost)
        assert len(inventory.files) == len(files)
        assert all(file.exact for file in inventory.files)
        assert cost.bytes < 16 * 2**20

    def test_file_that_the_hub_does_not_give_is_told_by_its_size_says_so_and_is_in_doubt(self, hub, repository):
        facts, doubts = repository(llama_files(["Q8_0", "F16"])), []
        fault = hub.fail(facts.ref.id, file="m-F16.gguf", status=503)
        inventory = read_gguf_inventory(facts, doubts=doubts)
        hub.faults.remove(fault)
        row = next(row for row in fit_table(inventory, card(), Workload()) if row.precision.label == "F16")
        assert not row.exact
        assert any("told by its size" in note for note in row.notes)
        assert row.weights.footprint == pytest.approx(sum_of(llama_tensors(), "F16"), rel=0.01)
        assert row.file.on_gpu + row.file.input == pytest.approx(row.file.weights, abs=10)
        assert any("Taken for the same model" in note and "m-F16.gguf" in note for note in inventory.notes)
        assert len(doubts) == 1
        assert "503" in doubts[0]
        again = read_gguf_inventory(facts, doubts=(later := []))
        assert all(file.exact for file in again.files)
        assert later == []

    def test_doubts_about_files_beside_other_weights_are_told_too(self, hub, repository):
        inventory = read_gguf_inventory(repository(llama_files(["Q4_K"])))
        facts, doubts = repository(llama_files(["Q8_0", "F16"]) | {"model.safetensors": b"x"}), []
        fault = hub.fail(facts.ref.id, file="m-F16.gguf", status=503)
        found = with_gguf_files(inventory, facts, doubts=doubts)
        hub.faults.remove(fault)
        assert [file.exact for file in found.files] == [True, False]
        assert len(doubts) == 1

    def test_files_beyond_the_most_that_are_read_are_told_by_their_size_without_a_doubt(self, repository):
        file = sparse_gguf("llama", LLAMA | {"block_count": 1}, quantized(llama_tensors(1), "Q4_K"))
        facts, doubts = repository({f"m-{number:03}.gguf": file for number in range(MAX_READ + 5)}), []
        inventory = read_gguf_inventory(facts, doubts=doubts)
        unread = [each.path for each in inventory.files if not each.exact]
        assert unread == [f"m-{number:03}.gguf" for number in range(MAX_READ + 1, MAX_READ + 5)]
        assert any(
            "Taken for the same model" in note and f"{unread[2]} and others." in note for note in inventory.notes
        )
        assert doubts == []

    def test_projector_is_named_as_an_extra_and_is_no_row(self, repository):
        facts = repository(llama_files(["Q4_K"]) | {"mmproj-F16.gguf": SparseFile(850_000_000, {0: b"GGUF"})})
        inventory = read_gguf_inventory(facts)
        assert len(inventory.files) == 1
        assert any("mmproj-F16.gguf (850 MB)" in note for note in inventory.notes)

    def test_other_models_in_the_repository_are_named_and_are_no_rows(self, repository):
        facts = repository(llama_files(["Q4_K"]) | {"z-Q8_0.gguf": llama_files(["Q8_0"], width=8192)["m-Q8_0.gguf"]})
        inventory = read_gguf_inventory(facts)
        assert [file.path for file in inventory.files] == ["m-Q4_K.gguf"]
        assert any("z-Q8_0.gguf" in note and "another model" in note for note in inventory.notes)

    def test_model_whose_list_lies_elsewhere_is_no_row_of_the_smaller_one(self, repository):
        draft = sparse_gguf("llama", LLAMA, quantized(llama_tensors(), "Q4_K"), 2000)
        shapes = llama_tensors(80, width=8192)
        big = sparse_gguf("llama", LLAMA | {"block_count": 80}, quantized(shapes, "Q4_K"), 60_000)
        doubts = []
        inventory = read_gguf_inventory(repository({"draft-Q4_K_M.gguf": draft, "big-Q4_K_M.gguf": big}), doubts=doubts)
        assert [file.path for file in inventory.files] == ["draft-Q4_K_M.gguf"]
        assert any("big-Q4_K_M.gguf" in note and "another model" in note for note in inventory.notes)
        assert doubts == []

    def test_text_encoder_beside_an_image_model_is_no_row_of_it(self, repository):
        shapes = {f"double_blocks.{i}.img_mlp.0.weight": (3072, 3072) for i in range(2)}
        encoder = {f"enc.blk.{i}.attn_q.weight": (4096, 4096) for i in range(24)}
        image = sparse_gguf("flux", {}, quantized(shapes, "Q8_0"))
        text = sparse_gguf("t5encoder", {"block_count": 24}, quantized(encoder, "Q8_0"), 32_000)
        inventory = read_gguf_inventory(repository({"flux1-Q8_0.gguf": image, "t5-Q8_0.gguf": text}))
        assert [file.path for file in inventory.files] == ["flux1-Q8_0.gguf"]
        assert any("t5-Q8_0.gguf" in note and "another model" in note for note in inventory.notes)

    @pytest.mark.parametrize(("first", "second"), [(32, 48), (48, 32)])
    def test_model_with_more_or_fewer_layers_of_the_same_widths_is_another(self, repository, first, second):
        files = {
            name: sparse_gguf("llama", LLAMA | {"block_count": layers}, quantized(llama_tensors(layers), "Q4_K"))
            for name, layers in (("a.gguf", first), ("b.gguf", second))
        }
        facts = repository(files)
        inventory = read_gguf_inventory(replace(facts, ref=replace(facts.ref, file="a.gguf")))
        assert [file.path for file in inventory.files] == ["a.gguf"]
        assert any("b.gguf" in note and "another model" in note for note in inventory.notes)

    @pytest.mark.parametrize("architecture", ["x" * 2**20, "bad\x1b[31m" + "y" * 5000])
    def test_long_name_of_an_architecture_is_shown_in_short(self, repository, architecture):
        tensors = quantized(llama_tensors(1), "Q4_K")
        inventory = read_gguf_inventory(repository({"m.gguf": sparse_gguf(architecture, {}, tensors)}))
        for text in (inventory.architecture, inventory.weights_only, *inventory.notes):
            assert len(text) < 400
            assert text.isprintable()

    @pytest.mark.parametrize(("metadata", "said"), [({"general.type": "adapter"}, "an adapter"), ({}, "vocabulary")])
    def test_repository_without_a_model_says_what_its_file_is(self, repository, metadata, said):
        tensors = {"blk.0.attn_q.weight.lora_a": ((8, 64), "F32")} if metadata else {}
        with pytest.raises(ModelUnsupported, match=rf"x\.gguf is .*{said}"):
            read_gguf_inventory(repository({"x.gguf": sparse_gguf("llama", metadata, tensors)}))

    def test_adapter_beside_a_model_is_passed_over(self, repository):
        adapter = sparse_gguf("llama", {"general.type": "adapter"}, {"a": ((8, 64), "F32")})
        inventory = read_gguf_inventory(repository(llama_files(["Q4_K"]) | {"adapter.gguf": adapter}))
        assert [file.path for file in inventory.files] == ["m-Q4_K.gguf"]

    def test_broken_file_is_passed_over_where_another_is_sound_and_said_where_none_is(self, repository):
        inventory = read_gguf_inventory(repository(llama_files(["Q4_K"]) | {"a-Q2_K.gguf": b"not what it says"}))
        assert [file.path for file in inventory.files] == ["m-Q4_K.gguf"]
        with pytest.raises(ModelUnsupported, match=r"a\.gguf is not a GGUF file"):
            read_gguf_inventory(repository({"a.gguf": b"not what it says"}))

    def test_broken_file_beside_the_one_that_is_read_is_no_row_and_is_said(self, repository):
        files = llama_files(["Q4_K"])
        cut = SparseFile(files["m-Q4_K.gguf"].size + 1, {0: files["m-Q4_K.gguf"].parts[0][:1000]})
        inventory = read_gguf_inventory(repository(files | {"z.gguf": cut, "m-00002-of-00002.gguf": cut}))
        assert [file.path for file in inventory.files] == ["m-Q4_K.gguf"]
        note = next(note for note in inventory.notes if note.startswith("Not shown, since they can't be read"))
        assert "z.gguf " in note
        assert "m-00002-of-00002.gguf is one of 2 parts, of which 1 are not there." in note

    def test_file_that_the_reference_names_is_the_one_that_is_read(self, repository):
        other = llama_files(["Q8_0"], width=8192)["m-Q8_0.gguf"]
        facts = repository(llama_files(["Q4_K", "Q2_K"]) | {"z/other-Q8_0.gguf": other})
        for asked in ({"file": "z/other-Q8_0.gguf"}, {"quant": "Q8_0"}):
            inventory = read_gguf_inventory(replace(facts, ref=replace(facts.ref, **asked)))
            assert [file.path for file in inventory.files] == ["z/other-Q8_0.gguf"]
            assert inventory.source.startswith("the header of z/other-Q8_0.gguf")
        with pytest.raises(ModelNotFound):
            read_gguf_inventory(replace(facts, ref=replace(facts.ref, quant="Q5_K_M")))

    def test_model_that_the_files_were_made_from_is_named(self, repository):
        facts = replace(repository(llama_files(["Q4_K"])), base_models=("org/base",))
        assert any("org/base" in note for note in read_gguf_inventory(facts).notes)

    @pytest.mark.parametrize(
        ("architecture", "metadata", "said"),
        [
            ("flux", {}, "flux"),
            ("bert", LLAMA, "no cache for bert"),
            ("llama", LLAMA | {"block_count": 10**9}, "llama"),
            ("llama", {key: "many" for key in LLAMA}, "llama"),
            ("llama", {"block_count": 4}, "llama"),
        ],
    )
    def test_where_no_cache_can_be_told_the_weights_are_and_what_is_left_out(
        self, architecture, metadata, said, repository
    ):
        tensors = quantized(llama_tensors(), "Q4_K")
        facts = repository({"m-Q4_K.gguf": sparse_gguf(architecture, metadata, tensors)})
        inventory = read_gguf_inventory(facts)
        assert said in inventory.weights_only
        (row,) = fit_table(inventory, card(), Workload())
        assert row.weights.footprint == sum_of(llama_tensors(), "Q4_K")
        assert row.cache_bytes == 0
        assert row.verdict == "fits"
        fit_table(inventory, card("t4", 2, 10**12), Workload())


class TestBesideOtherWeights:
    def test_inventory_of_a_class_gets_a_row_for_each_file_after_its_own(self, repository):
        inventory = inventory_for(ModelRef("meta-llama/Llama-3.1-8B-Instruct"))
        metadata = LLAMA | {"block_count": 32}
        file = sparse_gguf("llama", metadata, quantized(tensors_of(inventory), "Q4_K"))
        facts = repository({"model.safetensors": b"x", "q4.gguf": file})
        both = with_gguf_files(inventory, facts)
        rows = fit_table(both, card(), Workload())
        assert [row.precision.id for row in rows][-1] == "gguf:q4.gguf"
        assert {row.precision.id for row in rows} >= {"bf16", "nf4-dq", "q4_k_m"}
        assert rows[-1].weights.footprint == sum_of(tensors_of(inventory), "Q4_K")
        assert rows[-1].precision.label == "Q4_K_M"
        assert rows[-1].layers == 33
        assert recommend(rows) == "bf16"

    def test_config_beside_gguf_files_alone_makes_no_rows_that_transformers_would_load(self, repository):
        inventory = inventory_for(ModelRef("meta-llama/Llama-3.1-8B-Instruct"))
        found = with_gguf_files(inventory, repository(llama_files(["Q4_K"]) | {"config.json": b"{}"}))
        assert found.source_kind == "gguf"
        assert [row.precision.id for row in fit_table(found, card(), Workload())] == ["gguf:m-Q4_K.gguf"]

    def test_broken_or_foreign_files_leave_the_inventory_as_it_is_with_a_note(self, repository):
        inventory = inventory_for(ModelRef("Qwen/Qwen3-30B-A3B"))
        for files in ({"m.gguf": b"nothing"}, llama_files(["Q4_K"])):
            found = with_gguf_files(inventory, repository(files | {"model.safetensors": b"x"}))
            assert found.files == ()
            assert len(found.notes) == len(inventory.notes) + 1


@pytest.fixture(scope="module")
def inventory(hub):
    """A model of 60 layers in three files: too large for two small cards, for one, and for none."""
    model_id = f"gguf-rows/layers-{next(numbers)}"
    hub.add_repo(model_id, llama_files(["F32", "F16", "Q4_K"], layers=60))
    return read_gguf_inventory(repo_facts(ModelRef(model_id)))


class TestLayers:
    @pytest.mark.parametrize("count", [1, 2])
    @pytest.mark.parametrize("context", [512, 8192, 30_000])
    def test_as_many_layers_as_fit_are_on_the_gpu_and_one_more_would_not_fit(self, inventory, count, context):
        hardware, workload = card("t4", count, 10**12), Workload(context)
        rows = [row for row in fit_table(inventory, hardware, workload) if row.verdict == "offload"]
        assert rows
        for row in rows:
            room = hardware.gpu.usable_bytes - row.demand.fixed_on_a_card(context, 1)
            caches = row.demand.cache_by_layer(context, 1)
            sizes = [*(a + b for a, b in zip(row.file.layers, caches, strict=True)), row.file.output]

            def fullest(layers, sizes=sizes):
                placed = sizes[len(sizes) - layers :]
                return max(
                    sum(size for place, size in enumerate(placed) if place * count // layers == each)
                    for each in range(count)
                )

            assert 0 < row.gpu_layers < row.layers == 61
            assert fullest(row.gpu_layers) <= room
            assert fullest(row.gpu_layers + 1) > room
            assert f"--n-gpu-layers {row.gpu_layers})" in row.reason

    def test_split_holds_every_byte_once_and_the_last_layers_on_the_cards(self, inventory):
        row = fit(inventory, precision_for(inventory, "gguf:m-F32.gguf"), card("t4", 2, 10**12), Workload())
        shares = [*row.split.cards, row.split.host]
        assert sum(share.weights for share in shares) == row.file.on_gpu
        assert row.split.cards[-1].names[-1] == "output"
        assert row.split.host.names[0] == "blk.0"
        assert sum(len(share.names) for share in shares) == 61

    def test_whole_model_on_the_gpu_is_all_its_layers(self, inventory):
        row = fit(inventory, precision_for(inventory, "gguf:m-Q4_K.gguf"), card("a100-80gb"), Workload())
        assert (row.verdict, row.gpu_layers, row.layers) == ("fits", 61, 61)

    def test_several_cards_hold_it_together(self, inventory):
        row = fit(inventory, precision_for(inventory, "gguf:m-F16.gguf"), card("a100-80gb", 2), Workload())
        assert sum(share.weights for share in row.shares) == row.file.on_gpu
        assert [len(share.names) for share in row.shares] == [31, 30]

    def test_without_system_memory_for_the_rest_it_does_not_run(self, inventory):
        row = fit(inventory, precision_for(inventory, "gguf:m-F16.gguf"), card("t4", 1, 8 * 10**9), Workload())
        assert (row.verdict, row.split, row.gpu_layers) == ("no", None, 0)
        assert "of system memory, of which there are" in row.reason

    def test_more_context_leaves_room_for_fewer_layers(self, inventory):
        precision = precision_for(inventory, "gguf:m-F16.gguf")
        layers = [
            fit(inventory, precision, card("t4", 1, 10**12), Workload(context)).gpu_layers
            for context in (512, 8192, 65_536)
        ]
        assert layers == sorted(layers, reverse=True)
        assert layers[0] > layers[-1]

    def test_the_longest_context_fits_and_one_token_more_does_not(self, inventory):
        precision, hardware = precision_for(inventory, "gguf:m-Q4_K.gguf"), card("t4")
        longest = fit(inventory, precision, hardware, Workload(1)).max_context
        assert 0 < longest < inventory.max_context
        assert fit(inventory, precision, hardware, Workload(longest)).free_bytes >= 0
        assert fit(inventory, precision, hardware, Workload(longest + 1)).verdict == "no"


@pytest.fixture(scope="module")
def files():
    return [file_named(name) for name in ("a/m-Q4_K_M.gguf", "a/m-UD-Q2_K_XL.gguf", "m-BF16.gguf")]


class TestAskedFor:
    @pytest.mark.parametrize(
        ("file", "quant", "path"),
        [
            ("a/m-Q4_K_M.gguf", None, "a/m-Q4_K_M.gguf"),
            ("m-q4_k_m.gguf", None, "a/m-Q4_K_M.gguf"),
            (None, "q4_k_m", "a/m-Q4_K_M.gguf"),
            (None, "Q2_K_XL", "a/m-UD-Q2_K_XL.gguf"),
            (None, "UD-Q2_K_XL", "a/m-UD-Q2_K_XL.gguf"),
            (None, "bf16", "m-BF16.gguf"),
        ],
    )
    def test_file_is_found_by_path_name_or_quantization(self, files, file, quant, path):
        assert asked_file(files, file, quant).path == path

    def test_what_is_not_there_is_said_with_what_is(self, files):
        with pytest.raises(ModelNotFound, match="Q4_K_M, UD-Q2_K_XL, BF16"):
            asked_file(files, None, "Q9_X")

    def test_nothing_asked_is_nothing_found(self, files):
        assert asked_file(files, None, None) is None

    def test_precision_of_a_file_is_found_by_its_id(self, repository):
        inventory = read_gguf_inventory(repository(llama_files(["Q4_K"])))
        assert precision_for(inventory, "gguf:m-Q4_K.gguf").label == "Q4_K"
        assert precision_for(inventory, "bf16") is PRECISIONS["bf16"]
        with pytest.raises(BadInput):
            precision_for(inventory, "gguf:other.gguf")


def file_named(name):
    like = sample_file()
    return file_by_size(GgufPaths((name,), label_of(name), like.size), like)


def sample_file():
    file = sparse_gguf("llama", LLAMA | {"block_count": 1}, quantized(llama_tensors(1), "Q4_K"))
    header = header_of(file)
    return file_of(GgufPaths(("m.gguf",), "", file.size), header, header.tensors, own=True)


class TestPlainData:
    def test_inventory_with_files_survives_being_written_and_read(self, repository):
        inventory = read_gguf_inventory(repository(llama_files()))
        again = load(dump(inventory))
        assert vars(again) == {name: value for name, value in vars(inventory).items() if name in vars(again)}
        assert again.files == inventory.files
        assert list(file_precisions(again)) == list(file_precisions(inventory))

    def test_sums_by_type_are_those_of_the_tensors(self):
        file, tensors = sample_file(), quantized(llama_tensors(1), "Q4_K")
        for kind in {each for _, each in tensors.values()}:
            elements = sum(prod(shape) for shape, each in tensors.values() if each == kind)
            assert sum(found.elements for found in file.types if found.type == kind) == elements
        assert sum(found.bytes for found in file.types) == file.weights == file.on_gpu + file.input
