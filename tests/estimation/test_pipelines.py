"""Repositories of several models: pipelines of diffusers, sentence-transformers, and kinds without a class."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from math import prod

import pytest

from quantspace import estimate
from quantspace.errors import ModelUnsupported
from quantspace.estimation.builder import inventory_for
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.pipelines import (
    fetch_embedding_config,
    is_pipeline,
    read_pipeline,
    uses_modules,
    why_no_class,
    with_modules,
)
from quantspace.estimation.weights import weight_bytes
from quantspace.hub.client import repo_facts
from quantspace.hub.reference import ModelRef
from quantspace.precision import PRECISIONS
from tests.hub import BytesFile, SparseFile

numbers = itertools.count()

UNET = {
    "conv_in.weight": (320, 4, 3, 3),
    "conv_in.bias": (320,),
    "time_embedding.linear_1.weight": (1280, 320),
    "down_blocks.0.attentions.0.norm.weight": (320,),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": (320, 320),
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
}
VAE = {"encoder.conv_in.weight": (128, 3, 3, 3), "encoder.mid_block.attentions.0.to_q.weight": (512, 512)}
TEXT = {
    "text_model.embeddings.token_embedding.weight": (49408, 768),
    "text_model.embeddings.position_ids": (1, 77),
    "text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768),
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.35.0",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def weights(shapes, dtype="F32"):
    return SparseFile.safetensors(
        {name: ("I64" if name.endswith("position_ids") else dtype, shape) for name, shape in shapes.items()}
    )


def elements(*groups, but=()):
    return sum(prod(shape) for group in groups for name, shape in group.items() if not name.endswith(but))


STABLE_DIFFUSION = {
    "model_index.json": json.dumps(INDEX),
    "scheduler/scheduler_config.json": "{}",
    "tokenizer/vocab.json": "{}",
    "unet/config.json": "{}",
    "unet/diffusion_pytorch_model.safetensors": weights(UNET),
    "unet/diffusion_pytorch_model.fp16.safetensors": weights(UNET, "F16"),
    "unet/diffusion_pytorch_model.non_ema.safetensors": weights(UNET),
    "unet/diffusion_pytorch_model.bin": SparseFile(4 * elements(UNET)),
    "vae/diffusion_pytorch_model.safetensors": weights(VAE),
    "text_encoder/model.safetensors": weights(TEXT, "F16"),
    "text_encoder/pytorch_model.bin": SparseFile(2 * elements(TEXT)),
    "vae_of_another_kind/diffusion_pytorch_model.safetensors": weights(VAE),
    "v1-5-pruned.safetensors": weights(UNET | VAE | TEXT),
    "v1-5-pruned-emaonly.ckpt": SparseFile(10**9),
}
HELD = elements(UNET, VAE, TEXT, but="position_ids")


def pipeline(hub, changes=(), without=(), **info):
    model_id = f"pipelines/{next(numbers)}"
    files = {path: file for path, file in {**STABLE_DIFFUSION, **dict(changes)}.items() if path not in without}
    hub.add_repo(model_id, files, library_name="diffusers", **info)
    return repo_facts(ModelRef(model_id))


def bytes_of(inventory, precision):
    return weight_bytes(inventory, PRECISIONS[precision]).held


class TestPipeline:
    def test_every_component_counts_once_whatever_copies_lie_beside_it(self, hub):
        found = read_pipeline(pipeline(hub))
        assert found.parameters == HELD
        assert bytes_of(found, "bf16") == 2 * HELD + 8 * 77
        assert bytes_of(found, "fp32") == 4 * HELD + 8 * 77

    def test_tensors_are_named_for_their_component(self, hub):
        found = read_pipeline(pipeline(hub))
        assert {tensor.name.split(".")[0] for tensor in found.tensors} == {"unet", "vae", "text_encoder"}
        assert "unet.conv_in.weight" in {tensor.name for tensor in found.tensors}

    def test_linear_layers_are_quantized_and_the_vae_is_not(self, hub):
        found = read_pipeline(pipeline(hub))
        quantized = {tensor.name for tensor in found.tensors if tensor.quantizable}
        linear = [name for name in UNET if len(UNET[name]) == 2]
        assert quantized == {*(f"unet.{n}" for n in linear), "text_encoder.text_model.encoder.layers.0.mlp.fc1.weight"}
        saved = sum(prod(UNET[name]) for name in linear) + 3072 * 768
        assert bytes_of(found, "bf16") - bytes_of(found, "nf4") > 1.4 * saved

    def test_the_answer_says_what_it_holds_and_what_it_leaves_out(self, hub):
        found = read_pipeline(pipeline(hub))
        assert found.architecture == "StableDiffusionPipeline"
        assert "size of the image" in found.weights_only
        assert (found.cache, found.exact, found.source_kind) == ((), False, "headers")
        said = found.notes[0]
        assert f"unet (UNet2DConditionModel): {elements(UNET):,} parameters, stored in F32" in said
        assert "text_encoder (CLIPTextModel)" in said and "stored in F16" in said

    def test_headers_and_the_index_are_all_that_is_fetched(self, hub):
        facts = pipeline(hub)
        hub.requests.clear()
        read_pipeline(facts)
        fetched = hub.requests.of(repo=facts.ref.id)
        assert {r.target.file for r in fetched.downloads} == {
            "model_index.json",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors",
        }

    def test_a_variant_is_taken_where_there_is_nothing_else(self, hub):
        facts = pipeline(
            hub,
            without=("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors"),
        )
        found = read_pipeline(facts)
        assert found.parameters == HELD
        assert "stored in F16" in found.notes[0]

    def test_a_component_in_shards_counts_all_of_them(self, hub):
        names = list(UNET)
        first, second = ({name: UNET[name] for name in part} for part in (names[:4], names[4:]))
        shards = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
        index = {"weight_map": dict.fromkeys(first, shards[0]) | dict.fromkeys(second, shards[1])}
        changes = {
            "unet/diffusion_pytorch_model.safetensors.index.json": json.dumps(index),
            f"unet/{shards[0]}": weights(first),
            f"unet/{shards[1]}": weights(second),
        }
        unsharded = "unet/diffusion_pytorch_model.safetensors"
        assert read_pipeline(pipeline(hub, changes, without=(unsharded,))).parameters == HELD

    def test_a_component_in_a_pickled_file_is_counted_at_its_size(self, hub):
        found = read_pipeline(pipeline(hub, without=("text_encoder/model.safetensors",)))
        sized = next(tensor for tensor in found.tensors if "pickled" in tensor.name)
        assert abs(4 * sized.elements - 2 * elements(TEXT)) < 4
        assert "counted at its size" in found.notes[0]

    def test_it_is_told_by_its_index_and_answered_in_one_go(self, hub):
        facts = pipeline(hub)
        assert is_pipeline(facts)
        assert inventory_for(facts.ref).parameters == HELD

    @pytest.mark.parametrize(
        "index",
        [
            {},
            {"unet": "UNet"},
            {"unet": ["diffusers"]},
            {"unet": [1, 2]},
            {"../../x": ["diffusers", "UNet"]},
            {"": ["diffusers", "UNet"]},
            {f"part{i}": ["diffusers", "UNet"] for i in range(5000)},
            {"_class_name": "X" * 10**5},
            {"unet" * 50: ["diffusers", "UNet"]},
            {"un\ud800et": ["diffusers", "UNet"]},
            {"a": [[]] * 10**6},
        ],
        ids=lambda index: str(index)[:40],
    )
    def test_an_index_that_names_nothing_is_refused_with_a_sentence(self, hub, index):
        with pytest.raises(ModelUnsupported) as caught:
            read_pipeline(pipeline(hub, {"model_index.json": json.dumps(index)}))
        assert caught.value.message and caught.value.hint

    def test_words_of_the_index_are_cut_short(self, hub):
        long = "X\n" * 10**4
        index = {"_class_name": long, "unet": ["diffusers", long], "text_encoder": [long, long], "vae": [long, long]}
        without = ("text_encoder/model.safetensors",)
        found = read_pipeline(pipeline(hub, {"model_index.json": json.dumps(index)}, without))
        assert len(found.architecture) <= 80
        assert len(json.dumps(asdict(found), ensure_ascii=False).encode("utf-8")) < 20_000


BERT = {
    "model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 512, "hidden_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "max_position_embeddings": 64,
}  # fmt: skip
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    {"idx": 3, "name": "3", "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"},
]
DENSE = {"linear.weight": (32, 64), "linear.bias": (32,)}


def sentences(hub, modules=MODULES, **files):
    model_id = f"pipelines/{next(numbers)}"
    contents = {
        "config.json": json.dumps(BERT),
        "modules.json": json.dumps(modules),
        "1_Pooling/config.json": "{}",
        "2_Dense/model.safetensors": weights(DENSE),
        **files,
    }
    hub.add_repo(model_id, {k: v for k, v in contents.items() if v}, library_name="sentence-transformers")
    return repo_facts(ModelRef(model_id))


class TestSentenceTransformers:
    def test_the_model_is_counted_without_a_head_and_with_its_dense_layers_in_float32(self, hub):
        facts = sentences(hub)
        assert uses_modules(facts)
        base = inventory_from_config(fetch_embedding_config(facts), "a/b")
        found = with_modules(base, facts)
        assert found.architecture == "BertModel"
        for precision in ("bf16", "nf4-dq"):
            assert bytes_of(found, precision) - bytes_of(base, precision) == 4 * elements(DENSE)

    def test_it_is_answered_in_one_go(self, hub):
        found = inventory_for(sentences(hub).ref)
        assert found.architecture == "BertModel"
        assert "2_Dense.linear.weight" in {tensor.name for tensor in found.tensors}
        assert found.exact

    def test_a_model_in_a_folder_of_its_own_is_found_there(self, hub):
        modules = [{**MODULES[0], "path": "0_Transformer"}, *MODULES[1:]]
        facts = sentences(hub, modules, **{"config.json": None, "0_Transformer/config.json": json.dumps(BERT)})
        assert fetch_embedding_config(facts)["hidden_size"] == 64

    def test_a_model_without_a_transformer_is_refused_with_a_sentence(self, hub):
        modules = [{**MODULES[0], "path": "0_StaticEmbedding", "type": "sentence_transformers.models.StaticEmbedding"}]
        with pytest.raises(ModelUnsupported, match="StaticEmbedding"):
            fetch_embedding_config(sentences(hub, modules))

    def test_pickled_dense_layers_are_counted_at_their_size(self, hub):
        facts = sentences(
            hub, **{"2_Dense/model.safetensors": None, "2_Dense/pytorch_model.bin": BytesFile(b"\0" * 8192)}
        )
        base = inventory_from_config(fetch_embedding_config(facts), "a/b")
        assert bytes_of(with_modules(base, facts), "bf16") - bytes_of(base, "bf16") == 8192

    @pytest.mark.parametrize(
        "modules",
        [
            {},
            [1],
            [{"path": 1}],
            [{}] * 101,
            "text",
            None,
            [[]] * 400_000,
            [{"path": "x" * 5000, "type": "y"}] * 2,
            [{"path": "x\ud800", "type": "y"}] * 2,
        ],
        ids=lambda m: str(m)[:30],
    )
    def test_broken_modules_are_refused_with_a_sentence(self, hub, modules):
        facts = sentences(hub, modules)
        with pytest.raises(ModelUnsupported, match=r"modules\.json"):
            with_modules(inventory_from_config(BERT, "a/b"), facts)


@pytest.mark.parametrize(
    ("library", "files", "kind"),
    [
        ("timm", ("config.json", "model.safetensors"), "timm"),
        ("keras", ("config.json", "model.weights.h5"), "Keras"),
        ("spacy", ("meta.json", "config.cfg", "en.whl"), "spaCy"),
        ("nemo", ("model.nemo",), "NeMo"),
        (None, ("config.json", "onnx/model.onnx"), "ONNX"),
        (None, ("config.json", "tf_model.h5"), "TensorFlow"),
    ],
    ids=str,
)
def test_a_kind_that_transformers_does_not_build_is_named(hub, library, files, kind):
    model_id = f"pipelines/{next(numbers)}"
    hub.add_repo(model_id, dict.fromkeys(files, "{}"), library_name=library, safetensors=None)
    assert kind in why_no_class(repo_facts(ModelRef(model_id)))


def test_of_a_repository_of_transformers_nothing_is_said(hub):
    hub.add_repo("pipelines/plain", {"config.json": "{}", "model.safetensors": "", "onnx/model.onnx": ""})
    assert why_no_class(repo_facts(ModelRef("pipelines/plain"))) == ""


@pytest.mark.parametrize("kind", ["pipeline", "sentences", "vision"])
def test_every_row_of_an_estimate_is_there_and_none_is_loadable(hub, kind):
    if kind == "vision":
        model_id = f"pipelines/{next(numbers)}"
        hub.add_repo(model_id, {"config.json": json.dumps({"model_type": "vit", "architectures": ["ViTModel"]})})
    else:
        model_id = {"pipeline": pipeline, "sentences": sentences}[kind](hub).ref.id
    rows = estimate(model_id, gpu="t4", context=64).as_data()["rows"]
    assert {"fp32", "bf16", "int8", "nf4-dq"} <= {row["precision"] for row in rows}
    assert all(row["total_bytes"] > row["weights_bytes"] > 0 for row in rows)
    assert not any(row["loadable"] for row in rows)
