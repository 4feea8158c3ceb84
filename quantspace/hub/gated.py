"""Why the Hub keeps the files of a gated model from who asks: each reason by its own name, with the way in.

The Hub says all of them with one code, `GatedRepo`; its words alone tell them apart.
"""

from __future__ import annotations

from typing import NamedTuple

from huggingface_hub import constants

from ..errors import AccessRejected, AwaitingReview, ModelGated, NotSignedIn, TermsNotAccepted, TokenLacksScope

_READ_GATED = "Read access to contents of all public gated repos you can access"  # the box on the Hub's page of tokens


class _Gate(NamedTuple):
    """One of the Hub's reasons to keep a gated model's files, known by its words."""

    words: str
    kind: type[ModelGated]
    message: str
    hint: str


_GATES = (
    _Gate(
        "awaiting a review",
        AwaitingReview,
        "{id} is gated, and your request to use it is awaiting a review by its authors.",
        "Wait for their mail, or see {endpoint}/settings/gated-repos; nothing more is to be done here.",
    ),
    _Gate(
        "rejected",
        AccessRejected,
        "{id} is gated, and its authors have rejected your request to use it.",
        "Pick another model, or write to the authors at {page}.",
    ),
    _Gate(
        "fine-grained token",
        TokenLacksScope,
        "{id} is gated, and this fine-grained token may not read gated models, though its account may.",
        f"Tick “{_READ_GATED}” for the token at {{endpoint}}/settings/tokens, or use a token of the type Read.",
    ),
    _Gate(
        "scope",
        TokenLacksScope,
        "{id} is gated, and this sign-in does not extend to gated models.",
        "Sign out and in again and grant access to gated models, or use a read token from {endpoint}/settings/tokens.",
    ),
)
_NOT_ACCEPTED = _Gate(
    "",
    TermsNotAccepted,
    "{id} is gated, and the account of this token has not yet accepted its terms.",
    "Accept them at {page}, then try again.",
)
_SIGNED_OUT = _Gate(
    "",
    NotSignedIn,
    "{id} is gated: its authors ask for your consent to their terms, and no token came with the question.",
    "Accept them at {page}, then use a read token from {endpoint}/settings/tokens.",
)


def gated(model_id: str, page: str, said: str, signed_in: bool) -> ModelGated:
    """The refusal that the Hub's words stand for.

    Args:
        page: address of the model's page.
        said: the Hub's words.
        signed_in: whether the question came with a token.
    """
    words = said.lower()
    gate = next((gate for gate in _GATES if gate.words in words), _NOT_ACCEPTED) if signed_in else _SIGNED_OUT
    names = {"id": model_id, "page": page, "endpoint": constants.ENDPOINT}
    return gate.kind(gate.message.format(**names), gate.hint.format(**names))
