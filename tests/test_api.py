"""The endpoints as programs call them, against an app that has no network."""

import httpx
import pytest
from gradio_client import Client

pytestmark = pytest.mark.xdist_group("app")


@pytest.fixture(scope="module")
def client(offline_app):
    return Client(offline_app, verbose=False)


@pytest.fixture(scope="module")
def gemma(client):
    return client.predict("google/gemma-3-4b-it", "t4", api_name="/estimate")


def rows(answer):
    return {row["precision"]: row for row in answer["rows"]}


@pytest.mark.parametrize(
    ("precision", "footprint"),
    [("fp32", 17_200_352_708), ("bf16", 8_600_193_762), ("int8", 4_980_480_738), ("nf4-dq", 3_170_624_226)],
)
def test_gemma_footprints_are_the_reference_figures(gemma, precision, footprint):
    assert rows(gemma)[precision]["footprint_bytes"] == footprint


def test_gemma_at_nf4_dq_holds_more_than_its_footprint_and_fits_a_t4(gemma):
    row = rows(gemma)["nf4-dq"]
    assert row["weights_bytes"] == 3_228_502_842
    assert row["verdict"] == "fits"


def test_gemma_at_fp32_does_not_fit_a_t4_and_says_by_how_much(gemma):
    row = rows(gemma)["fp32"]
    assert row["verdict"] == "offload"
    assert row["host"]["weights_bytes"] + row["cards"][0]["weights_bytes"] == row["weights_bytes"]
    assert "17.20 GB" in row["reason"] and "15.64 GB" in row["reason"]
    assert row["free_bytes"] < 0 and f"{-row['free_bytes'] / 1e9:.2f} GB short" in row["reason"]


def test_the_answer_has_the_shape_that_programs_depend_on(gemma):
    assert set(gemma) == {"model", "gpu", "rows", "recommended", "engines"}
    assert set(gemma["model"]) == {
        "id", "revision", "sha", "architecture", "parameters", "source", "source_kind", "exact", "weights_only",
        "max_context", "notes",
    }  # fmt: skip
    assert set(gemma["gpu"]) == {"id", "name", "count", "memory_bytes", "usable_bytes", "host_bytes"}
    assert [row["precision"] for row in gemma["rows"]] == [
        "fp32", "bf16", "fp16", "int8", "nf4", "nf4-dq", "fp4", "int8-ao", "fp8-ao", "int4-ao", "awq-4bit", "gptq-4bit",
        "mxfp4", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k",
    ]  # fmt: skip
    for row in gemma["rows"]:
        parts = ("weights_bytes", "cache_bytes", "activation_bytes", "overhead_bytes")
        assert row["total_bytes"] == sum(row[part] for part in parts)
        assert row["free_bytes"] == gemma["gpu"]["usable_bytes"] - row["total_bytes"]
    assert gemma["model"]["parameters"] == 4_300_079_472
    assert gemma["recommended"] == "bf16"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ({"model": ""}, "bad_model_id", "No model was named"),
        ({"model": "   "}, "bad_model_id", "No model was named"),
        ({"model": "../../etc/passwd"}, "bad_model_id", "not a model id"),
        ({"model": "https://example.com/google/gemma-3-4b-it"}, "bad_model_id", "not a page of the Hugging Face Hub"),
        ({"model": "a" * 10_000}, "bad_model_id", "10,000 characters"),
        ({"model": "google/gemma-3-4b-it", "gpu": "voodoo2"}, "unknown_gpu", "voodoo2"),
        ({"model": "google/gemma-3-4b-it", "gpu": ""}, "unknown_gpu", ""),
        ({"model": "google/gemma-3-4b-it", "context": -1}, "bad_workload", "-1"),
        ({"model": "google/gemma-3-4b-it", "context": 0}, "bad_workload", "Context is 0"),
        ({"model": "google/gemma-3-4b-it", "context": 10**9}, "bad_workload", "1,000,000,000"),
        ({"model": "google/gemma-3-4b-it", "context": 1.5}, "bad_workload", "not a whole number"),
        ({"model": "google/gemma-3-4b-it", "context": "many"}, "bad_workload", "not a number"),
        ({"model": "google/gemma-3-4b-it", "batch": 0}, "bad_workload", "Batch is 0"),
        ({"model": "google/gemma-3-4b-it", "gpu_count": 9}, "bad_workload", "1 to 8"),
        ({"model": "google/gemma-3-4b-it", "kv_dtype": "int3"}, "bad_workload", "int3"),
        ({"model": "nobody/nothing-is-here"}, "hub_unreachable", "can't be reached"),
    ],
)
def test_bad_input_gets_a_sentence_and_what_to_do(client, arguments, code, words):
    error = client.predict(**arguments, api_name="/estimate")["error"]
    assert error["code"] == code
    assert words in error["message"]
    assert error["hint"]
    assert len(error["message"]) < 400
    assert client.predict("openai-community/gpt2", api_name="/estimate")["recommended"]


