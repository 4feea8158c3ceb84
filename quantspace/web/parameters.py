"""What may be asked of an endpoint: every parameter once, with its type, its meaning and its default.

Queries of an address, JSON bodies, OpenAPI and the tools of agents all read this table. Whether a value
makes sense is for the answers to say; here only what is no text where one is wanted is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import BadInput, shorten
from ..estimation.calculator import DEFAULT_RAM_GB, KV_DTYPES
from ..settings import settings

_limits = settings()


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        schema: of its value, as JSON Schema; with a default where it has one.
        about: what it is and how it is written.
        example: a value to show.
        also: other names under which it is understood, such as those of a page's link.
        listed: whether a JSON list of texts is understood too.
    """

    name: str
    schema: Mapping[str, Any]
    about: str
    example: Any
    required: bool = False
    also: tuple[str, ...] = ()
    listed: bool = False

    @property
    def is_text(self) -> bool:
        return self.schema["type"] == "string"


def _text(default: str | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "string", **({} if default is None else {"default": default}), **more}


def _whole(default: int, most: int, least: int = 1) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most, "default": default}


_TABLE = (
    Parameter(
        "model", _text(), "Id on the Hugging Face Hub, `owner/name`, or the link of its page.", "google/gemma-3-4b-it",
        required=True,
    ),
    Parameter(
        "gpu", _text(_limits.default_gpu),
        "Card: an id of the catalogue (`t4`, `l4`, `a100-80gb`, `rtx-4090`), a name as people write it "
        "(`NVIDIA A100`, `4090`), or hardware of Spaces (`a10g-large`, `zerogpu`).", "t4",
    ),
    Parameter("gpu_count", _whole(1, _limits.max_gpu_count), "Like cards in one machine.", 1, also=("count",)),
    Parameter(
        "context", _whole(_limits.default_context, _limits.max_context),
        "Tokens in each sequence: the prompt and the answer. `32k` is understood too.", 8192,
    ),
    Parameter("batch", _whole(1, _limits.max_batch), "Sequences at once.", 1),
    Parameter(
        "kv_dtype", _text("auto", enum=list(KV_DTYPES)), "Dtype of the KV cache; `auto` is the model's.", "auto",
        also=("kv",),
    ),
    Parameter("revision", _text("main"), "Branch, tag or commit of the model.", "main"),
    Parameter(
        "ram_gb", {"type": "number", "minimum": 0, "default": DEFAULT_RAM_GB},
        "System memory in GB, in which layers may be left where the cards are too small; 0 for none.", 32,
        also=("ram",),
    ),
    Parameter("images", _whole(0, _limits.max_images, least=0), "Images in the prompt of each sequence.", 0),
    Parameter(
        "precision", _text("nf4-dq"), "Id of a row of the estimate, such as `bf16`, `int8`, `nf4`, `nf4-dq`, `native`.",
        "nf4-dq",
    ),
    Parameter(
        "precisions", _text(""),
        "Ids of precisions with commas between, such as `bf16,int8,nf4-dq,q4_k_m`; empty for the usual ones. In JSON "
        "a list of them is understood too.",
        "bf16,nf4-dq", listed=True,
    ),
    Parameter("theme", _text("light", enum=["light", "dark"]), "Colours of a card; a badge is right on both.", "dark"),
)  # fmt: skip

PARAMETERS: dict[str, Parameter] = {parameter.name: parameter for parameter in _TABLE}


def defaults(names: Iterable[str]) -> dict[str, Any]:
    """What is meant where a parameter of `names` is not given, for those that may be left out."""
    schemas = {name: PARAMETERS[name].schema for name in names}
    return {name: schema["default"] for name, schema in schemas.items() if "default" in schema}


def read(names: Iterable[str], given: Iterable[tuple[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """The values of the parameters `names`, and a warning for everything else that was given.

    Args:
        given: pairs of name and value; of a name that comes twice the last counts, and that is told.

    Raises:
        BadInput: a text was wanted, and something else came; or a parameter that must be given was not.
    """
    known = {name: PARAMETERS[name] for name in names}
    spelled = {also: parameter for parameter in known.values() for also in (parameter.name, *parameter.also)}
    values: dict[str, Any] = {}
    warnings: list[str] = []
    for name, value in given:
        parameter = spelled.get(name)
        if parameter is None:
            warnings.append(f"“{shorten(name, 40)}” is not a parameter here; it was ignored.")
            continue
        if value is None:
            continue
        if parameter.listed and isinstance(value, list) and all(isinstance(part, str) for part in value):
            value = ",".join(value)
        if parameter.is_text and not isinstance(value, str):
            raise BadInput(f"{parameter.name} is not a text.", f"{parameter.about} For example {parameter.example}.")
        if parameter.name in values:
            warnings.append(f"{parameter.name} was given more than once; the last one counts.")
        values[parameter.name] = value
    for parameter in known.values():
        if parameter.required:
            values.setdefault(parameter.name, "")
    return values, list(dict.fromkeys(warnings))
