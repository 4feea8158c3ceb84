"""What the Hub tells of a model: its commit, its files, its config. Through huggingface_hub, honouring `HF_ENDPOINT`.

Fetches metadata and small files only; `download.py` fetches weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from ..errors import (
    HubUnreachable,
    ModelGated,
    ModelNotFound,
    ModelUnavailable,
    ModelUnsupported,
    QuantSpaceError,
    shorten,
)
from ..settings import settings
from ..units import gb
from .reference import ModelRef

QUANTIZATION_FILE = "hf_quant_config.json"  # of checkpoints made with NVIDIA's modelopt


@dataclass(frozen=True, slots=True)
class RepoFacts:
    """A repository at one commit.

    Attributes:
        sha: the commit that the revision stands for now.
        files: path → size in bytes.
    """

    ref: ModelRef
    sha: str
    files: dict[str, int]


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
    files = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
    return RepoFacts(ref, info.sha or ref.revision, files)


def fetch_config(facts: RepoFacts, token: str | None = None) -> dict[str, Any]:
    """The parsed `config.json` of a repository at its commit.

    Where another file beside it tells how the weights are quantized (NVIDIA's modelopt), that stands in it
    under `hf_quant_config`.

    Raises:
        ModelUnsupported: there is none, or it is not a JSON object, or too large to be one.
        ModelGated, HubUnreachable: it could not be fetched.
    """
    if "config.json" not in facts.files:
        raise ModelUnsupported(
            f"{facts.ref.id} has no config.json, so its architecture is not known.",
            "Pick a repository in the transformers format; GGUF, diffusers and adapters are not covered yet.",
        )
    config = _fetch_json(facts, "config.json", token)
    if "quantization_config" not in config and QUANTIZATION_FILE in facts.files:
        config["hf_quant_config"] = _fetch_json(facts, QUANTIZATION_FILE, token)
    return config


def _fetch_json(facts: RepoFacts, path: str, token: str | None) -> dict[str, Any]:
    size = facts.files[path]
    if size > settings().max_config_bytes:
        raise ModelUnsupported(
            f"The {path} of {facts.ref.id} has {gb(size)}; at most {gb(settings().max_config_bytes)} are read.",
            "Check the repository: a config is a few kB.",
        )
    with hub_errors(facts.ref):  # not hf_hub_download, which retries for 23 s while somebody waits
        url = hf_hub_url(facts.ref.id, path, revision=facts.sha)
        answer = get_session().get(
            url, headers=build_hf_headers(token=sent_token(token)), timeout=settings().hub_timeout
        )
        hf_raise_for_status(answer)
    return _parsed(answer.content, facts.ref, path)


def _parsed(text: bytes, ref: ModelRef, path: str) -> dict[str, Any]:
    broken = ModelUnsupported(
        f"The {path} of {ref.id} is not a JSON object.", "The repository may be broken; try another revision."
    )
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise broken from error
    if not isinstance(config, dict):
        raise broken
    return config


@contextmanager
def hub_errors(ref: ModelRef) -> Iterator[None]:
    """Turn what huggingface_hub raises into errors with a next step."""
    try:
        yield
    except QuantSpaceError:
        raise
    except GatedRepoError as error:
        raise ModelGated(
            f"{ref.id} is gated: its authors ask for your consent to their terms first.",
            f"Accept them at {constants.ENDPOINT}/{ref.id}, log in (`hf auth login`) or set HF_TOKEN, and try again.",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(
            f"{ref.id} has no revision “{shorten(ref.revision)}”.",
            "Use main, or a branch, tag or commit of that model.",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"There is no public model {ref.id} on {constants.ENDPOINT}.",
            "Check the spelling, with the organisation before the slash; a private model needs a token (HF_TOKEN).",
        ) from error
    except LocalEntryNotFoundError as error:
        raise _unreachable(ref, error) from error
    except EntryNotFoundError as error:
        raise ModelNotFound(
            f"A file of {ref.id} that the Hub listed is not there.", "Try again; the repository may have just changed."
        ) from error
    except HfHubHTTPError as error:
        raise _refused(ref, error) from error
    except (HTTPError, OSError, TimeoutError) as error:
        raise _unreachable(ref, error) from error
    except (ValueError, TypeError) as error:  # an answer that is not the JSON the client expects: a proxy's page
        raise HubUnreachable(
            f"What answers at {constants.ENDPOINT} for {ref.id} does not speak as the Hub does.",
            "Check the network: a proxy or a sign-in page may stand between; then try again.",
        ) from error


def _refused(ref: ModelRef, error: HfHubHTTPError) -> ModelUnavailable:
    status = error.response.status_code if error.response is not None else "no status"
    if status in (401, 403):
        return ModelUnavailable(
            f"The Hub refuses the token that came with the request for {ref.id} ({status}).",
            "Log in again, or unset HF_TOKEN: a public model needs none.",
        )
    if status == 429:
        return HubUnreachable("The Hub limits requests from here (429).", "Wait a minute and try again, or log in.")
    return HubUnreachable(
        f"The Hub answered the request for {ref.id} with {status}.",
        "Try again in a minute; status.huggingface.co tells whether it is down.",
    )


def _unreachable(ref: ModelRef, error: BaseException) -> HubUnreachable:
    return HubUnreachable(
        f"{constants.ENDPOINT} can't be reached for {ref.id} ({type(error).__name__}).",
        "Check the network and try again. Without it, bundled models can be estimated and the demo model loaded.",
    )
