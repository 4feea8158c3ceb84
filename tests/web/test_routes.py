"""The plain routes as programs meet them, on the app as it is started."""

import gzip
import http.client
import json
from urllib.parse import urlsplit

import httpx
import pytest

from quantspace import estimate
from tests.app_server import running_app
from tests.loops import run

pytestmark = pytest.mark.xdist_group("app")
GEMMA = {"model": "google/gemma-3-4b-it", "gpu": "t4"}
ELSEWHERE = "https://blog.example"
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128,
    "max_position_embeddings": 512,
}  # fmt: skip


@pytest.fixture(scope="module")
def web(offline_app):
    with httpx.Client(base_url=offline_app, timeout=90) as client:
        yield client


@pytest.fixture(scope="module")
def online(online_app):
    with httpx.Client(base_url=online_app, timeout=90) as client:
        yield client


def error_of(answer):
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"} and set(answer.json()["error"]) == {"code", "message", "hint"}
    return answer.json()["error"]


class TestAnswers:
    def test_an_estimate_is_that_of_python(self, web):
        answer = web.get("/v1/estimate", params=GEMMA | {"gpu": "l4", "gpu_count": 2, "context": "4k"}).json()
        expected = estimate(**GEMMA | {"gpu": "l4"}, gpu_count=2, context=4096).as_data()
        assert {name: part for name, part in answer.items() if name not in ("schema", "warnings")} == expected
        assert answer["schema"] == 1 and answer["warnings"] == []

    def test_a_body_asks_the_same_as_a_query(self, web):
        asked = {**GEMMA, "gpu_count": 2, "ram_gb": 64}
        assert web.post("/v1/estimate", json=asked).json() == web.get("/v1/estimate", params=asked).json()

    def test_the_names_of_a_pages_link_are_understood(self, web):
        answer = web.get("/v1/estimate", params={**GEMMA, "gpu": "l4", "count": 2, "kv": "fp8"}).json()
        assert answer["gpu"]["count"] == 2 and answer["warnings"] == []

    def test_cards_are_listed(self, web):
        listed = {gpu["id"]: gpu for gpu in web.get("/v1/gpus").json()["gpus"]}
        assert listed["t4"]["usable_bytes"] == 15_636_365_312

    def test_layers_add_up_to_the_estimates_weights(self, web):
        answer = web.get("/v1/inventory", params={"model": GEMMA["model"], "precision": "nf4-dq"}).json()
        assert sum(sum(layer["bytes_by_dtype"].values()) for layer in answer["layers"]) == 3_228_502_842

    def test_the_smallest_hardware_is_found(self, web):
        answer = web.get("/v1/find-gpu", params={"model": GEMMA["model"], "precisions": "int8"}).json()
        assert [one["precision"] for one in answer["advice"]] == ["int8"]

    def test_models_for_a_card_are_ranked(self, web):
        answer = web.get("/v1/models-for-gpu", params={"gpu": "l4"}).json()
        sizes = [model["parameters"] for model in answer["models"]]
        assert sizes == sorted(sizes, reverse=True)
        assert len(answer["models"]) + answer["too_large"] + answer["unread"] > 20

    @pytest.mark.parametrize(
        ("path", "asked"),
        [
            ("compare", {"precisions": "bf16,4bit"}),
            ("compare", {"precisions": "bfloat16, NF4"}),
            ("find-gpu", {"precisions": "BF16,4bit"}),
        ],
    )
    def test_other_spellings_of_a_precision_mean_the_same(self, web, path, asked):
        answer = web.get(f"/v1/{path}", params={"model": GEMMA["model"], **asked}).json()
        assert [row["precision"] for row in answer.get("rows") or answer["advice"]] == ["bf16", "nf4"]

    def test_layers_are_told_at_another_spelling(self, web):
        asked = {"model": GEMMA["model"], "precision": "NF4_DQ"}
        assert web.get("/v1/inventory", params=asked).json()["precision"] == "nf4-dq"

    def test_a_body_may_name_precisions_as_a_list(self, web):
        answer = web.post("/v1/compare", json=GEMMA | {"precisions": ["bf16", "int8"]}).json()
        assert [row["precision"] for row in answer["rows"]] == ["bf16", "int8"]
        refused = web.post("/v1/compare", json=GEMMA | {"precisions": ["bf16", 4]})
        assert refused.status_code == 400 and error_of(refused)["message"] == "precisions is not a text."

    @pytest.mark.parametrize(
        ("typed", "place"),
        [
            ("/v1", "/v1/docs"), ("/v1/", "/v1/docs"), ("/v1/docs/", "/v1/docs"),
            ("/embed/?model=openai-community/gpt2&theme=dark", "/embed?model=openai-community/gpt2&theme=dark"),
            ("/embed/builder/", "/embed/builder"),
        ],
    )  # fmt: skip
    def test_an_address_with_a_slash_too_many_leads_to_the_page(self, web, typed, place):
        moved = web.get(typed)
        assert (moved.status_code, moved.headers["location"]) == (308, place)
        assert web.get(place).status_code == 200

    def test_precisions_are_compared_with_the_first(self, web):
        asked = {**GEMMA, "precisions": "bf16,q4_k_m"}
        first, second = web.get("/v1/compare", params=asked).json()["rows"]
        assert first["weights_of_baseline"] == 1 and second["weights_of_baseline"] < 0.4

    def test_what_is_compared_where_nothing_is_named_means_something(self, web):
        answer = web.get("/v1/compare", params={"model": "Qwen/Qwen3-8B-FP8"}).json()
        assert answer["baseline"] == "native" and answer["left_out"] == []

    def test_a_model_is_inspected_to_the_same_bytes(self, web):
        answer = web.get("/v1/inspect", params={"model": GEMMA["model"]}).json()
        weights = {row["precision"]: row["weights_bytes"] for row in answer["weights"]}
        assert weights["nf4-dq"] == 3_228_502_842 and answer["layers"] > 34

    def test_unknown_parameters_are_ignored_and_named(self, web):
        answer = web.get("/v1/estimate", params={**GEMMA, "colour": "red", "<b>": 1})
        assert answer.status_code == 200
        assert ["colour" in answer.json()["warnings"][0], "<b>" in answer.json()["warnings"][1]] == [True, True]

    def test_of_a_parameter_that_comes_twice_the_last_counts(self, web):
        answer = web.get("/v1/estimate", params=[*GEMMA.items(), ("gpu", "l4")]).json()
        assert answer["gpu"]["id"] == "l4" and "gpu was given more than once" in answer["warnings"][0]

    def test_the_page_and_its_endpoints_are_still_gradios(self, web):
        assert "gradio" in web.get("/").text
        body = {"data": ["google/gemma-3-4b-it", "t4", 1, 4096, 1, "auto", "main"]}
        assert web.post("/gradio_api/run/estimate", json=body).json()["data"][0]["gpu"]["id"] == "t4"

    def test_health_is_told_without_asking_anybody(self, web):
        assert web.get("/healthz").json()["status"] == "ok"


