"""The Hub's refusals: status, `X-Error-Code`, message.

The client turns the code into its exception in `hf_raise_for_status` (huggingface_hub/utils/_http.py). Messages are
the Hub's own, as they stand in reports of users: with no token a missing repository is 401 "Invalid username or
password.", and a wrong token is 401 "Invalid credentials in Authorization header", of a public repository too.

The code `RepoNotFound` goes with that 401 here: without it the client recognises the case by an `https://` URL
alone, and this Hub speaks plain HTTP.
"""

from dataclasses import dataclass


@dataclass(eq=False)
class HubError(Exception):
    status: int
    message: str
    code: str | None = None  # X-Error-Code
    commit: str | None = None  # X-Repo-Commit, of an entry that is missing from a commit that is known


def repo_not_found(*, signed_in: bool) -> HubError:
    if signed_in:
        return HubError(404, "Repository not found", "RepoNotFound")
    return HubError(401, "Invalid username or password.", "RepoNotFound")


def bad_token() -> HubError:
    return HubError(401, "Invalid credentials in Authorization header")


def no_token() -> HubError:
    return HubError(401, "Invalid username or password.")


def revision_not_found(revision: str) -> HubError:
    return HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(commit: str) -> HubError:
    return HubError(404, "Entry not found", "EntryNotFound", commit)


def folder_not_found(path: str, revision: str, commit: str) -> HubError:
    return HubError(404, f'{path} does not exist on "{revision}"', "EntryNotFound", commit)


def gated_signed_out(repo: str) -> HubError:
    return HubError(
        401,
        f"Access to model {repo} is restricted. You must have access to it and be authenticated to access it."
        " Please log in.",
        "GatedRepo",
    )


def gated_not_accepted(repo: str) -> HubError:
    return HubError(
        403,
        f"Access to model {repo} is restricted and you are not in the authorized list."
        f" Visit https://huggingface.co/{repo} to ask for access.",
        "GatedRepo",
    )


def gated_pending(repo: str) -> HubError:
    return HubError(
        403, f"Your request to access model {repo} is awaiting a review from the repo authors.", "GatedRepo"
    )


def gated_rejected(repo: str) -> HubError:
    return HubError(403, f"Your request to access model {repo} has been rejected by the repo's authors.", "GatedRepo")


def gated_token_scope() -> HubError:
    return HubError(
        403,
        "Please enable access to public gated repositories in your fine-grained token settings to view this"
        " repository.",
        "GatedRepo",
    )


def not_a_number(parameter: str) -> HubError:
    return HubError(400, f'Invalid value for parameter "{parameter}": expected a number')


def unknown_page() -> HubError:
    return HubError(404, "Sorry, we can't find the page you are looking for.")


def may_not_create(owner: str) -> HubError:
    return HubError(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')


def may_not_write() -> HubError:
    return HubError(403, "Authorization error.")


def repo_exists(repo: str) -> HubError:
    return HubError(409, f"You already created this model repo: {repo}")
