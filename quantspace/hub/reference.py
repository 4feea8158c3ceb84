"""What people type, understood as a model on the Hub: an id, a revision, or a link to one of its pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import BadModelId, shorten
from .demo import DEMO_ID

MAX_LENGTH = 1000  # of what is typed: a full link with a long file name is below it
_EXAMPLE = "Type an id such as google/gemma-3-4b-it, or paste the link of its page on huggingface.co."
_HUB_HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co"}
_PAGES = {"tree", "blob", "resolve", "raw", "commit", "discussions"}
_WITH_REVISION = {"tree", "blob", "resolve", "raw", "commit"}
_OTHER_KINDS = {"datasets", "spaces", "papers", "collections", "docs", "blog"}
_SAFE_REVISION = re.compile(r"[\w.\-/]{1,200}")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model on the Hub: `org/name` or a legacy `name`, at a branch, tag or commit."""

    id: str
    revision: str = "main"


def parse_reference(text: str, revision: str = "main") -> ModelRef:
    """Understand an id, `id@revision`, or the link of a model's page.

    Args:
        text: as typed, quotes and spaces around it included.
        revision: used where the text names none.

    Raises:
        BadModelId: with what is wrong with it.
    """
    if not isinstance(text, str | None) or not isinstance(revision, str):
        raise BadModelId("Model and revision are texts.", _EXAMPLE)
    given = (text or "").strip().strip("\"'`“”").strip()
    if not given:
        raise BadModelId("No model was named.", _EXAMPLE)
    if len(given) > MAX_LENGTH:
        raise BadModelId(f"That is {len(given):,} characters long ({shorten(given, 40)}): no model id is.", _EXAMPLE)
    if _is_link(given):
        return _from_link(given, revision)
    name, _, pinned = given.partition("@")
    return _checked(name.strip("/") if not name.startswith((".", "/")) else name, pinned or revision, given)


def _is_link(text: str) -> bool:
    return "://" in text or text.split("/", 1)[0].lower() in _HUB_HOSTS | _endpoint_hosts()


def _endpoint_hosts() -> set[str]:
    return {urlsplit(constants.ENDPOINT).netloc.lower()}


def _from_link(text: str, revision: str) -> ModelRef:
    elsewhere = BadModelId(f"{shorten(text)} is not a page of the Hugging Face Hub.", _EXAMPLE)
    try:
        link = urlsplit(text if "://" in text else f"https://{text}")
    except ValueError as error:  # brackets that hold no address
        raise elsewhere from error
    if link.netloc.lower() not in _HUB_HOSTS | _endpoint_hosts():
        raise elsewhere
    parts = [unquote(part) for part in link.path.split("/") if part]
    if parts and parts[0] in _OTHER_KINDS:
        raise BadModelId(f"{shorten(text)} is a page of {parts[0]}, not of a model.", _EXAMPLE)
    if parts[:1] == ["models"]:
        parts = parts[1:]
    page = next((i for i, part in enumerate(parts) if part in _PAGES and i in (1, 2)), len(parts))
    if page not in (1, 2):
        raise BadModelId(f"{shorten(text)} is on the Hub, but not the page of one model.", _EXAMPLE)
    if page + 1 < len(parts) and parts[page] in _WITH_REVISION:
        named = parts[page + 1 :]
        revision = "/".join(named[:3]) if named[0] == "refs" else named[0]  # refs/pr/1
    return _checked("/".join(parts[:page]), revision, text)


def _checked(model_id: str, revision: str, given: str) -> ModelRef:
    try:
        validate_repo_id(model_id)
    except HFValidationError as error:
        raise BadModelId(
            f"“{shorten(given)}” is not a model id: an id is org/name of letters, digits, “-”, “_” and “.”.", _EXAMPLE
        ) from error
    if not _SAFE_REVISION.fullmatch(revision) or ".." in revision:
        raise BadModelId(f"“{shorten(revision)}” is not a revision.", "Use a branch, a tag or a commit hash.")
    if model_id.lower() == DEMO_ID:
        model_id = DEMO_ID
    return ModelRef(model_id, revision)
