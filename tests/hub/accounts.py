"""Who asks, and whether the Hub lets them.

A gated repository shows its model information, its tree and its sizes to everybody and keeps its files for those
who were let in; a private one does not exist for others.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from . import errors
from .repos import Repo


@dataclass
class Account:
    """A user behind one token."""

    name: str
    orgs: tuple[str, ...] = ()
    accepted: set[str] = field(default_factory=set)  # gated repositories that let this user in
    pending: set[str] = field(default_factory=set)  # asked for, awaiting the authors' review
    rejected: set[str] = field(default_factory=set)
    role: Literal["read", "write", "fineGrained"] = "read"
    reads_gated: bool = True  # of a fine-grained token: the permission for public gated repositories
    writes: bool = False  # of a fine-grained token: the permission to create repositories and write to them

    @property
    def may_write(self) -> bool:
        return self.role == "write" or (self.role == "fineGrained" and self.writes)

    def owns(self, repo: Repo) -> bool:
        return repo.namespace is not None and repo.namespace in (self.name, *self.orgs)

    def whoami(self) -> dict[str, Any]:
        """`GET /api/whoami-v2`."""
        token: dict[str, Any] = {"displayName": "test", "role": self.role, "createdAt": "2024-01-01T00:00:00.000Z"}
        if self.role == "fineGrained":
            token["fineGrained"] = {"canReadGatedRepos": self.reads_gated, "global": [], "scoped": []}
        return {
            "type": "user",
            "id": self.name.encode().hex().ljust(24, "0")[:24],
            "name": self.name,
            "fullname": self.name.title(),
            "isPro": False,
            "avatarUrl": f"/avatars/{self.name}.svg",
            "orgs": [
                {"type": "org", "id": org, "name": org, "fullname": org, "roleInOrg": "read"} for org in self.orgs
            ],
            "auth": {"type": "access_token", "accessToken": token},
        }


def sees(account: Account | None, repo: Repo) -> bool:
    return not repo.private or (account is not None and account.owns(repo))


def check_visible(account: Account | None, repo: Repo | None) -> Repo:
    """The repository, if it exists for this user. Raises HubError."""
    if repo is None or not sees(account, repo):
        raise errors.repo_not_found(signed_in=account is not None)
    return repo


def check_files_open(account: Account | None, repo: Repo) -> None:
    """Raises HubError where a gated repository keeps its files from this user."""
    if not repo.gated or (account is not None and account.owns(repo)):
        return
    if account is None:
        raise errors.gated_signed_out(repo.id)
    if repo.id in account.rejected:
        raise errors.gated_rejected(repo.id)
    if repo.id in account.pending:
        raise errors.gated_pending(repo.id)
    if repo.id not in account.accepted:
        raise errors.gated_not_accepted(repo.id)
    if account.role == "fineGrained" and not account.reads_gated:
        raise errors.gated_token_scope()
