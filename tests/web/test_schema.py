"""The published shape: 200 answers of every kind are of it, and nothing else is."""

import copy
import json
import random
from functools import cache

import httpx
import pytest
from jsonschema import Draft202012Validator

from quantspace import estimate
from quantspace.estimation.calculator import KV_DTYPES
from quantspace.estimation.hardware import gpus
from quantspace.hub.catalogue import bundled_models
from quantspace.precision import PRECISIONS
from quantspace.web.definitions import schema_of, whole_schema
from quantspace.web.endpoints import ENDPOINTS
from tests.gguf_samples import quantized, sparse_gguf, tensors_of

pytestmark = pytest.mark.xdist_group("app")
GEMMA = "google/gemma-3-4b-it"
ALWAYS = (GEMMA, "Qwen/Qwen3-30B-A3B", "openai/gpt-oss-20b", "deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-8B-FP8")
REQUESTS = 200


def requests_of_all_kinds():
    """`(endpoint, parameters)`, the same in every run: over models, cards and workloads, and wrong ones among them."""
    draw = random.Random(20261122)
    models = [*ALWAYS, *draw.sample(sorted(set(bundled_models()) - set(ALWAYS)), 15), "quantspace/demo"]
    several = [gpu.id for gpu in gpus().values() if gpu.combines]

    def workload():
        return {
            "context": draw.choice([1, 512, 8192, "32k", 131072, 1_000_000]),
            "batch": draw.choice([1, 1, 4, 64]),
            "kv_dtype": draw.choice(KV_DTYPES),
        }

    def hardware():
        if draw.random() < 0.4:
            return {"gpu": draw.choice(several), "gpu_count": draw.choice([2, 4, 8])}
        return {"gpu": draw.choice([*gpus()])}

    def broken():
        return draw.choice(
            [
                {"model": "../x"}, {"model": ""}, {"model": "a" * 300}, {"model": "nobody/nothing-is-here"},
                {"model": GEMMA, "gpu": "voodoo2"}, {"model": GEMMA, "context": -1}, {"model": GEMMA, "batch": "x"},
                {"model": GEMMA, "kv_dtype": "int3"}, {"model": GEMMA, "gpu_count": 99},
                {"model": GEMMA, "ram_gb": "inf"}, {"model": GEMMA, "revision": "no such\nbranch"},
            ]
        )  # fmt: skip

    found = [("gpus", {})]
    found += [("estimate", {"model": model, **hardware(), **workload()}) for model in models for _ in range(4)]
    found += [("estimate", {"model": GEMMA, "gpu": "l4", "images": n, "context": 32768}) for n in (1, 8)]
    found += [
        ("compare", {"model": model, **hardware(), "precisions": ",".join(draw.sample([*PRECISIONS], 5)) + ",bf16"})
        for model in models
    ]
    found += [("compare", {"model": model}) for model in ALWAYS]
    found += [("find-gpu", {"model": draw.choice(models), **workload()}) for _ in range(14)]
    found += [("models-for-gpu", hardware() | {"context": 4096}) for _ in range(8)]
    found += [("inspect", {"model": model}) for model in models]
    found += [
        ("inventory", {"model": draw.choice(models), "precision": draw.choice(["bf16", "int8", "nf4-dq"])})
        for _ in range(10)
    ]
    found += [(draw.choice(["estimate", "compare"]), broken()) for _ in range(REQUESTS - len(found) - 4)]
    return [
        *found,
        ("nothing", {}),
        ("inventory", {"model": GEMMA, "precision": "q2_k"}),
        ("find-gpu", {}),
        ("inspect", {}),
    ]


CASES = requests_of_all_kinds()


@cache
def validator(name):
    return Draft202012Validator(schema_of(name))


@pytest.fixture(scope="module")
def web(offline_app):
    with httpx.Client(base_url=offline_app, timeout=90) as client:
        yield client


def test_there_are_two_hundred_requests_and_a_fair_share_is_wrong():
    assert len(CASES) == REQUESTS
    assert len({json.dumps(case) for case in CASES}) > 150


@pytest.mark.parametrize(("endpoint", "asked"), CASES)
def test_an_answer_is_of_its_published_shape(web, endpoint, asked):
    answer = web.get(f"/v1/{endpoint}", params=asked)
    assert answer.status_code < 500 or answer.json()["error"]["code"] == "hub_unreachable"
    name = ENDPOINTS[endpoint].schema if answer.status_code == 200 else "Error"
    validator(name).validate(answer.json())
    Draft202012Validator(whole_schema()).validate(answer.json())


class TestFiles:
    """Answers about repositories without a class, of which more or less is known."""

    def test_files_of_llama_cpp_are_of_the_published_shape(self, online_app, hub):
        header = {"block_count": 4, "context_length": 2048, "embedding_length": 256, "attention.head_count": 4}
        header |= {"attention.head_count_kv": 2, "attention.key_length": 64, "attention.value_length": 64}
        shapes = tensors_of(estimate("quantspace/demo").inventory)
        files = {
            f"demo-{kind}.gguf": sparse_gguf("llama", header, quantized(shapes, kind)) for kind in ("Q8_0", "Q4_K")
        }
        hub.add_repo("web/demo-GGUF", files)
        for endpoint in ("estimate", "compare", "inspect", "find-gpu"):
            answer = httpx.get(f"{online_app}/v1/{endpoint}", params={"model": "web/demo-GGUF"}, timeout=90)
            assert answer.status_code == 200, answer.text
            validator(ENDPOINTS[endpoint].schema).validate(answer.json())
            told = answer.json()
            rows = told.get("rows") or told.get("weights") or told["advice"]
            assert {row["precision"] for row in rows} == {f"gguf:{name}" for name in files}


def objects(schema, path="$"):
    if isinstance(schema, dict):
        if schema.get("type") == "object" or "properties" in schema:
            yield path, schema
        for name, part in schema.items():
            yield from objects(part, f"{path}.{name}")
    elif isinstance(schema, list):
        for place, part in enumerate(schema):
            yield from objects(part, f"{path}[{place}]")


def test_the_schema_is_one():
    Draft202012Validator.check_schema(whole_schema())


@pytest.mark.parametrize(
    ("path", "schema"), list(objects(whole_schema())), ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_is_not_listed_is_forbidden(path, schema):
    assert "additionalProperties" in schema
    assert schema["additionalProperties"] is False or "properties" not in schema
    assert set(schema.get("required", [])) == set(schema.get("properties", {}))


@pytest.fixture(scope="module")
def answer(web):
    return web.get("/v1/estimate", params={"model": GEMMA, "gpu": "l4", "gpu_count": 2}).json()


@pytest.mark.parametrize(
    "place", [(), ("model",), ("gpu",), ("rows", 1), ("rows", 1, "cards", 0), ("rows", 1, "tokens_per_s")]
)
def test_a_new_field_must_be_written_into_the_schema(answer, place):
    changed = copy.deepcopy(answer)
    part = changed
    for step in place:
        part = part[step]
    part["brand_new"] = 1
    assert validator("Estimate").is_valid(answer) and not validator("Estimate").is_valid(changed)


@pytest.mark.parametrize(
    ("name", "value"),
    [("total_bytes", 1.5), ("verdict", "perhaps"), ("weights_bytes", -1), ("notes", "none"), ("host", 7)],
)
def test_a_field_of_another_kind_is_refused(answer, name, value):
    changed = copy.deepcopy(answer)
    changed["rows"][1][name] = value
    assert not validator("Estimate").is_valid(changed)


def test_the_schema_is_served_as_it_stands_in_the_repository(web):
    assert web.get("/v1/schema.json").json() == whole_schema()
