"""The code behind each experiment, as it runs here: read from `recipes.py`, and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from . import recipes


@dataclass(frozen=True)
class Snippet:
    """Code to copy; `packages` are those that it needs from PyPI."""

    title: str
    packages: tuple[str, ...]
    code: str


def _sources(*functions: Callable[..., object]) -> str:
    """Their text, without the type hints' import that only this project has."""
    head = "from __future__ import annotations\n\n\n"
    return head + "\n\n\n".join(inspect.getsource(function).rstrip() for function in functions)


def dynamic_snippets() -> list[Snippet]:
    """Of dynamic int8."""
    return [Snippet("Dynamic int8", ("torch",), _sources(recipes.quantize_dynamic_int8))]


def pruning_snippets() -> list[Snippet]:
    """Of pruning, scattered and in rows, and of rebuilding."""
    return [
        Snippet("Unstructured: zeros", ("torch",), _sources(recipes.prune_unstructured)),
        Snippet("Structured: rows out", ("torch",), _sources(recipes.prune_rows, recipes.without_rows)),
        Snippet(
            "A chat model's neurons out",
            ("torch", "transformers"),
            _sources(recipes.prune_rows, recipes.shrink_feed_forward),
        ),
    ]


def low_bits_snippets() -> list[Snippet]:
    """Of rounding after training, and of training to be rounded."""
    shared = (recipes.few_bits, recipes.is_layer)
    needed = ("torch", "torchao")
    return [
        Snippet("After training (PTQ)", needed, _sources(*shared, recipes.quantize_after_training)),
        Snippet(
            "Trained for it (QAT): prepare, train as ever, finish",
            needed,
            _sources(*shared, recipes.prepare_for_training, recipes.finish_training),
        ),
    ]