@pytest.mark.parametrize(
    "link",
    [
        "https://huggingface.co/google/gemma-3-4b-it",
        "https://huggingface.co/google/gemma-3-4b-it/tree/main",
        "hf.co/google/gemma-3-4b-it",
        ' "google/gemma-3-4b-it" ',
    ],
)
def test_a_pasted_link_is_understood(client, link):
    assert client.predict(link, api_name="/estimate")["model"]["id"] == "google/gemma-3-4b-it"


def test_one_plain_post_is_answered_at_once(offline_app):
    body = {"data": ["google/gemma-3-4b-it", "l4", 1, 4096, 1, "auto", "main"]}
    answer = httpx.post(f"{offline_app}/gradio_api/run/estimate", json=body, timeout=60)
    assert answer.status_code == 200
    assert answer.json()["data"][0]["gpu"]["id"] == "l4"


def test_speed_is_a_range_with_what_it_assumes(gemma):
    speed = rows(gemma)["bf16"]["tokens_per_s"]
    assert 0 < speed["low"] < speed["high"]
    assert "transformers" in speed["assumption"]


def test_several_gpus_tell_what_each_holds(client):
    row = rows(client.predict("meta-llama/Llama-3.1-70B-Instruct", "a100", 4, api_name="/estimate"))["bf16"]
    assert len(row["cards"]) == 4 and sum(card["weights_bytes"] for card in row["cards"]) == row["weights_bytes"]
    assert row["tensor_parallel"]["fits"]


def test_fine_tuning_is_answered_term_by_term(client):
    answer = client.predict("google/gemma-3-4b-it", "t4", api_name="/finetune")
    assert answer["verdict"] == "fits"
    assert sum(term["bytes"] for term in answer["terms"]) == answer["total_bytes"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "prompt"}, "prompt"),
        ({"rank": 0}, "0"),
        ({"sequence": "long"}, "long"),
        ({"optimizer": "lion"}, "lion"),
        ({"gpu": "voodoo2"}, "voodoo2"),
        ({"model": "../x"}, "not a model id"),
    ],
)
def test_bad_fine_tuning_gets_a_sentence(client, arguments, words):
    error = client.predict(**{"model": "google/gemma-3-4b-it", **arguments}, api_name="/finetune")["error"]
    assert words in error["message"] and error["hint"]


def test_the_smallest_hardware_for_a_model_is_told(client):
    advice = client.predict("google/gemma-3-4b-it", api_name="/choose_gpu")["advice"]
    assert {one["precision"] for one in advice} == {"bf16", "int8", "nf4-dq"}
    assert all(one["card"]["verdict"] == "fits" for one in advice)


def test_models_for_a_gpu_are_ranked(client):
    models = client.predict("t4", api_name="/models_for_gpu")["models"]
    assert len(models) > 20
    assert [model["parameters"] for model in models] == sorted((m["parameters"] for m in models), reverse=True)


def test_the_gpu_catalogue_is_listed(client):
    listed = {gpu["id"]: gpu for gpu in client.predict(api_name="/gpus")}
    assert listed["t4"]["usable_bytes"] == 15_636_365_312


def test_the_layers_are_listed_before_anything_is_loaded(client):
    answer = client.predict("google/gemma-3-4b-it", "nf4-dq", api_name="/inventory")
    held = sum(sum(layer["bytes_by_dtype"].values()) for layer in answer["layers"])
    assert held == 3_228_502_842


def test_a_load_streams_progress_and_ends_with_the_readout(client):
    *progress, last = client.submit("quantspace/demo", "nf4-dq", api_name="/load")
    assert {"phase"} == {key for event in progress for key in event}
    readout = last["readout"]
    assert readout["held_bytes"] == readout["estimated_held_bytes"]
    assert readout["footprint_bytes"] == readout["estimated_footprint_bytes"]


def test_a_chat_streams_text_and_ends_with_statistics(client):
    *events, last = client.submit("quantspace/demo", "What is NF4?", "nf4", api_name="/chat")
    assert "4-bit" in "".join(event.get("text", "") for event in events)
    assert last["stats"]["new_tokens"] > 5 and last["stats"]["ended"] == "eos"


def test_page_handlers_are_not_part_of_the_api(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {
        "/estimate", "/gpus", "/inventory", "/load", "/chat", "/finetune", "/choose_gpu", "/models_for_gpu",
    }  # fmt: skip
