"""What the Hub tells of a model: its commit, its files, its counts; and who is asking. Honours `HF_ENDPOINT`.

`fetch.py` reads small parts of its files; `download.py` fetches weights; `search.py` finds models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers

from ..errors import shorten
from ..settings import settings
from .reference import ModelRef, is_safe_path
from .refusals import checked_token, garbled, not_signed_in
from .transport import ask, ask_json

_COMMIT = re.compile(r"\w{1,64}")  # forty hexadecimal digits on the Hub itself
_MOST_BASES = 16
_LONGEST_ID = 96  # characters, as the Hub has it
_MOST_COUNTED = 2**63  # parameters, or bytes; a count above it is none


@dataclass(frozen=True, slots=True)
class RepoFacts:
    """A repository at one commit.

    Attributes:
        sha: the commit that the revision stands for now.
        files: path → size in bytes.
        private: whether it exists for those alone who were let in; `gated` whether its files do.
        library: that made it, as the Hub has it: `transformers`, `diffusers`, `gguf`, `peft`, …
        task: such as `text-generation` (the Hub's pipeline tag).
        model_type: of its config.json, as the Hub read it.
        counts: dtype as safetensors spells it → parameters, as the Hub counted them; empty where it didn't.
        gguf_parameters: as the Hub read them from a GGUF file's header.
        base_models: that it was made from, by its own account.
    """

    ref: ModelRef
    sha: str
    files: dict[str, int]
    private: bool = False
    gated: bool = False
    library: str | None = None
    task: str | None = None
    model_type: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    gguf_parameters: int | None = None
    base_models: tuple[str, ...] = ()


def sent_token(token: str | None) -> str | bool | None:
    """What huggingface_hub is given: the visitor's token, else the machine's own login, but none on a Space.

    A Space's own token is its owner's: it must not open the owner's private models to whoever visits.

    Raises:
        TokenMalformed: it holds what no token does; nothing was sent.
    """
    if not token:
        return False if settings().on_space else None
    return checked_token(token)


def repo_facts(ref: ModelRef, token: str | None = None) -> RepoFacts:
    """Ask the Hub for the commit and the files of a model.

    Raises:
        ModelUnavailable: of the class that says what is in the way, each with the next step.
    """
    path = f"/api/models/{ref.id}/revision/{quote(ref.revision, safe='')}?blobs=true"
    told = ask_json(ref, path, token=sent_token(token))
    facts = _read_facts(ref, told) if isinstance(told, dict) else None
    if facts is None:
        raise garbled(ref)
    return facts


def check_access(facts: RepoFacts, token: str | None = None) -> None:
    """Prove that this token may read the files of a model; a public one needs none.

    Raises:
        ModelUnavailable: of the class that says what is in the way.
    """
    url = f"{constants.ENDPOINT}/api/models/{facts.ref.id}/auth-check"
    ask(facts.ref, url, token=sent_token(token), limit=1024, seconds=settings().hub_timeout)


def whoami(token: str | None) -> str:
    """The name of the account behind a token.

    Raises:
        NotSignedIn: there is no token.
        TokenRefused: the Hub does not know it.
        ModelUnavailable: the Hub does not answer as hoped.
    """
    sent = sent_token(token)
    if "authorization" not in build_hf_headers(token=sent):
        raise not_signed_in(None)
    told = ask_json(None, "/api/whoami-v2", token=sent)
    name = told.get("name") if isinstance(told, dict) else None
    if not isinstance(name, str) or not name:
        raise garbled(None)
    return shorten(name)


def _read_facts(ref: ModelRef, told: dict[str, Any]) -> RepoFacts | None:
    """The facts, each of the type it should have; `None` where the answer is none of the Hub's.

    Of the answer's fields (`ModelInfo`, huggingface_hub/hf_api.py) those alone are read that are used, so that no
    other one can stand in the way.
    """
    sha, siblings = told.get("sha"), told.get("siblings", [])
    if not isinstance(sha, str) or not _COMMIT.fullmatch(sha) or not isinstance(siblings, list):
        return None
    files = {entry.get("rfilename"): entry.get("size") for entry in siblings if isinstance(entry, dict)}
    counts = _part(_part(told, "safetensors"), "parameters")
    return RepoFacts(
        ref,
        sha,
        {path: _count(size) or 0 for path, size in files.items() if isinstance(path, str) and is_safe_path(path)},
        private=bool(told.get("private")),
        gated=bool(told.get("gated")),
        library=_word(told.get("library_name")),
        task=_word(told.get("pipeline_tag")),
        model_type=_word(_part(told, "config").get("model_type")),
        counts={dtype: n for dtype, n in counts.items() if _count(n)},
        gguf_parameters=_count(_part(told, "gguf").get("total")),
        base_models=_base_models(_part(told, "cardData").get("base_model")),
    )


def _part(told: dict[str, Any], name: str) -> dict[str, Any]:
    part = told.get(name)
    return part if isinstance(part, dict) else {}


def _word(value: Any) -> str | None:
    return shorten(value) if isinstance(value, str) else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < _MOST_COUNTED else None


def _base_models(named: Any) -> tuple[str, ...]:
    listed = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    return tuple(name for name in listed if isinstance(name, str) and len(name) <= _LONGEST_ID)[:_MOST_BASES]
