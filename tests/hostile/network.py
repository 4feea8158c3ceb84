"""Rows of what is typed, and of what answers in place of the Hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from quantspace.errors import BadModelId, HubUnreachable, ModelNotFound, ModelUnavailable, ModelUnsupported
from tests.hub import LocalHub

from .rows import Hostile, sound

SHA = "0123456789abcdef0123456789abcdef01234567"

# --- What is typed ------------------------------------------------------------------------------------------------
_TYPED: dict[str, Any] = {
    "nothing": "",
    "blanks": " \t\n ",
    "path-up": "../../etc/passwd",
    "path-absolute": "/etc/passwd",
    "four-parts": "a/b/c/d",
    "revision-up": "org/name@../../main",
    "revision-long": "org/name@" + "v" * 900,
    "half-an-address": "http://[::1",
    "elsewhere": "https://evil.example/org/name",
    "looks-like-the-hub": "https://huggingface.co.evil.example/org/name",
    "user-in-link": "https://huggingface.co@evil.example/org/name",
    "file-link": "file:///etc/passwd",
    "script-link": "javascript:alert(1)",
    "inside-address": "http://169.254.169.254/latest/meta-data",
    "null-byte": "org/na\0me",
    "markup": "<script>alert(1)</script>",
    "quotes": "org/name' OR 1=1 --",
    "turned-round": "org/\u202egpj.eman",
    "long": "x" * 100_000,
    "long-link": "https://huggingface.co/" + "a/" * 450,
    "dots": "..",
    "dotted-org": "./name",
    "dataset": "https://huggingface.co/datasets/org/name",
    "encoded-slashes": "https://huggingface.co/org%2F..%2Fname/tree/main",
    "backslashes": "org\\..\\name",
    "list": ["org/name"],
    "object": {"id": "org/name"},
    "number": 5,
    "truth": True,
}
TYPED = [Hostile(f"typed-{name}", BadModelId, typed={"model": text}) for name, text in _TYPED.items()] + [
    Hostile("typed-missing", ModelNotFound, typed={"model": "nobody/nothing-is-here"}),
    Hostile("revision-list", BadModelId, typed={"model": "hostile/x", "revision": ["main"]}),
    Hostile("revision-number", BadModelId, typed={"model": "hostile/x", "revision": 5}),
    Hostile("revision-missing", ModelNotFound, sound, typed={"revision": "v99"}, says="v99"),
]

# --- What answers in place of the Hub -----------------------------------------------------------------------------
_STATUSES = (401, 403, 404, 418, 429, 500, 502, 503, 504)
_PLACES = {"info": {"on": "info"}, "config": {"file": "config.json"}}
STATUSES = [
    Hostile(f"status-{status}-{place}", ModelUnavailable, sound, faults=({**where, "status": status},))
    for status in _STATUSES
    for place, where in _PLACES.items()
]

_TRANSPORT: dict[str, Mapping[str, Any]] = {
    "closed": {"close": True},
    "truncated": {"truncate_after": 10},
    "longer-than-it-is": {"headers": {"Content-Length": "100000"}, "truncate_after": 20},
    "negative-length": {"headers": {"Content-Length": "-5"}},
    "never-answers": {"delay": 60},
    "drips": {"bytes_per_second": 20},
    "not-gzip": {"status": 200, "body": b"no gzip", "headers": {"Content-Encoding": "gzip"}},
    "nowhere": {"status": 302},
    "loop": {"status": 307, "headers": {"Location": "?again"}},
    "to-a-file": {"status": 302, "headers": {"Location": "file:///etc/passwd"}},
    "to-another-scheme": {"status": 302, "headers": {"Location": "gopher://127.0.0.1:70/1"}},
    "to-a-closed-port": {"status": 302, "headers": {"Location": "http://127.0.0.1:9/config.json"}},
    "to-no-address": {"status": 302, "headers": {"Location": "http://[::1"}},
    "a-sign-in-page": {"status": 200, "body": b"<html>sign in</html>", "headers": {"Content-Type": "text/html"}},
    "no-bytes": {"status": 200, "body": b""},
}
_FINE_WHERE = {"not-gzip-config", "a-sign-in-page-config", "no-bytes-config"}  # a file that is no JSON, not the network
TRANSPORT = [
    Hostile(
        f"{name}-{place}",
        (ModelUnsupported, HubUnreachable) if f"{name}-{place}" in _FINE_WHERE else ModelUnavailable,
        sound,
        faults=({**where, **fault},),
    )
    for name, fault in _TRANSPORT.items()
    for place, where in _PLACES.items()
] + [
    Hostile("endless-info", HubUnreachable, sound, faults=({"on": "info", "endless": True},)),
    Hostile("endless-config", (ModelUnsupported, HubUnreachable), sound,
            faults=({"file": "config.json", "endless": True},)),
]  # fmt: skip


def _told(**changes: Any) -> bytes:
    """What the Hub tells of a model, with changes."""
    return json.dumps({"id": "hostile/x", "sha": SHA, "siblings": [{"rfilename": "README.md"}], **changes}).encode()


def _files(*siblings: Any) -> bytes:
    return _told(siblings=list(siblings))


_NO_MODEL = (HubUnreachable, ModelUnsupported, ModelNotFound)
_ANSWERS: dict[str, Callable[[], bytes]] = {
    "null": lambda: b"null",
    "list": lambda: b"[]",
    "text": lambda: b'"hello"',
    "empty-object": lambda: b"{}",
    "deep": lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "no-text": lambda: b'{"id":"\xff\xfe"}',
    "siblings-number": lambda: _told(siblings=3),
    "siblings-numbers": lambda: _files(1, 2),
    "siblings-unnamed": lambda: _files({}),
    "siblings-named-5": lambda: _files({"rfilename": 5}),
    "sizes-text": lambda: _files({"rfilename": "config.json", "size": "12"}),
    "sizes-negative": lambda: _files({"rfilename": "config.json", "size": -5}),
    "sizes-beyond": lambda: _files({"rfilename": "config.json", "size": 1e300}),
    "paths-up": lambda: _files({"rfilename": "../../../etc/passwd"}, {"rfilename": "/etc/passwd"}),
    "siblings-by-the-million": lambda: _files(*({"rfilename": f"{i}.safetensors", "size": 1} for i in range(600_000))),
    "sha-number": lambda: _told(sha=5),
    "sha-path": lambda: _told(sha="../../x"),
    "sha-missing": lambda: _told(sha=None),
    "config-list": lambda: _told(config=[1]),
    "counts-list": lambda: _told(safetensors=[1]),
    "counts-of-list": lambda: _told(safetensors={"parameters": [1], "total": 3}),
    "counts-text": lambda: _told(safetensors={"parameters": {"BF16": "many"}, "total": "many"}),
    "counts-negative": lambda: _told(safetensors={"parameters": {"BF16": -5}, "total": -5}),
    "counts-nan": lambda: _told(safetensors={"parameters": {"BF16": float("nan")}, "total": 1}),
    "counts-no-dtype": lambda: _told(safetensors={"parameters": {"../x": 5}, "total": 5}),
    "gguf-list": lambda: _told(gguf=[1]),
    "gguf-total-text": lambda: _told(gguf={"total": "many"}),
    "card-list": lambda: _told(cardData=[1]),
    "card-base-of-objects": lambda: _told(cardData={"base_model": [{"a": 1}]}),
    "date-number": lambda: _told(createdAt=5),
    "tags-object": lambda: _told(tags={"a": 1}),
}


@cache
def _answer(name: str) -> bytes:
    return _ANSWERS[name]()


@dataclass(frozen=True)
class _Told(Hostile):
    """A row in which the Hub's API says something else than the Hub would."""

    def put(self, hub: LocalHub) -> str:
        model_id = super().put(hub)
        body = _answer(self.name.removeprefix("api-"))
        hub.fail(model_id, on="info", status=200, body=body, headers={"Content-Type": "application/json"})
        return model_id


ANSWERS = [_Told(f"api-{name}", _NO_MODEL, sound) for name in _ANSWERS]
