"""The model card of a quantized copy: what it was made from, how, what it holds, what it costs, and how to load it.

Markdown with the Hub's YAML header. Values come from others (ids, licences, names of tensors): the header is written
by a YAML library, and in the text nothing of them is markup.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import yaml
from jinja2 import Environment

from ..hub.demo import DEMO_ID
from ..precision import PRECISIONS, Precision
from ..runtime.quality.figures import Quality
from ..templating import templates_of
from ..units import exact, gb

_METHODS = {
    "int8": "LLM.int8 of bitsandbytes",
    "4bit": "4-bit weights of bitsandbytes",
    "torchao": "weight-only quantization of torchao",
    "cast": "a cast of all weights",
}
_TAGS = {"int8": ("bitsandbytes", "8-bit"), "4bit": ("bitsandbytes", "4-bit"), "torchao": ("torchao",), "cast": ()}
_PACKAGES = {"int8": ("bitsandbytes",), "4bit": ("bitsandbytes",), "torchao": ("torchao",), "cast": ()}
_MARKUP = re.compile(r"[\\`*_{}\[\]<>|#]")


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card states.

    Attributes:
        repo_id: where the copy will be.
        base_sha: the commit that it was made from.
        compute_dtype: of the computation and of what is not quantized; empty for the precision's own.
        double_quant: of 4-bit weights; `None` for the precision's own.
        license: `license`, and `license_name` and `license_link`, as the original's card has them.
        task: as the Hub names it, such as `text-generation`; empty where it isn't known.
        quality: measured against the unquantized model; `None` where it was not.
        versions: package → version that wrote the copy.
    """

    repo_id: str
    base_id: str
    base_sha: str
    precision: str
    architecture: str
    footprint_bytes: int
    held_bytes: int
    file_bytes: int
    compute_dtype: str = ""
    double_quant: bool | None = None
    skip: tuple[str, ...] = ()
    license: dict[str, str] = field(default_factory=dict)
    task: str = ""
    quality: Quality | None = None
    versions: dict[str, str] = field(default_factory=dict)


def model_card(facts: CardFacts) -> str:
    """The README.md of a copy: header, method, figures, and Python that loads it."""
    row = PRECISIONS[facts.precision]
    text = _templates().get_template("model_card.md").render(
        facts=facts,
        name=facts.repo_id.rpartition("/")[2],
        row=row,
        method=_METHODS[row.method],
        settings=_settings(facts, row),
        quality=_quality_rows(facts.quality),
        packages=("transformers", "accelerate", *_PACKAGES[row.method]),
        known=facts.base_id != DEMO_ID,
    )  # fmt: skip
    return f"---\n{yaml.safe_dump(_header(facts, row), sort_keys=False, allow_unicode=True)}---\n\n{text}"


def _header(facts: CardFacts, row: Precision) -> dict[str, Any]:
    known = {"base_model": facts.base_id, "base_model_relation": "quantized"} if facts.base_id != DEMO_ID else {}
    task = {"pipeline_tag": facts.task} if facts.task else {}
    tags = [*_TAGS[row.method], row.id]
    return {**known, **facts.license, "library_name": "transformers", **task, "tags": tags}


def _settings(facts: CardFacts, row: Precision) -> list[tuple[str, str]]:
    listed = [("Weights", row.layout.storage if row.layout else row.dtype)]
    if row.method == "4bit":
        nested = row.double_quant if facts.double_quant is None else facts.double_quant
        listed.append(("Double quantization of the scales", "yes" if nested else "no"))
    listed.append(("Computes in", facts.compute_dtype or row.dtype))
    if facts.skip:
        listed.append(("Left unquantized", ", ".join(facts.skip)))
    if row.experts:
        listed.append(("Fused experts", "quantized too"))
    return [(name, _plain(value)) for name, value in listed]


def _quality_rows(quality: Quality | None) -> list[tuple[str, str]]:
    """Name and figure with its interval; empty where nothing was measured."""
    if quality is None:
        return []
    rows = [("Perplexity", quality.perplexity, "{:.3f}"), ("Perplexity ÷ the original's", quality.ratio, "{:.4f}")]
    rows += [("Mean KL divergence, in nats", quality.divergence, "{:.5f}")]
    rows += [("Same most likely token", quality.agreement, "{:.2%}")]
    return [
        (name, f"{form.format(figure.value)} ({form.format(figure.low)} to {form.format(figure.high)})")
        for name, figure, form in rows
        if figure is not None
    ]


def _plain(text: str) -> str:
    """Text that Markdown takes for nothing else."""
    return _MARKUP.sub(lambda found: "\\" + found[0], " ".join(text.split()))


@lru_cache(maxsize=1)
def _templates() -> Environment:
    """Of Markdown: what is inserted is escaped by `plain`, or stands in code."""
    filters = {"plain": _plain, "exact": exact, "gb": gb, "count": lambda number: f"{number:,}"}
    return templates_of("quantspace.share", filters, markup=False)
