"""The tools of agents: the same answers over the Model Context Protocol, streamable HTTP, without sessions.

Gradio makes tools of endpoints by itself. Those give Python's spelling of a dictionary where agents want JSON,
tell an error as a success, and offer to load models on whatever GPU is here; so this server stands at
`/gradio_api/mcp` in place of Gradio's, where Hugging Face and Gradio's own page look for it, and at `/mcp`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from ..errors import QuantSpaceError
from .definitions import schema_of
from .endpoints import ENDPOINTS, SCHEMA, Endpoint
from .parameters import PARAMETERS, read
from .responses import NoSuchRoute, as_json, failed, unexpected
from .workers import Workers

log = logging.getLogger(__name__)

ADDRESSES = ("/mcp", "/gradio_api/mcp")

_INSTRUCTIONS = """Tells byte for byte how much GPU memory a model of the Hugging Face Hub takes: weights at each \
precision, KV cache, activations and overhead, without downloading weights. Begin with estimate_memory when a card \
is known and with find_gpu when it is not. Bytes are integers and 1 GB is 10**9 of them. A result with isError has \
a sentence about what was wrong and what to do about it; correct the arguments and call again."""


@dataclass(frozen=True)
class Tool:
    """One tool: an endpoint under a name that agents know, with what they need to choose it."""

    name: str
    title: str
    endpoint: Endpoint
    about: str

    def described(self) -> types.Tool:
        """The tool as it is listed."""
        return types.Tool(
            name=self.name,
            title=self.title,
            description=self.about,
            inputSchema=_input_schema(self.endpoint),
            outputSchema=schema_of(self.endpoint.schema),
            annotations=types.ToolAnnotations(
                title=self.title, readOnlyHint=True, destructiveHint=False, idempotentHint=True, openWorldHint=True
            ),
        )


_TABLE = (
    Tool(
        "estimate_memory", "Estimate GPU memory", ENDPOINTS["estimate"],
        "Tell which precisions of a model fit a GPU, and how much memory each takes. Use it when model and GPU are "
        "known: “does it fit”, “will I run out of memory”, “how long a context could I use”. Gives a row for each "
        "precision (bf16, int8, nf4, nf4-dq, GGUF mixes and more) with bytes of weights, cache, activations and "
        "overhead, a verdict (fits, tight, offload or no) with its reason, the longest context and largest batch "
        "that fit, and tokens a second to expect; and the id of the row that is `recommended`, null where none "
        "fits. Takes about 5,000 tokens to read: ask compare_precisions when two or three precisions are enough.",
    ),
    Tool(
        "find_gpu", "Find the smallest GPU", ENDPOINTS["find-gpu"],
        "Tell what hardware to choose for a model: the smallest card (or the fewest like cards) and the cheapest "
        "hardware of Hugging Face Spaces with its price an hour, for each precision. Use it when the model is known "
        "and the GPU is not: “what do I need to run it”, “what does it cost”. `card` is null where no hardware of "
        "the catalogue is enough, and `reason` then tells how much is missing.",
    ),
    Tool(
        "compare_precisions", "Compare precisions", ENDPOINTS["compare"],
        "Lay two or more precisions of a model beside each other on a GPU: bytes, verdict, bits per parameter, and "
        "what is saved against the first one named. Use it for “what do I save with 4-bit”, or as a shorter "
        "estimate_memory. Precisions: fp32, bf16, fp16, int8, nf4, nf4-dq (NF4 with double quantization), fp4 "
        "(bitsandbytes); int8-ao, fp8-ao, int4-ao (torchao); awq-4bit, gptq-4bit, mxfp4; q8_0, q6_k, q5_k_m, "
        "q4_k_m, q3_k_m, q2_k (GGUF); native (a checkpoint that is stored quantized, as it is stored); nf4-moe "
        "(experts quantized too, in mixture-of-experts models).",
    ),
    Tool(
        "inspect_model", "Inspect a model", ENDPOINTS["inspect"],
        "Tell what a model is made of, without a GPU in mind: parameters by role and those active for a token, "
        "layers, experts, heads, the context it was made for, bytes of its weights at every precision, and how its "
        "KV cache grows with the context. Use it for questions about the model itself, or to explain an estimate.",
    ),
)  # fmt: skip

TOOLS: dict[str, Tool] = {tool.name: tool for tool in _TABLE}


class ToolServer:
    """The server of all tools; it answers while `running()` is entered, once in its life."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._server: Server = Server("QuantSpace", version=str(SCHEMA), instructions=_INSTRUCTIONS)
        self._server.list_tools()(self._list)
        # What is wrong with an argument is said by the answers themselves, with what to do about it.
        self._server.call_tool(validate_input=False)(self._call)
        self._sessions = StreamableHTTPSessionManager(self._server, json_response=True, stateless=True)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve."""
        async with self._sessions.run():
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Everything under the server's address."""
        request = Request(scope, receive)
        place = request.path_params.get("rest", "").strip("/")
        if place == "schema":
            response: Response = JSONResponse([_listed(tool) for tool in _selected(request)])
        elif place not in ("", "http"):
            hint = "Agents speak to this server by streamable HTTP at /mcp."
            response = failed(NoSuchRoute("There is nothing here.", hint))
        elif request.method == "POST":
            await self._sessions.handle_request(scope, receive, send)
            return
        elif request.method == "GET" and "text/event-stream" not in request.headers.get("accept", ""):
            response = RedirectResponse("/v1/docs#tools")  # a person with a browser
        else:
            response = Response(status_code=405, headers={"Allow": "POST"})  # there are no sessions to hear of or end
        await response(scope, receive, send)

    async def _list(self) -> list[types.Tool]:
        return [tool.described() for tool in _selected(self._server.request_context.request)]

    async def _call(self, name: str, arguments: dict[str, Any]) -> types.CallToolResult:
        try:
            tool = TOOLS.get(name)
            if tool is None:
                raise NoSuchRoute(f"There is no tool {name!r}.", f"There is {', '.join(TOOLS)}.")
            values, warnings = read(tool.endpoint.parameters, arguments.items())
            told = await self._workers.run(tool.endpoint.ask, values, self._token())
        except QuantSpaceError as error:
            return _problem(error)
        except Exception:  # a seam: a mistake of ours must not end an agent's session
            log.exception("the tool %s failed", name)
            return _problem(unexpected())
        answer = told | {"warnings": warnings}
        text = types.TextContent(type="text", text=as_json(answer).decode())
        return types.CallToolResult(content=[text], structuredContent=answer)

    def _token(self) -> str | None:
        request = self._server.request_context.request
        return request.headers.get("x-hf-token") or None if isinstance(request, Request) else None


