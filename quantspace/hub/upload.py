"""Send a folder to a new repository of somebody's own, with progress, and without a trace of the token.

The repository is created for this upload alone: nothing that is there is ever written over, and what breaks off
leaves no empty repository behind. `refusals.py` says what the Hub refuses to tell; this is what it refuses to take.
"""

from __future__ import annotations

import io
import queue
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import (
    BadInput,
    KeepFailed,
    NameTaken,
    NotSignedIn,
    QuantSpaceError,
    RateLimited,
    TokenLacksScope,
    TokenMalformed,
    TokenRefused,
    shorten,
)
from .client import sent_token
from .refusals import NETWORK_ERRORS, refusal
from .transport import ask_json

CARD = "README.md"
REPORT_EVERY = 0.2  # seconds
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 96  # characters of a repository's name, as the Hub has it
_LICENSE = ("license", "license_name", "license_link")
_READ_ONLY = "read"  # of `auth.accessToken.role` in the answer to who-am-I


@dataclass(frozen=True, slots=True)
class Account:
    """Who a token belongs to.

    Attributes:
        writes: whether the token may write, as far as the Hub tells: of a fine-grained one it does not.
    """

    name: str
    writes: bool


@dataclass(frozen=True, slots=True)
class Uploaded:
    """Progress in bytes: first all files are read for their checksums, then sent."""

    step: str  # `read` or `sent`
    done: int
    total: int


class _Cancelled(Exception):
    """Raised inside the client's threads once nobody waits for the upload."""


def suggested_name(user: str, model_id: str, precision: str) -> str:
    """`ada/gemma-3-4b-it-nf4-dq`: a repository's name that says what is in it; without a user the name alone."""
    name = _UNSAFE.sub("-", f"{model_id.rpartition('/')[2]}-{precision}").strip("-.")[:_LONGEST_NAME].strip("-.")
    return f"{user}/{name}" if user else name


def account_of(token: str | None) -> Account:
    """Who a token belongs to, and whether it may write.

    Raises:
        NotSignedIn: there is none.
        TokenRefused, HubUnreachable: with the next step.
    """
    sent = sent_token(token)
    if sent is False or (sent is None and get_token() is None):  # said without asking: there may be no network
        raise _not_signed_in()
    try:
        told = ask_json(None, "/api/whoami-v2", token=sent)
    except NotSignedIn:
        raise _not_signed_in() from None
    except (TokenMalformed, TokenRefused) as error:
        raise type(error)(error.message, f"Use a new write token from {_tokens_page()}.") from None
    name = told.get("name") if isinstance(told, dict) else None
    if not isinstance(name, str) or not name:
        raise KeepFailed("The Hub does not say whose token this is.", "Try again in a minute.")
    return Account(shorten(name), _role(told) != _READ_ONLY)


def license_of(model_id: str, sha: str, token: str | None) -> dict[str, str]:
    """`license`, and `license_name` and `license_link` where the licence has a name of its own; empty if unknown."""
    try:
        told = ask_json(None, f"/api/models/{model_id}/revision/{sha}?expand[]=cardData", token=sent_token(token))
    except QuantSpaceError:  # a card without it is better than none: it says that the original's holds
        return {}
    card = told.get("cardData") if isinstance(told, dict) else None
    said = {name: card.get(name) for name in _LICENSE} if isinstance(card, dict) else {}
    return {name: shorten(value, 300) for name, value in said.items() if isinstance(value, str)}


def checked_name(repo_id: str, user: str) -> str:
    """The repository that is meant; a name alone is in the user's own account.

    Raises:
        BadInput: no repository is named so.
    """
    name = repo_id.strip()
    whole = name if "/" in name else f"{user}/{name}"
    try:
        validate_repo_id(whole)
    except HFValidationError:
        whole = ""
    if whole.count("/") != 1 or whole.endswith("/"):
        raise BadInput(
            f"“{shorten(repo_id, 100)}” is no name of a repository.",
            "Name it such as your-name/gemma-3-4b-it-nf4: letters, digits, dots, dashes and underscores.",
        )
    return whole


def upload(
    files: dict[str, Path], card: str, repo_id: str, token: str | None, private: bool = True
) -> Iterator[Uploaded | str]:
    """Create a repository and commit files to it: yields progress, and the address of its page last.

    Closing the iterator stops it, and the repository, which is then empty, goes.

    Args:
        files: path in the repository → file on this disk.
        card: the text of its README.md.
        repo_id: `user/name` or `organisation/name`, which must not be there yet.

    Raises:
        NameTaken: it is there already; nothing was changed.
        TokenLacksScope: this token may not write there.
        QuantSpaceError: with what else is in the way.
    """
    results: queue.Queue[str | BaseException] = queue.Queue()
    meter = _Meter(sum(path.stat().st_size for path in files.values()))
    sender = _Sender(repo_id, HfApi(token=sent_token(token)), private, meter)
    thread = threading.Thread(target=sender.send, args=(files, card, results), daemon=True, name="upload")
    thread.start()
    outcome: str | BaseException | None = None
    try:
        while outcome is None:
            yield meter.seen()
            try:
                outcome = results.get(timeout=REPORT_EVERY)
            except queue.Empty:
                continue
    finally:
        meter.cancelled.set()
    if isinstance(outcome, BaseException):
        raise _told(outcome, repo_id)  # outside of any handler: what the library raised holds the request
    yield Uploaded("sent", meter.total, meter.total)
    yield outcome


