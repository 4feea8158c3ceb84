"""What the Hub tells of a model: its commit, its files, its counts. Through huggingface_hub, honouring `HF_ENDPOINT`.

`fetch.py` reads small parts of its files; `download.py` fetches weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from huggingface_hub import HfApi, ModelCardData

from ..settings import settings
from .reference import ModelRef
from .refusals import hub_errors


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
    """
    if token is None and settings().on_space:
        return False
    return token


def repo_facts(ref: ModelRef, token: str | None = None) -> RepoFacts:
    """Ask the Hub for the commit and the files of a model.

    Raises:
        ModelNotFound, ModelGated, HubUnreachable: each with the next step.
    """
    with hub_errors(ref):
        info = HfApi().model_info(
            ref.id, revision=ref.revision, timeout=settings().hub_timeout, files_metadata=True, token=sent_token(token)
        )
    return RepoFacts(
        ref,
        info.sha or ref.revision,
        {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()},
        private=bool(info.private),
        gated=bool(info.gated),
        library=info.library_name,
        task=info.pipeline_tag,
        model_type=(info.config or {}).get("model_type"),
        counts=dict(info.safetensors.parameters) if info.safetensors else {},
        gguf_parameters=(info.gguf or {}).get("total"),
        base_models=_base_models(info.card_data),
    )


def _base_models(card: ModelCardData | None) -> tuple[str, ...]:
    named = card.get("base_model") if card else None
    return tuple(name for name in ([named] if isinstance(named, str) else named or ()) if isinstance(name, str))
