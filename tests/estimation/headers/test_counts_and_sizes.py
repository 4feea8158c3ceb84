"""Inventories without headers: from counts of parameters, and from the sizes of files."""

import pytest

from quantspace.errors import ModelUnsupported
from quantspace.estimation.bundled import bundled_inventory
from quantspace.estimation.cache import cache_bytes
from quantspace.estimation.fit import fit_table
from quantspace.estimation.hardware import find_gpu
from quantspace.estimation.headers import inventory_from_counts, inventory_from_sizes
from quantspace.estimation.workload import Hardware, Workload
from tests.estimation.headers.inventories import WHY, facts, held


class TestCounts:
    def test_16_bits_are_the_counts_own_bytes(self):
        for parameters in (12, 125_000_000, 8_030_261_248, 70_553_706_496, 671_026_404_352):
            for model_type in (None, "newarch", "mixtral"):
                found = inventory_from_counts(facts(counts={"BF16": parameters}, model_type=model_type), WHY)
                assert found.parameters == parameters
                assert held(found, "bf16") == 2 * parameters
                assert (found.source_kind, found.exact) == ("counts", False)
                assert found.notes[0] == WHY

    def test_cache_is_on_the_safe_side_of_models_of_that_size(self):
        for parameters, values in (  # a token, of published ones with a head of keys and values for each query head
            (124_439_808, 12 * 2 * 768),  # gpt2
            (3_821_079_552, 32 * 2 * 3072),  # Phi-3-mini
            (6_738_415_616, 32 * 2 * 4096),  # Llama-2-7B
            (13_015_864_320, 40 * 2 * 5120),  # Llama-2-13B
            (32_762_123_264, 64 * 2 * 1024),  # Qwen3-32B
            (70_553_706_496, 80 * 2 * 1024),  # Llama-3.1-70B
        ):
            found = inventory_from_counts(facts(counts={"BF16": parameters}), WHY)
            assert values * 2 <= cache_bytes(found, 1, 1, "bfloat16") <= 4 * values * 2

    def test_what_is_assumed_is_said(self):
        notes = " ".join(inventory_from_counts(facts(counts={"BF16": 7 * 10**9}), WHY).notes)
        assert "33 layers 4,224 wide are assumed as published models of that size have" in notes
        assert "on the safe side" in notes

    def test_experts_are_taken_to_stay_in_16_bits(self):
        dense, mixture = (
            inventory_from_counts(facts(counts={"BF16": 30 * 10**9}, model_type=kind), WHY)
            for kind in ("newarch", "newarch_moe")
        )
        assert held(mixture, "nf4-dq") > 2.5 * held(dense, "nf4-dq")
        assert held(mixture, "nf4-moe") < 0.5 * held(mixture, "nf4-dq")

    @pytest.mark.parametrize(
        ("counts", "files", "parameters", "stored"),
        [
            # GPTQ: words, as old counts have them; as weights, as the Hub counts today; no files to tell by
            ({"F16": 10**8, "I32": 10**8}, {"model.safetensors": 600_010_000}, 9 * 10**8, 6 * 10**8),
            ({"F16": 10**8, "I32": 8 * 10**8}, {"model.safetensors": 600_010_000}, 9 * 10**8, 6 * 10**8),
            ({"F16": 10**8, "I32": 10**8}, {}, 9 * 10**8, 6 * 10**8),
            # MXFP4, two weights a byte; FP8, one
            ({"BF16": 10**8, "U8": 10**9}, {"model.safetensors": 12 * 10**8}, 21 * 10**8, 12 * 10**8),
            ({"BF16": 10**8, "F8_E4M3": 10**9}, {"model.safetensors": 12 * 10**8}, 11 * 10**8, 12 * 10**8),
            # some buffers are no quantized weights
            ({"BF16": 10**9, "I64": 1000, "BOOL": 77, "U8": 5}, {}, 10**9, None),
        ],
    )
    def test_packed_weights_are_counted_by_the_size_of_the_files(self, counts, files, parameters, stored):
        found = inventory_from_counts(facts(files, counts=counts), WHY)
        assert found.parameters == parameters
        assert (held(found, "native") if found.native else None) == stored

    def test_shards_of_an_index_tell_the_size_too(self):
        names = ["model.safetensors.index.json", *(f"model-0000{n}-of-00002.safetensors" for n in (1, 2))]
        files = dict(zip(names, (9999, 3 * 10**8, 3 * 10**8), strict=True))
        found = inventory_from_counts(facts(files, counts={"F16": 10**8, "I32": 8 * 10**8}), WHY)
        assert held(found, "native") == 6 * 10**8

    def test_parameters_of_gguf_files_serve_too(self):
        found = inventory_from_counts(facts(gguf_parameters=8_030_261_248), WHY)
        assert found.parameters == 8_030_261_248
        assert "GGUF" in found.source

    @pytest.mark.parametrize("counts", [{}, {"BF16": 0}, {"BF16": -5}, {"BF16": 10**30}, {"XX": 7}, {"BF16": "7"}])
    def test_no_count_is_told(self, counts):
        with pytest.raises(ModelUnsupported, match="no count"):
            inventory_from_counts(facts(counts=counts), WHY)

    def test_model_of_another_purpose_is_weights_only(self):
        found = inventory_from_counts(facts(counts={"F32": 10**8}, task="sentence-similarity"), WHY)
        assert found.weights_only
        assert (found.cache, found.exact) == ((), False)

    @pytest.mark.skipif(
        bundled_inventory("meta-llama/Llama-3.1-8B") is None, reason="bundled inventories are of other fields"
    )
    def test_model_as_large_as_a_bundled_one_of_its_type_has_its_shape(self):
        """Gated siblings and fine-tunes: Llama-3.1-8B-Instruct under another name, say."""
        truth = bundled_inventory("meta-llama/Llama-3.1-8B")
        found = inventory_from_counts(facts(counts={"BF16": truth.parameters}, model_type="llama"), WHY)
        assert held(found, "nf4-dq") == held(truth, "nf4-dq")
        assert found.cache == truth.cache
        assert (found.model_id, found.sha, found.exact) == ("org/name", "0" * 40, False)
        assert any("as many parameters as" in note for note in found.notes)

    def test_every_row_of_the_table_can_be_told(self):
        found = inventory_from_counts(facts(counts={"BF16": 7 * 10**9}), WHY)
        for row in fit_table(found, Hardware(find_gpu("t4"), 2), Workload()):
            assert sum(term.bytes for terms in row.terms().values() for term in terms) == row.total_bytes


