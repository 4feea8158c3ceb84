"""The tools as an agent calls them: the real client, over streamable HTTP, against the app as it is started."""

import json
from contextlib import asynccontextmanager

import httpx
import pytest
from jsonschema import Draft202012Validator
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from tests.loops import run

pytestmark = pytest.mark.xdist_group("app")
ADDRESSES = ("/mcp", "/gradio_api/mcp/")  # ours, and where Hugging Face and Gradio's page look
TOOLS = ("estimate_memory", "find_gpu", "compare_precisions", "inspect_model")
GEMMA = {"model": "google/gemma-3-4b-it"}


@asynccontextmanager
async def session(url):
    async with streamable_http_client(url) as (read, write, *_), ClientSession(read, write) as client:
        yield client, await client.initialize()


@pytest.fixture(scope="module")
def tools(offline_app):
    async def listed():
        async with session(f"{offline_app}/mcp") as (client, _):
            return (await client.list_tools()).tools

    return {tool.name: tool for tool in run(listed())}


@pytest.fixture(scope="module")
def call(offline_app):
    def ask(name, arguments, path="/mcp"):
        async def answer():
            async with session(offline_app + path) as (client, _):
                return await client.call_tool(name, arguments)

        return run(answer())

    return ask


@pytest.mark.parametrize("path", ADDRESSES)
def test_the_server_introduces_itself_and_lists_its_tools_alone(offline_app, path):
    async def ask():
        async with session(offline_app + path) as (client, greeting):
            return greeting, (await client.list_tools()).tools

    greeting, listed = run(ask())
    assert greeting.serverInfo.name == "QuantSpace" and "estimate_memory" in greeting.instructions
    assert tuple(tool.name for tool in listed) == TOOLS


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_tells_when_to_use_it_and_how_its_parameters_are_written(tools, name):
    tool = tools[name]
    assert "Use it" in tool.description and len(tool.description) > 200
    assert tool.annotations.readOnlyHint
    assert tool.inputSchema["required"] == ["model"]
    assert all(len(one["description"]) > 15 for one in tool.inputSchema["properties"].values())
    Draft202012Validator.check_schema(tool.inputSchema)
    Draft202012Validator.check_schema(tool.outputSchema)


def test_memory_is_estimated_as_structured_content_and_as_its_json(call):
    answer = call("estimate_memory", {**GEMMA, "gpu": "t4", "context": 8192})
    assert not answer.isError
    assert json.loads(answer.content[0].text) == answer.structuredContent
    rows = {row["precision"]: row for row in answer.structuredContent["rows"]}
    assert rows["nf4-dq"]["weights_bytes"] == 3_228_502_842 and rows["nf4-dq"]["verdict"] == "fits"


def test_the_smallest_gpu_is_found(call):
    advice = call("find_gpu", {**GEMMA, "precisions": "bf16"}).structuredContent["advice"]
    assert [one["precision"] for one in advice] == ["bf16"]
    assert advice[0]["card"]["verdict"] == "fits"


def test_precisions_are_laid_against_the_first_one_named(call):
    answer = call("compare_precisions", {**GEMMA, "gpu": "l4", "precisions": "bf16, nf4-dq, nf4-moe"}).structuredContent
    bf16, nf4 = answer["rows"]
    assert answer["baseline"] == "bf16" and answer["left_out"] == ["nf4-moe"]
    assert bf16["saved_bytes"] == 0 and nf4["saved_bytes"] == bf16["total_bytes"] - nf4["total_bytes"] > 0
    assert 4 < nf4["bits_per_parameter"] < 8


def test_a_model_is_inspected(call):
    answer = call("inspect_model", {"model": "Qwen/Qwen3-30B-A3B"}).structuredContent
    assert answer["experts"] == 128 and answer["active_parameters"] < answer["parameters"] / 5
    assert sum(answer["parameters_by_role"].values()) == answer["parameters"]
    assert answer["cache"]["bytes_at"]["8192"] == 8 * answer["cache"]["bytes_at"]["1024"]


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ({"model": "../x"}, "bad_model_id", "not a model id"),
        ({}, "bad_model_id", "No model was named"),
        ({"model": 7}, "bad_input", "model is not a text"),
        ({"model": "nobody/nothing-is-here"}, "hub_unreachable", "can't be reached"),
    ],
)
def test_a_bad_call_is_a_tool_error_with_what_to_do(call, name, arguments, code, words):
    answer = call(name, arguments)
    assert answer.isError and answer.structuredContent is None
    error = json.loads(answer.content[0].text)["error"]
    assert error["code"] == code and words in error["message"] and error["hint"]


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("estimate_memory", {"gpu": "voodoo2"}, "unknown_gpu"),
        ("estimate_memory", {"context": "many"}, "bad_workload"),
        ("estimate_memory", {"gpu_count": [2]}, "bad_workload"),
        ("compare_precisions", {"precisions": "bf17"}, "bad_input"),
        ("find_gpu", {"precisions": "bf17"}, "bad_input"),
    ],
)
def test_an_argument_out_of_range_is_told(call, name, arguments, code):
    answer = call(name, GEMMA | arguments)
    assert answer.isError and json.loads(answer.content[0].text)["error"]["code"] == code


def test_a_tool_that_is_not_there_names_those_that_are(call):
    answer = call("load", {})
    assert answer.isError and "estimate_memory" in answer.content[0].text


def test_an_unknown_argument_is_ignored_and_named(call):
    answer = call("estimate_memory", {**GEMMA, "colour": "red"})
    assert not answer.isError and "colour" in answer.structuredContent["warnings"][0]


def test_tools_can_be_selected_in_the_address(offline_app):
    async def ask():
        async with session(f"{offline_app}/mcp?tools=find_gpu") as (client, _):
            return (await client.list_tools()).tools

    assert [tool.name for tool in run(ask())] == ["find_gpu"]


def test_the_schema_that_hugging_face_reads_lists_the_same_tools(offline_app, tools):
    listed = httpx.get(f"{offline_app}/gradio_api/mcp/schema").json()
    assert {one["name"]: one["inputSchema"] for one in listed} == {
        name: tool.inputSchema for name, tool in tools.items()
    }


def test_a_browser_is_shown_the_documentation(offline_app):
    answer = httpx.get(f"{offline_app}/mcp", headers={"Accept": "text/html"})
    assert answer.status_code == 307 and answer.headers["location"] == "/v1/docs#tools"


def test_what_is_not_served_says_so(offline_app):
    assert httpx.get(f"{offline_app}/mcp", headers={"Accept": "text/event-stream"}).status_code == 405
    assert httpx.get(f"{offline_app}/gradio_api/mcp/sse").status_code == 404