class _Meter:
    """Bytes read so far, by all threads of one upload."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.step = "read"
        self.cancelled = threading.Event()
        self._at: dict[str, int] = {}  # file → how far it has been read in this step

    def begin(self, step: str) -> None:
        self.step = step
        self._at.clear()

    def reached(self, name: str, position: int) -> None:
        if self.cancelled.is_set():
            raise _Cancelled
        self._at[name] = max(position, self._at.get(name, 0))  # a piece that is sent again counts once

    def seen(self) -> Uploaded:
        return Uploaded(self.step, min(sum(self._at.copy().values()), self.total), self.total)


class _Counted(io.BufferedReader):
    """A file that tells how far it was read; huggingface_hub shows progress on the terminal alone."""

    def __init__(self, path: Path, meter: _Meter) -> None:
        super().__init__(io.FileIO(path))
        self._meter = meter
        self._name = path.name

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(-1 if size is None else size)
        self._meter.reached(self._name, self.tell())
        return piece


@dataclass(frozen=True)
class _Sender:
    """One upload, without a `repr` of its client, which holds the token."""

    repo_id: str
    api: HfApi
    private: bool
    meter: _Meter

    def __repr__(self) -> str:
        return f"_Sender({self.repo_id})"

    def send(self, files: dict[str, Path], card: str, results: queue.Queue[str | BaseException]) -> None:
        created = False
        try:
            self.api.create_repo(self.repo_id, private=self.private, exist_ok=False)
            created = True
            results.put(self._commit(files, card))
        except BaseException as error:  # a thread's seam: whatever it is, the waiting side tells it
            if created:
                self._remove()
            results.put(error)

    def _commit(self, files: dict[str, Path], card: str) -> str:
        readers = {name: _Counted(path, self.meter) for name, path in files.items()}
        try:
            additions = [CommitOperationAdd(name, reader) for name, reader in readers.items()]
            self.meter.begin("sent")
            additions.append(CommitOperationAdd(CARD, card.encode()))
            self.api.create_commit(self.repo_id, additions, commit_message="Add the quantized model")
        finally:
            for reader in readers.values():
                reader.close()
        return f"{constants.ENDPOINT}/{self.repo_id}"

    def _remove(self) -> None:
        try:
            self.api.delete_repo(self.repo_id, missing_ok=True)
        except (*NETWORK_ERRORS, ValueError):  # the first error is what counts; the empty repository can be seen
            return


def _told(error: BaseException, repo_id: str) -> BaseException:
    """What to tell of an error, without what it carries."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    known = next((one for one in causes if isinstance(one, (QuantSpaceError, _Cancelled, HfHubHTTPError))), error)
    if isinstance(known, (QuantSpaceError, _Cancelled)):
        return known
    if isinstance(known, HfHubHTTPError) and known.response is not None:
        return _of_answer(known.response, repo_id)
    network = next((one for one in causes if isinstance(one, NETWORK_ERRORS)), None)
    if network is not None:
        told = refusal(None, network)
        return type(told)(f"{repo_id} was not sent: {constants.ENDPOINT} can't be reached.", told.hint)
    return KeepFailed(f"{repo_id} was not sent: {type(error).__name__}.", "Try again in a minute.")


def _of_answer(response: Any, repo_id: str) -> QuantSpaceError:
    status = response.status_code
    if status == 409:
        return NameTaken(
            f"{repo_id} is there already; nothing was changed.",
            f"Choose another name, or delete it first at {constants.ENDPOINT}/{repo_id}/settings.",
        )
    if status == 401:
        return TokenRefused(
            "The Hub refuses this token: it is wrong, expired or revoked.",
            f"Use a new write token from {_tokens_page()}.",
        )
    if status in (403, 404):
        return lacks_write(repo_id)
    if status == 429:
        return RateLimited("The Hub takes no more from this account just now (429).", "Try again in some minutes.")
    said = shorten(response.headers.get("X-Error-Message", ""), 160)
    return KeepFailed(
        f"The Hub did not take {repo_id}: it answered {status}{f' ({said})' if said else ''}.",
        "Try again in a minute; what was begun has been removed.",
    )


def lacks_write(repo_id: str) -> TokenLacksScope:
    """The token is known, and may not write there."""
    owner = repo_id.partition("/")[0]
    return TokenLacksScope(
        f"This token may not create a repository of {owner}.",
        f"Use a token of the type Write from {_tokens_page()}, of an account that may write for {owner}.",
    )


def _not_signed_in() -> NotSignedIn:
    return NotSignedIn(
        "Only with a token can something be sent to your account.",
        f"Sign in where the page offers it, or paste a token of the type Write from {_tokens_page()} first.",
    )


def _role(told: dict[str, Any]) -> str:
    auth = told.get("auth")
    token = auth.get("accessToken") if isinstance(auth, dict) else None
    return str(token.get("role", "")) if isinstance(token, dict) else ""


def _tokens_page() -> str:
    return f"{constants.ENDPOINT}/settings/tokens"