class TestSizes:
    LLAMA = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000}  # noqa: RUF012
    TWO = {  # noqa: RUF012
        "pytorch_model-00001-of-00002.bin": 9_976_623_130,
        "pytorch_model-00002-of-00002.bin": 3_500_315_539,
    }

    def test_dtype_of_the_config_gives_the_parameters(self):
        found = inventory_from_sizes(facts(self.TWO), {**self.LLAMA, "torch_dtype": "float16"}, WHY)
        assert found.parameters == pytest.approx(6_738_415_616, rel=1e-4)
        assert cache_bytes(found, 1, 1, "bfloat16") == 32 * 2 * 4096 * 2
        assert (found.source_kind, found.source) == ("sizes", "the size of its 2 PyTorch files")
        assert any("are taken as float16, as its config tells" in note for note in found.notes)

    def test_nobody_loads_a_pickle(self):
        notes = inventory_from_sizes(facts(self.TWO), self.LLAMA, WHY).notes
        assert any("can run code" in note and "never loaded" in note for note in notes)

    @pytest.mark.parametrize(
        ("config", "dtype", "size"),
        [({"torch_dtype": "bfloat16"}, "bfloat16", 2), ({"dtype": "float16"}, "float16", 2), ({}, "float32", 4),
         (None, "float16", 2), ({"text_config": {"torch_dtype": "torch.float16"}}, "float16", 2),
         ({"torch_dtype": "int1"}, "float32", 4)],
    )  # fmt: skip
    def test_dtype_that_was_taken_is_said(self, config, dtype, size):
        found = inventory_from_sizes(facts({"pytorch_model.bin": 10**9}), config, WHY)
        assert found.parameters == 10**9 // size
        assert any(f"are taken as {dtype}" in note for note in found.notes)

    @pytest.mark.parametrize(
        ("files", "counted"),
        [
            ({"pytorch_model.bin": 1000, "tf_model.h5": 900, "flax_model.msgpack": 800, "onnx/model.onnx": 700}, 1000),
            ({"pytorch_model.bin": 1000, "training_args.bin": 77, "optimizer.pt": 5000, "rng_state.pth": 9}, 1000),
            ({"consolidated.00.pth": 500, "consolidated.01.pth": 500, "original/consolidated.00.pth": 9999}, 1000),
            ({"pytorch_model.bin": 1000, "pytorch_model.fp16.bin": 500, "onnx/decoder_model.onnx": 700}, 1000),
            ({"yolo-n.pt": 10, "yolo-s.pt": 40, "yolo-x.pt": 1000}, 1000),
            ({"unet/diffusion_pytorch_model.bin": 600, "vae/diffusion_pytorch_model.bin": 400}, 1000),
            ({"tf_model.h5": 1000, "flax_model.msgpack": 800}, 1000),
            ({"onnx/model.onnx": 10, "onnx/model.onnx_data": 990, "onnx/model_q4.onnx": 200}, 1000),
            ({"model.ckpt": 1000}, 1000),
        ],
    )
    def test_one_format_of_several_is_counted(self, files, counted):
        found = inventory_from_sizes(facts(files), {"torch_dtype": "float32"}, WHY)
        assert found.parameters == counted // 4

    @pytest.mark.parametrize("files", [{}, {"README.md": 7}, {"tokenizer.bin": 7}, {"pytorch_model.bin": 0}])
    def test_repository_without_such_files_is_refused(self, files):
        with pytest.raises(ModelUnsupported, match="no weights in a format that is known"):
            inventory_from_sizes(facts(files), None, WHY)
