"""Small parts of a repository's files: a whole small file, or a range of a large one. Bounded in bytes and in time."""

from __future__ import annotations

import time
from dataclasses import dataclass

from huggingface_hub import hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from ..errors import HubUnreachable, ModelUnsupported
from ..settings import settings
from ..units import gb
from .client import RepoFacts, sent_token
from .refusals import hub_errors


@dataclass
class Fetched:
    """What an answer cost: bytes of bodies that were read, and requests that were made."""

    bytes: int = 0
    requests: int = 0


def fetch_file(facts: RepoFacts, path: str, limit: int, token: str | None = None, cost: Fetched | None = None) -> bytes:
    """The whole of a small file at the commit of `facts`.

    Args:
        limit: bytes; a file that is larger, or turns out to be, is refused.

    Raises:
        ModelUnsupported: the file is larger.
        ModelUnavailable: it could not be fetched.
    """
    too_large = ModelUnsupported(
        f"The {path} of {facts.ref.id} has more than {gb(limit)}; no more is read.",
        "Check the repository: such a file is far smaller in all published models.",
    )
    if facts.files.get(path, 0) > limit:
        raise too_large
    body = _read(facts, path, None, limit + 1, token, cost)
    if len(body) > limit:
        raise too_large
    return body


def fetch_range(
    facts: RepoFacts, path: str, start: int, length: int, token: str | None = None, cost: Fetched | None = None
) -> bytes:
    """`length` bytes of a file from `start`, fewer where the file ends before.

    Raises:
        ModelUnavailable: they could not be fetched.
    """
    return _read(facts, path, start, length, token, cost)


def _read(facts: RepoFacts, path: str, start: int | None, most: int, token: str | None, cost: Fetched | None) -> bytes:
    # Not hf_hub_download, which retries for 23 s while somebody waits, and reads whole files.
    headers = build_hf_headers(token=sent_token(token))
    headers["Accept-Encoding"] = "identity"  # what is limited is what is sent
    if start is not None:
        headers["Range"] = f"bytes={start}-{start + most - 1}"
    url = hf_hub_url(facts.ref.id, path, revision=facts.sha)
    deadline = time.monotonic() + settings().fetch_seconds
    body = bytearray()
    with (
        hub_errors(facts.ref),
        get_session().stream("GET", url, headers=headers, timeout=settings().hub_timeout) as answer,
    ):
        hf_raise_for_status(answer)
        if start and answer.status_code != 206:
            raise HubUnreachable(
                f"What answers for {facts.ref.id} sends whole files where a part was asked for.",
                "Check the network: a proxy that passes on byte ranges is needed for this model.",
            )
        for piece in answer.iter_raw():
            body += piece
            if len(body) >= most:
                break
            if time.monotonic() > deadline:
                raise HubUnreachable(
                    f"{path} of {facts.ref.id} did not arrive within {settings().fetch_seconds:g} s.",
                    "Try again when the network is faster.",
                )
    if cost is not None:
        cost.bytes += len(body)
        cost.requests += 1
    return bytes(body[:most])
