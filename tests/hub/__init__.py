"""A local Hugging Face Hub for tests, which the real `huggingface_hub` client talks to over HTTP.

    from tests.hub import LocalHub

    hub = LocalHub()
    hub.add_repo("org/name", {"config.json": b"{}"})
    with hub.running() as url:
        HfApi(endpoint=url).model_info("org/name")

It imitates what the client asks of it, no more: models only, no Xet, no web pages.
"""

from .accounts import Account
from .faults import Fault, FaultRule
from .files import BytesFile, DiskFile, HubFile, SparseFile
from .local_hub import LocalHub
from .repos import Commit, Repo
from .request_log import LoggedRequest, RequestLog

__all__ = [
    "Account",
    "BytesFile",
    "Commit",
    "DiskFile",
    "Fault",
    "FaultRule",
    "HubFile",
    "LocalHub",
    "LoggedRequest",
    "Repo",
    "RequestLog",
    "SparseFile",
]
