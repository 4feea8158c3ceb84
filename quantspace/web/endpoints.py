"""The table of what programs may ask: one row an endpoint, read by the routes, OpenAPI and the agents' tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import answers
from .parameters import defaults

SCHEMA = 1  # version of the answers' shape; a field may be added within one, none changed or taken away

_MODEL_QUESTION = ("model", "context", "batch", "kv_dtype", "revision")
_ESTIMATE = ("model", "gpu", "gpu_count", "context", "batch", "kv_dtype", "revision", "ram_gb", "images")


@dataclass(frozen=True)
class Endpoint:
    """One question.

    Attributes:
        name: last part of its address, `/v1/<name>`.
        answer: gives the answer as JSON takes it, or raises a `QuantSpaceError`.
        schema: name of the answer's definition in `schema/v1.json`.
        summary: one sentence for people.
        parameters: names in the table of parameters.
        of_the_hub: whether the answer may need the Hub, and with it the caller's token.
        max_age: seconds for which an answer may be kept.
    """

    name: str
    answer: Callable[..., Any]
    schema: str
    summary: str
    parameters: tuple[str, ...] = ()
    of_the_hub: bool = True
    max_age: int = 300

    @property
    def path(self) -> str:
        return f"/v1/{self.name}"

    def ask(self, values: dict[str, Any], token: str | None) -> dict[str, Any]:
        """The answer to `values`, as an object with the version of its shape. What is not given is as the schema says.

        Raises:
            QuantSpaceError: with what is wrong, and what to do.
        """
        values = defaults(self.parameters) | values
        told = self.answer(**values, token=token) if self.of_the_hub else self.answer(**values)
        return {"schema": SCHEMA} | (told if isinstance(told, dict) else {self.name: told})


_TABLE = (
    Endpoint(
        "estimate", answers.estimate, "Estimate",
        "Which precisions of a model fit a card, in bytes, with the reason for each verdict.", _ESTIMATE,
    ),
    Endpoint(
        "compare", answers.compare, "Comparison",
        "Some precisions of a model beside each other on a card, laid against the first of them.",
        ("model", "precisions", *_ESTIMATE[1:]),
    ),
    Endpoint(
        "find-gpu", answers.find_gpu, "Advice",
        "The smallest card and the cheapest Space on which a model fits, precision by precision.",
        (*_MODEL_QUESTION, "precisions"),
    ),
    Endpoint(
        "models-for-gpu", answers.models_for_gpu, "ModelsForGpu",
        "The bundled models that fit a card, the largest first, each at the most faithful precision that fits.",
        ("gpu", "gpu_count", "context", "batch", "kv_dtype"), of_the_hub=False,
    ),
    Endpoint(
        "inspect", answers.inspect, "Inspection",
        "What a model is made of, what its weights take at each precision, and how its cache grows.",
        ("model", "revision"),
    ),
    Endpoint(
        "inventory", answers.inventory, "Inventory",
        "Every layer and tensor of a model with its bytes at one precision, before anything is loaded.",
        ("model", "precision", "revision"),
    ),
    Endpoint(
        "gpus", answers.gpus, "Gpus", "The cards that can be asked about, with their usable memory and its source.",
        of_the_hub=False, max_age=3600,
    ),
)  # fmt: skip

ENDPOINTS: dict[str, Endpoint] = {endpoint.name: endpoint for endpoint in _TABLE}