def _problem(error: QuantSpaceError) -> types.CallToolResult:
    """An error as the agent reads it. No structured content: some clients hold it against the output schema."""
    text = json.dumps({"error": error.as_data()}, ensure_ascii=False)
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], isError=True)


def _input_schema(endpoint: Endpoint) -> dict[str, Any]:
    parameters = [PARAMETERS[name] for name in endpoint.parameters]
    return {
        "type": "object",
        "properties": {
            one.name: {**one.schema, "description": one.about, "examples": [one.example]} for one in parameters
        },
        "required": [one.name for one in parameters if one.required],
        "additionalProperties": False,
    }


def _selected(request: Any) -> list[Tool]:
    """The tools that `?tools=a,b` names, as Gradio's servers take it; all where it names none."""
    named = request.query_params.get("tools") if isinstance(request, Request) else None
    return [tool for tool in TOOLS.values() if not named or tool.name in named.split(",")]


def _listed(tool: Tool) -> dict[str, Any]:
    """The tool as Gradio's `schema` route lists it, which Hugging Face and Gradio's page read."""
    described = tool.described()
    return {
        "name": described.name,
        "description": described.description,
        "inputSchema": described.inputSchema,
        "meta": {"file_data_present": False, "mcp_type": "tool", "endpoint_name": tool.endpoint.name},
    }
