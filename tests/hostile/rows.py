"""One hostile or broken input: how it reaches the app, and what is right to come of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.hub import HubFile, LocalHub

from .samples import LLAMA

ESTIMATE = "estimate"  # an answer with rows

Content = bytes | str | HubFile


@dataclass(frozen=True)
class Hostile:
    """One row of the table.

    Attributes:
        name: of the row; its repository is `hostile/<name>`.
        outcome: what is right: `ESTIMATE`, a class of error, or several of these.
        files: of the repository; made when they are needed.
        info: what the Hub says of the repository beside its files.
        faults: how the Hub fails for it: arguments of `LocalHub.fail`, or functions that make one.
        typed: values of fields of /estimate in place of the repository's id.
        says: words of the message.
    """

    name: str
    outcome: Any
    files: Callable[[], Mapping[str, Content]] = dict
    info: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Mapping[str, Any], ...] = ()
    typed: Mapping[str, Any] = field(default_factory=dict)
    says: str = ""

    def put(self, hub: LocalHub) -> str:
        """Serve it; gives the id to ask for."""
        hub.faults.clear()
        model_id = f"hostile/{self.name}"
        hub.add_repo(model_id, self.files(), **self.info)
        for fault in self.faults:
            hub.fail(model_id, **{name: value() if callable(value) else value for name, value in fault.items()})
        return model_id


def with_config(**changes: Any) -> Callable[[], Mapping[str, Content]]:
    return lambda: {"config.json": json.dumps({**LLAMA, **changes})}


def raw_config(text: Content) -> Callable[[], Mapping[str, Content]]:
    return lambda: {"config.json": text}


def sound() -> Mapping[str, Content]:
    return {"config.json": json.dumps(LLAMA)}