class TestProtocol:
    @pytest.mark.parametrize("path", ["/v1/estimate", "/v1/gpus", "/v1/schema.json", "/v1/openapi.json", "/v1/docs"])
    def test_what_is_known_already_is_not_sent_again(self, web, path):
        first = web.get(path, params=GEMMA)
        assert first.headers["cache-control"].startswith("public, max-age=")
        again = web.get(path, params=GEMMA, headers={"If-None-Match": f'"other", {first.headers["etag"]}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        assert web.get(path, params=GEMMA, headers={"If-None-Match": '"other"'}).status_code == 200

    def test_another_answer_has_another_tag(self, web):
        tags = {web.get("/v1/estimate", params=GEMMA | {"batch": batch}).headers["etag"] for batch in (1, 2, 3)}
        assert len(tags) == 3

    def test_head_tells_the_length_and_sends_nothing(self, web):
        head, get = (
            web.request(method, "/v1/gpus", headers={"Accept-Encoding": "identity"}) for method in ("HEAD", "GET")
        )
        assert (
            head.content == b""
            and head.headers["content-length"] == str(len(get.content)) == get.headers["content-length"]
        )

    def test_a_long_answer_is_compressed_where_that_is_taken(self, offline_app):
        connection = http.client.HTTPConnection(urlsplit(offline_app).netloc)
        connection.request("GET", "/v1/gpus", headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        sent = answer.read()
        assert answer.headers["Content-Encoding"] == "gzip" and "Accept-Encoding" in answer.headers["Vary"]
        assert len(sent) < len(gzip.decompress(sent)) / 4
        connection.close()

    def test_pages_of_any_site_may_read_and_no_cookie_is_taken(self, web):
        for headers in ({}, {"Origin": ELSEWHERE}):
            answer = web.get("/v1/estimate", params=GEMMA, headers=headers)
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answer.headers
            assert "set-cookie" not in answer.headers

    def test_an_error_can_be_read_from_any_site_too(self, web):
        answer = web.get("/v1/estimate", params={"model": "../x"}, headers={"Origin": ELSEWHERE})
        assert answer.status_code == 400 and answer.headers["access-control-allow-origin"] == "*"

    def test_a_browser_may_send_a_body_and_a_token_from_any_site(self, web):
        asked = {"Origin": ELSEWHERE, "Access-Control-Request-Method": "POST"}
        answer = web.options(
            "/v1/estimate", headers=asked | {"Access-Control-Request-Headers": "x-hf-token, content-type"}
        )
        assert answer.status_code == 200 and "x-hf-token" in answer.headers["access-control-allow-headers"]
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers

    def test_gradios_own_routes_keep_their_guard(self, web):
        answer = web.get("/config", headers={"Origin": ELSEWHERE})
        assert "access-control-allow-origin" not in answer.headers


class TestErrors:
    @pytest.mark.parametrize(
        ("path", "asked", "status", "code", "words"),
        [
            ("estimate", {}, 400, "bad_model_id", "No model was named"),
            ("estimate", {"model": "../../etc/passwd"}, 400, "bad_model_id", "not a model id"),
            ("estimate", {"model": "<script>alert(1)</script>"}, 400, "bad_model_id", "not a model id"),
            ("estimate", {**GEMMA, "gpu": "voodoo2"}, 404, "unknown_gpu", "voodoo2"),
            ("estimate", {**GEMMA, "context": "many"}, 400, "bad_workload", "not a number"),
            ("estimate", {**GEMMA, "gpu_count": 9}, 400, "bad_workload", "1 to 8"),
            ("estimate", {**GEMMA, "kv_dtype": "int3"}, 400, "bad_workload", "int3"),
            ("estimate", {**GEMMA, "ram_gb": "nan"}, 400, "bad_workload", "memory"),
            ("inventory", {"model": GEMMA["model"], "precision": "q4_k_m"}, 400, "bad_input", "table by layer"),
            ("inventory", {"model": GEMMA["model"], "precision": "bf17"}, 400, "bad_input", "bf17"),
            ("compare", {**GEMMA, "precisions": "bf16,bf17"}, 400, "bad_input", "bf17"),
            ("find-gpu", {"model": GEMMA["model"], "precisions": "bf17"}, 400, "bad_input", "bf17"),
            ("models-for-gpu", {"gpu": "voodoo2"}, 404, "unknown_gpu", "voodoo2"),
            ("estimate", {"model": "nobody/nothing-is-here"}, 503, "hub_unreachable", "can't be reached"),
            ("nothing", {}, 404, "no_such_route", "/v1/nothing"),
        ],
    )
    def test_each_has_the_status_that_fits_a_sentence_and_what_to_do(self, web, path, asked, status, code, words):
        answer = web.get(f"/v1/{path}", params=asked)
        error = error_of(answer)
        assert (answer.status_code, error["code"]) == (status, code)
        assert words in error["message"] and error["hint"]
        assert answer.headers["cache-control"] == "no-store"

    @pytest.mark.parametrize(
        ("body", "words"),
        [(b"{", "not JSON"), (b"[1]", "not an object"), (b"[" * 5000, "not JSON"), (b" " * 70_000, "65,536 bytes")],
    )
    def test_a_body_that_is_no_question_is_refused(self, web, body, words):
        answer = web.post("/v1/estimate", content=body)
        assert answer.status_code == 400 and words in error_of(answer)["message"]

    @pytest.mark.parametrize("value", [7, ["a/b"], {"id": "a/b"}, True])
    def test_a_text_is_wanted_where_a_model_is_named(self, web, value):
        answer = web.post("/v1/estimate", json={"model": value})
        assert answer.status_code == 400 and "model is not a text" in error_of(answer)["message"]

    def test_a_method_that_is_not_served_is_refused(self, web):
        answer = web.delete("/v1/estimate")
        assert answer.status_code == 405 and "DELETE" in error_of(answer)["message"]
        assert answer.headers["allow"] == "GET, HEAD, POST"


class TestTheHub:
    """What the Hub says of a model, with the status that fits, and what becomes of a caller's token."""

    @pytest.fixture(autouse=True)
    def repos(self, hub):
        files = {"config.json": json.dumps(LLAMA)}
        hub.add_repo("web/open", files)
        hub.add_repo("web/gated", files, gated="manual", safetensors=None)
        hub.add_repo("ann/private", files, private=True)
        hub.add_repo("web/strange", {"config.json": json.dumps({"model_type": "none-such"})}, safetensors=None)
        hub.add_account("hf_annAnnAnn", "ann", accepted={"web/gated"})
        hub.add_account("hf_bobBobBob", "bob")
        yield
        hub.faults.clear()

    def test_a_model_of_the_hub_is_estimated_with_its_commit(self, online, hub):
        answer = online.get("/v1/estimate", params={"model": "web/open"})
        assert answer.status_code == 200 and answer.json()["model"]["sha"] == hub.repos["web/open"].head.sha

    @pytest.mark.parametrize(
        ("model", "token", "status"),
        [
            ("web/missing", None, 404),
            ("ann/private", None, 404),
            ("ann/private", "hf_bobBobBob", 404),
            ("web/open", "hf_noNoNoNo", 401),
            ("web/open", "no token at all", 401),
            ("web/strange", None, 422),
        ],
    )
    def test_what_stands_in_the_way_has_a_status(self, online, model, token, status):
        answer = online.get("/v1/estimate", params={"model": model}, headers={"X-HF-Token": token} if token else {})
        assert answer.status_code == status, answer.text
        assert error_of(answer)["hint"]
        if token:
            assert token not in answer.text and answer.headers["cache-control"] == "private, no-store"
        if status == 401:
            assert answer.headers["www-authenticate"]

    def test_a_private_model_is_told_to_whoever_may_read_it_and_kept_nowhere(self, online, hub):
        hub.requests.clear()
        asked = {"params": {"model": "ann/private"}, "headers": {"X-HF-Token": "hf_annAnnAnn"}}
        answer = online.get("/v1/estimate", **asked)
        assert answer.status_code == 200 and answer.json()["model"]["id"] == "ann/private"
        assert answer.headers["cache-control"] == "private, no-store" and "etag" not in answer.headers
        assert "hf_ann" not in answer.text + str(answer.headers)
        assert "Bearer hf_annAnnAnn" in {request.headers.get("authorization") for request in hub.requests}
        assert online.get("/v1/estimate", params={"model": "ann/private"}).status_code == 404

    def test_a_token_in_the_address_is_not_taken(self, online):
        answer = online.get("/v1/estimate", params={"model": "ann/private", "token": "hf_annAnnAnn"})
        assert answer.status_code == 404 and "hf_ann" not in answer.text

    @pytest.mark.parametrize(("fault", "status"), [({"status": 429}, 429), ({"status": 500}, 502)])
    def test_a_hub_in_trouble_has_a_status(self, online, hub, fault, status):
        hub.add_repo(f"web/trouble-{status}", {"config.json": json.dumps(LLAMA)})
        hub.fail(f"web/trouble-{status}", **fault)
        answer = online.get("/v1/estimate", params={"model": f"web/trouble-{status}"})
        assert answer.status_code == status, answer.text
        assert error_of(answer)["hint"]
        assert ("retry-after" in answer.headers) == (status == 429)

    def test_an_agents_token_goes_the_same_way(self, online, online_app):
        from mcp import ClientSession
        from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client

        async def ask(headers):
            async with (
                create_mcp_http_client(headers=headers) as http_client,
                streamable_http_client(f"{online_app}/mcp", http_client=http_client) as (read, write, *_),
                ClientSession(read, write) as client,
            ):
                await client.initialize()
                return await client.call_tool("inspect_model", {"model": "ann/private"})

        told, refused = (run(ask(headers)) for headers in ({"X-HF-Token": "hf_annAnnAnn"}, {}))
        assert told.structuredContent["model"] == "ann/private" and "hf_ann" not in told.model_dump_json()
        assert refused.isError and "model_not_found" in refused.content[0].text


def test_where_the_machine_is_logged_in_only_its_own_pages_may_read(hub, tmp_path):
    """A page on the web could else learn of private models through the browser of whoever runs the app."""
    hub.add_repo("ann/private", {"config.json": json.dumps(LLAMA)}, private=True)
    hub.add_account("hf_annAnnAnn", "ann")
    with running_app(hub.url, tmp_path / "app.log", HF_TOKEN="hf_annAnnAnn") as url:
        asked = {"params": {"model": "ann/private"}, "timeout": 90}
        here = httpx.get(f"{url}/v1/estimate", headers={"Origin": "http://localhost:3000"}, **asked)
        there = httpx.get(f"{url}/v1/estimate", headers={"Origin": ELSEWHERE}, **asked)
    assert here.status_code == there.status_code == 200
    assert here.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "access-control-allow-origin" not in there.headers and "Origin" in there.headers["vary"]
