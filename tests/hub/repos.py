"""Repositories: commits that never change, and the branches and tags that name them."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from .files import HubFile, is_lfs

Gated = Literal[False, "auto", "manual"]
FIRST_COMMIT = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, eq=False)
class Commit:
    sha: str
    files: Mapping[str, HubFile]  # path -> contents, the whole tree
    title: str
    date: datetime

    def folders(self) -> list[str]:
        """Every folder that holds a file, deepest last."""
        parts = [path.split("/")[:-1] for path in self.files]
        return sorted({"/".join(p[: i + 1]) for p in parts for i in range(len(p))})

    def entity_tag(self, path: str) -> str:
        """What the Hub's ETag says: the Git blob, or the SHA-256 of a file in LFS."""
        file = self.files[path]
        return file.sha256 if is_lfs(path, file) else file.git_oid


@dataclass
class Repo:
    id: str
    gated: Gated = False
    private: bool = False
    info: dict[str, Any] = field(default_factory=dict)  # said of the model as given: tags, downloads, gguf...
    commits: list[Commit] = field(default_factory=list)  # oldest first
    branches: dict[str, str] = field(default_factory=dict)  # name -> sha
    tags: dict[str, str] = field(default_factory=dict)  # name -> sha

    @property
    def namespace(self) -> str | None:
        return self.id.split("/")[0] if "/" in self.id else None

    @property
    def head(self) -> Commit:
        return self.at("main")

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag, a full or an abbreviated sha names; KeyError where there is none."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        for commit in self.commits:
            if commit.sha == sha or (re.fullmatch("[0-9a-f]{7,39}", sha) and commit.sha.startswith(sha)):
                return commit
        raise KeyError(revision)

    def history(self, revision: str) -> list[Commit]:
        """Commits up to `revision`, newest first. Branches share one line of commits here."""
        return self.commits[: self.commits.index(self.at(revision)) + 1][::-1]

    def commit(
        self, files: Mapping[str, HubFile], *, branch: str = "main", title: str = "", sha: str | None = None
    ) -> str:
        """Make `files` the whole tree at the tip of `branch`. Without `sha`, one that follows from the contents."""
        number = len(self.commits)
        if sha is None:
            tree = [(path, file.fingerprint) for path, file in sorted(files.items())]
            sha = hashlib.sha1(repr((self.id, number, tree)).encode()).hexdigest()
        title = title or ("initial commit" if number == 0 else f"Update {number}")
        self.commits.append(Commit(sha, dict(files), title, FIRST_COMMIT + timedelta(hours=number)))
        self.branches[branch] = sha
        return sha
