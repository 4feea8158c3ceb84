"""What is read of other people's files is understood or refused with a sentence, whatever is in it; and soon.

20 seconds in all, 10 minutes with `--nightly`. A failure prints the smallest input found, and how to run it again.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantspace.errors import QuantSpaceError
from quantspace.estimation import worker_pool
from quantspace.estimation.headers import inventory_from_headers
from quantspace.estimation.worker_pool import WorkStopped, run_apart
from quantspace.hub.client import RepoFacts
from quantspace.hub.gguf_header import parse_header as parse_gguf
from quantspace.hub.reference import ModelRef
from quantspace.hub.safetensors_headers import BITS, HeaderTensor, StoredHeader, parse_header, parse_index

from . import work
from .mutations import as_json, broken_bytes, broken_json
from .samples import LLAMA

pytestmark = [pytest.mark.xdist_group("hostile"), pytest.mark.slow]

SECONDS, SECONDS_NIGHTLY = 20, 600  # of all tests here
SHARES = {"safetensors": 0.15, "index": 0.1, "inventory": 0.1, "gguf": 0.2, "config": 0.45}
EXAMPLES = 40  # a round; rounds go on until the time is up
PARSE_SECONDS = 1.0  # of CPU time, for any header of these sizes
BATCH = 6  # configs that one worker gets

KEYS = (
    "num_hidden_layers", "hidden_size", "vocab_size", "head_dim", "layer_types", "rope_parameters", "rope_scaling",
    "text_config", "vision_config", "quantization_config", "dtype", "architectures", "sliding_window", "id2label",
    "num_labels", "model_type", "tie_word_embeddings", "pad_token_id", "is_encoder_decoder", "to_dict", "sub_configs",
    "num_experts", "per_layer_config", "pruned_heads", "hidden_act", "max_position_embeddings", "backbone_config",
)  # fmt: skip


@pytest.fixture
def rounds(request) -> Callable[[str], Iterator[None]]:
    """As many rounds of a test as fit its share of the time."""

    def go_on(name: str) -> Iterator[None]:
        total = SECONDS_NIGHTLY if request.config.getoption("--nightly") else SECONDS
        end = time.monotonic() + total * SHARES[name]
        while time.monotonic() < end:
            yield

    return go_on


Test = Callable[[Any], None]


def fuzz(
    strategy: st.SearchStrategy[Any], examples: int = EXAMPLES
) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """One round: other examples each time; a failure is made as small as it can be and printed."""

    def decorate(test: Test) -> Callable[[], None]:
        quiet = list(HealthCheck)
        rules = settings(
            max_examples=examples, deadline=None, database=None, suppress_health_check=quiet, print_blob=True
        )
        return rules(given(strategy)(test))

    return decorate


def understood_or_refused(parse: Callable[[], Any]) -> Any:
    """What `parse` gives, or `None` where it refuses; anything else it raises fails the test."""
    started = time.thread_time()
    try:
        return parse()
    except QuantSpaceError as error:
        assert error.message and error.hint.endswith(".")
        assert len(error.message) < 1000 and error.message.isprintable()
        return None
    finally:
        assert time.thread_time() - started < PARSE_SECONDS


def real_safetensors() -> list[bytes]:
    from safetensors.numpy import save

    small = {"a.weight": np.zeros((4, 8), np.float16), "b.bias": np.zeros(3, np.float32), "c": np.zeros((), np.int64)}
    return [
        save(small),
        save(small, {"format": "pt"}),
        save({f"layers.{i}.w": np.zeros((2, 2), np.int8) for i in range(40)}),
    ]


def safetensors_of(header: Any) -> bytes:
    text = as_json(header)
    return struct.pack("<Q", len(text)) + text + bytes(512)


def test_headers_of_safetensors_files(rounds):
    files = real_safetensors()
    headers = [json.loads(file[8 : 8 + struct.unpack("<Q", file[:8])[0]]) for file in files]
    changed = broken_bytes(st.sampled_from(files)) | broken_json(st.sampled_from(headers)).map(safetensors_of)

    @fuzz(changed)
    def reads(data: bytes) -> None:
        found = understood_or_refused(lambda: parse_header(data, len(data), "model.safetensors"))
        if found is not None:
            assert 0 <= found.data_bytes <= len(data)

    for file in files:
        assert parse_header(file, len(file), "model.safetensors").tensors
    for _ in rounds("safetensors"):
        reads()


NAMES = """model.embed_tokens.weight lm_head.weight model.norm.weight {} h.{}.attn.c_attn.weight
    vision.blocks.{}.attn.qkv.weight
    LAYER.self_attn.q_proj.weight LAYER.self_attn.k_proj.weight LAYER.self_attn.qkv_proj.weight LAYER.mixer.A_log
    LAYER.mlp.experts.{}.gate_proj.weight LAYER.mlp.experts.gate_up_proj LAYER.self_attn.kv_a_proj_with_mqa.weight
    LAYER.self_attn.q_proj.qweight LAYER.self_attn.q_proj.scales LAYER.self_attn.q_proj.qzeros
    LAYER.self_attn.q_proj.weight_scale LAYER.self_attn.q_proj.weight.quant_state.bitsandbytes__nf4
    LAYER.self_attn.q_proj.weight.absmax LAYER.mixer.conv1d.weight""".replace("LAYER", "model.layers.{}").split()
SIZES = st.sampled_from([0, 1, 2, 3, 8, 64, 127, 128, 4096, 2**31])
STORED = st.dictionaries(
    st.builds(lambda name, number: name.replace("{}", str(number)), st.sampled_from(NAMES), st.integers(0, 10**12)),
    st.tuples(st.sampled_from(sorted(BITS)), st.lists(SIZES, max_size=4).map(tuple)),
    min_size=1, max_size=12,
)  # fmt: skip


def test_inventories_from_headers(rounds):
    """Headers that the format allows, of tensors that no class has, beside configs that say anything."""
    facts = RepoFacts(ModelRef("hostile/fuzz"), "0" * 40, {"model.safetensors": 1})

    @fuzz(st.tuples(STORED, st.none() | broken_json(st.just(LLAMA), KEYS)))
    def reads(given: tuple[dict[str, Any], Any]) -> None:
        stored, config = given
        config = config if isinstance(config, dict) else None
        tensors = [
            HeaderTensor(name, kind, shape, prod(shape) * BITS[kind] // 8) for name, (kind, shape) in stored.items()
        ]
        header = StoredHeader("model.safetensors", tuple(tensors))
        found = understood_or_refused(lambda: inventory_from_headers(facts, [header], config, "No class."))
        if found is not None:
            assert found.source_kind == "headers" and found.parameters >= 0
            assert all(layer.token_elements >= 0 and layer.state_bytes >= 0 for layer in found.cache)

    for _ in rounds("inventory"):
        reads()


def test_indexes_of_safetensors_files(rounds):
    files = {f"model-0000{i}-of-00003.safetensors": 100 for i in (1, 2, 3)}
    index = {"metadata": {"total_size": 300}, "weight_map": {f"t{i}": list(files)[i % 3] for i in range(12)}}
    changed = broken_json(st.just(index)).map(as_json) | broken_bytes(st.just(as_json(index)))

    @fuzz(changed)
    def reads(data: bytes) -> None:
        found = understood_or_refused(lambda: parse_index(data, files))
        if found is not None:
            assert set(found) <= set(files)

    assert set(parse_index(as_json(index), files)) == set(files)
    for _ in rounds("index"):
        reads()


def real_ggufs(folder) -> list[bytes]:
    import gguf

    made = []
    for name, kinds in {"f": (gguf.GGMLQuantizationType.F32,), "q": (gguf.GGMLQuantizationType.Q8_0,)}.items():
        path = folder / f"{name}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_block_count(2)
        writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
        writer.add_array("general.numbers", [1, 2, 3])
        writer.add_string("tokenizer.chat_template", "{{ x }}")
        for kind in kinds:
            data = np.zeros((4, 64), np.float32)
            packed = data if kind == gguf.GGMLQuantizationType.F32 else gguf.quantize(data, kind)
            raw = None if kind == gguf.GGMLQuantizationType.F32 else kind
            writer.add_tensor("blk.0.attn_q.weight", packed, raw_dtype=raw)
            writer.add_tensor("output.weight", packed, raw_dtype=raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        made.append(path.read_bytes())
    return made


def test_headers_of_gguf_files(rounds, tmp_path):
    files = real_ggufs(tmp_path)

    def parse(data: bytes) -> Any:
        return parse_gguf(lambda start, length: data[start : start + length], len(data), "model.gguf")

    @fuzz(broken_bytes(st.sampled_from(files), head=700))
    def reads(data: bytes) -> None:
        found = understood_or_refused(lambda: parse(data))
        if found is not None:
            assert all(tensor.bytes <= len(data) for tensor in found.tensors)

    for file in files:
        assert len(parse(file).tensors) == 2
    for _ in rounds("gguf"):
        reads()


@pytest.fixture(scope="module")
def configs() -> list[dict[str, Any]]:
    """Configs of tiny models of many families, as transformers writes them."""
    from tests.tiny_models import ARCHITECTURES

    return [json.loads(make().to_json_string(use_diff=False)) for make in ARCHITECTURES.values()]


@pytest.fixture(scope="module")
def apart() -> None:
    worker_pool.isolate()
    run_apart(60, work.add, 1, 1)


@pytest.mark.usefixtures("apart")
def test_configs(rounds, configs):
    @fuzz(st.lists(broken_json(st.sampled_from(configs), KEYS), min_size=BATCH, max_size=BATCH), examples=2)
    def reads(changed: list[Any]) -> None:
        texts = [json.dumps(config) for config in changed]
        try:
            broke = run_apart(4.0 * BATCH, work.read_configs, texts)
        except WorkStopped:  # which of them it was: each by itself is ended in time, and that is an answer
            broke = [line for text in texts for line in alone(text)]
        assert not broke, "\n\n".join(broke)

    def alone(text: str) -> list[str]:
        try:
            return run_apart(4.0, work.read_configs, [text])
        except WorkStopped:
            return []

    assert run_apart(60, work.read_configs, [json.dumps(config) for config in configs[:6]]) == []
    for _ in rounds("config"):
        reads()
