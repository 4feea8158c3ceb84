"""What the Hub refuses, as a person would want to be told it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import HubUnreachable, ModelGated, ModelNotFound, ModelUnavailable, QuantSpaceError, shorten
from .reference import ModelRef


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
