"""`LocalHub`: what a test says of the Hub it wants, and what it asks afterwards."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from . import routes
from .accounts import Account
from .faults import Fault, FaultRule, FaultRules
from .files import HubFile, as_file
from .messages import Kind, Request, Response, parse_target
from .repos import Gated, Repo
from .request_log import LoggedRequest, RequestLog
from .routes import Catalogue
from .server import OriginServer

Content = bytes | str | Path | HubFile


class LocalHub:
    """A Hub with the repositories and accounts that the test gives it. All of it may change while it runs.

    Attributes:
        requests: every request since the start (or since `requests.clear()`).
        accounts: token -> Account.
        faults: the rules in force; `fail` adds one, `faults.clear()` ends them all.
        gzip_text: send text compressed and without length to clients that accept it, whatever range they ask
            for, as the Hub's cache does with larger JSON files.
    """

    def __init__(self, *, gzip_text: bool = False) -> None:
        self._catalogue = Catalogue(gzip_text=gzip_text)
        self.requests = RequestLog()
        self.faults = FaultRules()
        self.urls: dict[str, str] = {}  # "hub" and "cdn", while it runs

    @property
    def accounts(self) -> dict[str, Account]:
        return self._catalogue.accounts

    @property
    def repos(self) -> dict[str, Repo]:
        return self._catalogue.repos

    @property
    def url(self) -> str:
        return self.urls["hub"]

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, Content] | None = None,
        *,
        folder: Path | None = None,
        gated: Gated = False,
        private: bool = False,
        sha: str | None = None,
        formerly: tuple[str, ...] = (),
        **info: Any,
    ) -> Repo:
        """A repository with one commit on `main`.

        Args:
            repo_id: `org/name`, or `name` alone.
            files: path -> contents (bytes, text, a Path, or a file such as SparseFile).
            folder: a folder whose files are added.
            gated: closed to those not let in, with approval by itself ("auto") or by the authors ("manual").
            private: exists for its owner alone.
            sha: of the commit; without it, one that follows from the contents.
            formerly: ids that redirect here.
            info: said of the model as given (`tags`, `pipeline_tag`, `library_name`, `downloads`, `cardData`,
                `gguf`...). `safetensors={"parameters": {"BF16": 10}, "total": 10}` instead of the count taken from
                the headers, and `safetensors=None` for none.
        """
        contents = {path: as_file(content) for path, content in (files or {}).items()}
        if folder is not None:
            contents |= {p.relative_to(folder).as_posix(): as_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}
        repo = Repo(repo_id, gated=gated, private=private, info=dict(info))
        repo.commit(contents, sha=sha)
        self.repos[repo_id] = repo
        self._catalogue.renamed |= dict.fromkeys(formerly, repo_id)
        return repo

    def commit(
        self,
        repo_id: str,
        files: Mapping[str, Content] | None = None,
        *,
        delete: tuple[str, ...] = (),
        branch: str = "main",
        sha: str | None = None,
    ) -> str:
        """A new commit with these files changed or added; its sha. Earlier ones stay.

        A `branch` that does not exist yet starts from `main`.
        """
        repo = self.repos[repo_id]
        base = repo.at(branch if branch in repo.branches else "main")
        contents = {path: file for path, file in base.files.items() if path not in delete}
        contents |= {path: as_file(content) for path, content in (files or {}).items()}
        return repo.commit(contents, branch=branch, sha=sha)

    def tag(self, repo_id: str, name: str, revision: str = "main") -> None:
        repo = self.repos[repo_id]
        repo.tags[name] = repo.at(revision).sha

    def add_account(self, token: str, name: str, **fields: Any) -> Account:
        """The user behind `token`; `fields` are those of `Account`."""
        self.accounts[token] = Account(name, **fields)
        return self.accounts[token]

    def fail(
        self,
        repo: str | None = None,
        *,
        file: str | None = None,
        on: Kind | None = None,
        method: str | None = None,
        times: int | None = None,
        **fault: Any,
    ) -> FaultRule:
        """From now on, requests like these meet this fault: see `FaultRule` and `Fault` for the fields.

        Example:
            hub.fail("org/name", file="*.safetensors", on="cdn", status=503, times=2)
        """
        rule = FaultRule(Fault(**fault), repo, file, on, method, times)
        self.faults.append(rule)
        return rule

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve; gives the endpoint. Raises RuntimeError at the end if the Hub itself made a mistake."""
        mistakes: list[str] = []
        with ExitStack() as stack:
            for origin in ("hub", "cdn"):
                server = OriginServer(origin, self._answer, mistakes)
                self.urls[origin] = stack.enter_context(server.running())
            yield self.urls["hub"]
        if mistakes:
            raise RuntimeError("The local Hub failed:\n" + "\n".join(mistakes))

    def _answer(self, request: Request) -> tuple[LoggedRequest, Response, Fault | None]:
        target = parse_target(request.origin, request.path)
        logged = LoggedRequest.of(request, target)
        self.requests.append(logged)
        response = routes.answer(self._catalogue, request, target, self.urls)
        return logged, response, self.faults.take(target, request.method, response.status)
