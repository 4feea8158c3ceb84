"""Commands and code that people copy, and the model that is named in them.

Nothing is run and nothing is looked up: `reference.py` judges what is found here as if it had been typed alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_HOSTS = r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/"
_KEY = (
    r"(?:model|model[-_ ]?id|model[-_]name|model[-_]path|model[-_]name[-_]or[-_]path|pretrained[-_]model[-_]name"
    r"[-_]or[-_]path|base[-_]model|checkpoint|repo|repo[-_]id|hf[-_]repo|hf[-_]model)"
)
_CALLS = (
    r"(?:from_pretrained|snapshot_download|hf_hub_download|model_info|pipeline|load_model|load|LLM|Engine|"
    r"SentenceTransformer|CrossEncoder|SparseEncoder|InferenceClient|ModelRef|estimate)"
)
_QUOTED = r"[\"'“‘](?P<model>[^\"'“”‘’\s]{1,300})[\"'”’]"
_WORD = r"[\"']?(?P<model>(?!-)[^\s\"',;()]{1,300})[\"']?"
_TAKES_VALUE = (
    r"--(?:token|revision|local-dir|cache-dir|include|exclude|max-workers|repo-type|host|port|format)[\s=]+\S+"
)
_OPTIONS = rf"(?:(?:{_TAKES_VALUE}|-[-\w]+(?:=\S+)?)\s+)*+"  # that stand before what a command is about

# What names the model, surest first.
_NAMED = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\bollama\s+(?:run|pull|show|cp|rm|create)\s+{_OPTIONS}(?P<ollama>{_WORD})",
        rf"\bdocker\s+model\s+(?:run|pull)\s+{_OPTIONS}{_WORD}",
        rf"\bgit\s+(?:lfs\s+)?clone\s+(?:\S+\s+){{0,8}}?(?P<model>(?:https?://|git@|ssh://)\S{{1,300}}|{_HOSTS}\S{{1,300}})",
        rf"\b(?:hf|huggingface-cli)\s+(?:models\s+)?(?:download|info|cache\s+\w+)\s+{_OPTIONS}{_WORD}",
        rf"(?:^|\s)--?(?i:{_KEY}|hf|hfr)(?:\s+|=){_WORD}",
        rf"(?<![\w-])[\"']?(?i:{_KEY})[\"']?\s*[:=]\s*{_QUOTED}",
        rf"\b{_CALLS}\(\s*{_QUOTED}",
        rf"\b(?:vllm|sglang|transformers|lms|mlx_lm\.\w+|tgi)\s+(?:serve|chat|get|run|bench)\s+{_OPTIONS}{_WORD}",
        rf"(?<![\w-])(?i:{_KEY})\s*[:=]\s*{_WORD}",
        rf"(?:^|(?<!python)(?<!python3)\s)-m(?:\s+|=){_WORD}",
        rf"(?P<model>{_HOSTS}[^\s\"'<>)\]]{{1,300}})",
    )
)
_REVISION = re.compile(
    r"(?:--revision|\brevision|\bgit\s.{0,200}?\s(?:-b|--branch))\s*[=\s]\s*[\"']?(?P<value>[\w./-]{1,200})"
)
_FILE = re.compile(
    r"(?:--hf-file|-hff|--filename|\bfilename|\bgguf_file|\bmodel_file)\s*[=\s]\s*[\"']?(?P<value>[^\s\"',;()]{1,300})"
)
_DOWNLOADED = re.compile(
    rf"\b(?:hf|huggingface-cli)\s+download\s+{_OPTIONS}\S+\s+(?P<value>[^\s\"'-][^\s\"']{{0,299}}\.\w{{1,12}})(?:\s|$)"
)
_REPO_TYPE = re.compile(r"(?:--repo-type|\brepo_type)\s*[=\s]\s*[\"']?(?P<value>dataset|space)")
_SIGNS = re.compile(r"[\s=(]|^-")  # of which no id, link or revision holds any


class Snippet(NamedTuple):
    """What a command or a piece of code says of the model that it is about.

    Attributes:
        model: the words that name it: an id or a link.
        kind: `dataset` or `space` where it is no model; `ollama` where the words stand for a model of Ollama's own
            library, unless they begin with the Hub's address.
    """

    model: str
    revision: str | None = None
    file: str | None = None
    kind: str = "model"


def find_model(text: str) -> Snippet | None:
    """What `text` says of a model; `None` where it is no command or code that is known. In linear time."""
    if not _SIGNS.search(text):
        return None
    found = next((match for pattern in _NAMED if (match := pattern.search(text))), None)
    if found is None:
        return None
    kind = _value(_REPO_TYPE, text) or ("ollama" if found.groupdict().get("ollama") else "model")
    file = _value(_FILE, text) or _value(_DOWNLOADED, text)
    return Snippet(found["model"].rstrip(".,;"), _value(_REVISION, text), file, kind)


def _value(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return match["value"] if match else None
