"""What may be asked, described for programs (OpenAPI 3.1) and for people, both from the table of endpoints."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

from .definitions import whole_schema
from .endpoints import ENDPOINTS, SCHEMA, Endpoint
from .images import IMAGES, Image
from .images import PARAMETERS as OF_IMAGES
from .parameters import PARAMETERS, Parameter
from .rendering import render
from .responses import JSON
from .tools import TOOLS

_FAILURES = {
    400: "What was asked makes no sense: a parameter is missing, malformed or out of range.",
    401: "The model wants a token of the Hub, or the Hub does not know the one that was sent.",
    403: "The model's files are open to those alone who were let in.",
    404: "No such model, revision or card.",
    422: "The model is there, but can't be estimated.",
    429: "The Hub asks to wait.",
    502: "The Hub's answer was none.",
    503: "The Hub can't be reached, or too much is asked at once.",
    504: "The Hub took too long.",
}
_OF_THE_HUB = frozenset({401, 403, 422, 429, 502, 504})


@lru_cache(maxsize=1)
def openapi() -> dict[str, Any]:
    """The OpenAPI document. Definitions are those of `schema/v1.json`, where OpenAPI looks for them."""
    definitions = json.dumps(whole_schema()["$defs"]).replace("#/$defs/", "#/components/schemas/")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "QuantSpace",
            "version": str(SCHEMA),
            "summary": "Will this model fit my GPU, at which precision?",
            "description": "Bytes are integers. Answers carry an ETag; parameters that are not known are ignored "
            "and named in `warnings`. A token of the Hub is taken in the header X-HF-Token alone.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            **{endpoint.path: _operations(endpoint) for endpoint in ENDPOINTS.values()},
            **{f"/{image.name}": _image(image) for image in IMAGES.values()},
        },
        "components": {
            "schemas": json.loads(definitions),
            "securitySchemes": {
                "hub": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-HF-Token",
                    "description": "A token of the Hugging Face Hub that may read the model, for private and gated "
                    "ones. It is passed on to the Hub, neither kept nor repeated.",
                }
            },
        },
    }


@lru_cache(maxsize=8)
def docs_page(base_url: str) -> str:
    """The same as a page, without scripts and without anything from elsewhere.

    Args:
        base_url: address of this server, for examples that can be copied.
    """
    return render(
        "docs",
        base_url=base_url,
        endpoints=[(endpoint, _parameters(endpoint), _example(endpoint)) for endpoint in ENDPOINTS.values()],
        failures=_FAILURES,
        images=IMAGES,
        tools=TOOLS,
    )


def _operations(endpoint: Endpoint) -> dict[str, Any]:
    parameters = _parameters(endpoint)
    body = {
        "type": "object",
        "properties": {one.name: {**one.schema, "description": one.about} for one in parameters},
        "required": [one.name for one in parameters if one.required],
    }
    shared: dict[str, Any] = {"summary": endpoint.summary, "responses": _responses(endpoint)}
    if endpoint.of_the_hub:
        shared["security"] = [{}, {"hub": []}]
    query = [_in_query(parameter) for parameter in parameters]
    name = endpoint.name.replace("-", "_")
    return {
        "get": {"operationId": name, **shared, "parameters": query},
        "post": {
            "operationId": f"{name}_by_body",
            **shared,
            "requestBody": {"content": {JSON: {"schema": body}}, "required": bool(body["required"])},
        },
    }


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    answer = {"schema": {"$ref": f"#/components/schemas/{endpoint.schema}"}}
    failure = {"schema": {"$ref": "#/components/schemas/Error"}}
    responses: dict[str, Any] = {
        "200": {"description": "The answer.", "content": {JSON: answer}},
        "304": {"description": "As known by If-None-Match."},
    }
    for status, about in _FAILURES.items():
        if endpoint.of_the_hub or status not in _OF_THE_HUB:
            responses[str(status)] = {"description": about, "content": {JSON: failure}}
    return responses


def _image(image: Image) -> dict[str, Any]:
    return {
        "get": {
            "operationId": image.name.replace(".", "_"),
            "summary": image.about,
            "parameters": [_in_query(PARAMETERS[one]) for one in OF_IMAGES],
            "responses": {
                "200": {
                    "description": "The image. A problem is an image too, with its code in X-Error-Code.",
                    "content": {image.media_type: {}},
                },
                "304": {"description": "As known by If-None-Match."},
            },
        }
    }


def _parameters(endpoint: Endpoint) -> list[Parameter]:
    return [PARAMETERS[name] for name in endpoint.parameters]


def _in_query(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": "query",
        "required": parameter.required,
        "description": parameter.about,
        "schema": dict(parameter.schema),
        "example": parameter.example,
    }


def _example(endpoint: Endpoint) -> str:
    """A query that shows what is most often given."""
    shown = [one for one in _parameters(endpoint) if one.name in ("model", "gpu", "precision", "precisions")]
    query = urlencode({one.name: one.example for one in shown}, safe="/,")
    return f"{endpoint.path}?{query}" if query else endpoint.path
