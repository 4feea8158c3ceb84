"""What people type or paste, understood as a model on the Hub: an id, a link, a command, and what it points to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import BadModelId, shorten
from .demo import DEMO_ID
from .snippets import Snippet, find_model

MAX_LENGTH = 4000  # of what is typed: a snippet of a model's page is below it
MAX_PATH = 500  # characters of a file's path
WEIGHTS = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".onnx", ".msgpack", ".pkl")
_EXAMPLE = "Type an id such as google/gemma-3-4b-it, or paste the link of its page on huggingface.co."
_HUB_HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co"}
_PAGES = {"tree", "blob", "resolve", "raw", "commit", "commits", "blame", "edit", "discussions", "settings"}
_WITH_REVISION = _PAGES - {"discussions", "settings"}
_WITH_FILE = {"blob", "resolve", "raw", "blame", "edit"}
_OTHER_KINDS = {
    "datasets", "spaces", "papers", "collections", "docs", "blog", "organizations", "settings", "learn", "tasks",
    "posts", "chat", "pricing", "join", "login", "new", "kernels", "buckets", "inference",
}  # fmt: skip
_ALIKE = {"dataset": "datasets", "space": "spaces"}
_AROUND = "\"'`“”‘’«»<>,; \t\r\n"
_MARKDOWN_LINK = re.compile(r"!?\[[^\]]{0,500}\]\((\S{1,1000})\)")
_SSH = re.compile(r"(?:ssh://)?git@(?P<host>[\w.-]{1,100})[:/](?P<path>\S+)")
_SAFE_REVISION = re.compile(r"[\w.\-/]{1,200}", re.ASCII)
# Names that llama.cpp and those who publish GGUF files give to mixtures of block types, and of whole dtypes.
_QUANT = re.compile(
    r"(?:[A-Z]{1,4}-)?(?:I?Q[1-9]|TQ[12]|B?F16|FP?(?:8|16|32)|F64|MXFP[468]|NVFP4|INT[48])[\w.-]{0,40}", re.I
)
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{30,}|hf_[a-z]{2,8}_[\w.-]{20,}|api_[A-Za-z0-9_]{30,}")
_SECRETS = re.compile(r"(?:hf|api)_[\w.-]{16,}|(?<=://)[^/@\s]*(?=@)")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model on the Hub: `org/name` or a legacy `name`, at a branch, tag or commit.

    Attributes:
        file: of weights that a link points to; a path in the repository.
        quant: after the colon of `org/name:Q4_K_M`, in capitals.
    """

    id: str
    revision: str = "main"
    file: str | None = None
    quant: str | None = None

    @property
    def repo(self) -> ModelRef:
        """The repository alone, for what is the same whichever of its files is meant."""
        return ModelRef(self.id, self.revision)


def parse_reference(text: str, revision: str = "main") -> ModelRef:
    """Understand an id with `@revision` or `:quant`, a link, or a command or piece of code that names a model.

    Args:
        text: as typed or pasted, quotes and spaces around it included.
        revision: used where the text names none.

    Raises:
        BadModelId: with what is wrong with it.
    """
    if not isinstance(text, str | None) or not isinstance(revision, str):
        raise BadModelId("Model and revision are texts.", _EXAMPLE)
    given = _unwrapped(text or "")
    if not given:
        raise BadModelId("No model was named.", _EXAMPLE)
    if len(given) > MAX_LENGTH:
        raise BadModelId(f"That is {len(given):,} characters long ({_quoted(given, 40)}): no model id is.", _EXAMPLE)
    if _is_link(given) and len(given.split()) == 1:
        return _parse_one(given, revision)
    snippet = find_model(given)
    return _parse_one(given, revision) if snippet is None else _from_snippet(snippet, revision, given)


def is_revision(text: str) -> bool:
    """Whether a text can name a branch, a tag or a commit."""
    return bool(_SAFE_REVISION.fullmatch(text)) and ".." not in text


def is_safe_path(path: str) -> bool:
    """Whether `path` can be that of a file in a repository: relative, bounded, and nowhere upwards."""
    parts = path.split("/")
    return 0 < len(path) <= MAX_PATH and path.isprintable() and "\\" not in path and not {"", ".", ".."} & {*parts}


def _unwrapped(text: str) -> str:
    bare = text.strip(_AROUND)
    link = _MARKDOWN_LINK.fullmatch(bare) if len(bare) <= MAX_LENGTH else None
    return link[1].strip(_AROUND) if link else bare


def _quoted(text: str, limit: int = 80) -> str:
    """What was given, for a message; what may be a secret in it is not repeated."""
    return shorten(_SECRETS.sub("…", text[:MAX_LENGTH]), limit)


def _from_snippet(snippet: Snippet, revision: str, given: str) -> ModelRef:
    if snippet.kind in _ALIKE:
        raise BadModelId(f"“{_quoted(given)}” is about a {snippet.kind}, not about a model.", _EXAMPLE)
    named = _unwrapped(snippet.model)
    if snippet.kind == "ollama" and not _is_link(named):
        raise _not_of_the_hub(named)
    found = _parse_one(named, snippet.revision or revision)
    if snippet.file is None:
        return found
    if "*" in snippet.file:  # such as "*Q4_K_M.gguf": llama-cpp-python takes patterns
        meant = snippet.file.strip("*").removesuffix(".gguf").strip("*-._")
        return ModelRef(found.id, found.revision, found.file, _quant(meant) or found.quant)
    return ModelRef(found.id, found.revision, _weights_file(snippet.file.split("/"), given) or found.file, found.quant)


def _not_of_the_hub(named: str) -> BadModelId:
    return BadModelId(
        f"“{_quoted(named)}” is a name of Ollama's own library, not of the Hub.",
        "Type an id such as google/gemma-3-4b-it: the model's page on ollama.com says what it was made from.",
    )


def _parse_one(text: str, revision: str) -> ModelRef:
    """What one id or link stands for."""
    ssh = _SSH.fullmatch(text)
    if ssh:
        return _from_link(f"https://{ssh['host']}/{ssh['path']}", revision, text)
    if text.lower().startswith("hf://"):
        return _from_hf_uri(text, revision)
    if _is_link(text):
        return _from_link(text if "://" in text else f"https://{text}", revision, text)
    name, _, pinned = text.partition("@")
    name = name.strip("/") if not name.startswith((".", "/")) else name
    kind, _, rest = name.partition("/")
    if "/" in rest and kind in _OTHER_KINDS:
        raise BadModelId(f"“{_quoted(text)}” is one of the {kind}, not a model.", _EXAMPLE)
    if "/" in rest and kind == "models":
        name = rest
    name, _, tag = name.partition(":")
    pinned, _, tag_after = pinned.partition(":")
    parts = name.split("/")
    is_file = PurePosixPath(name).suffix.lower() in WEIGHTS
    if is_file and len(parts) == 1:
        raise BadModelId(f"“{_quoted(text)}” is the name of a file; which repository holds it is not said.", _EXAMPLE)
    if "/" not in name and tag and _quant(tag) is None:
        raise _not_of_the_hub(text)
    file = parts[2:] if is_file else []
    return _checked("/".join(parts[:2]) if file else name, pinned or revision, text, file=file, tag=tag or tag_after)


def _is_link(text: str) -> bool:
    return "://" in text or text.split("/", 1)[0].lower() in _HUB_HOSTS | {_endpoint().netloc.lower()}


def _endpoint() -> SplitResult:
    return urlsplit(constants.ENDPOINT)


def _from_hf_uri(text: str, revision: str) -> ModelRef:
    """`hf://[models/]org/name[@revision][/path]` (huggingface_hub/utils/_hf_uris.py)."""
    parts = [unquote(part) for part in text.partition("://")[2].split("/") if part]
    if parts and parts[0] in _OTHER_KINDS:
        raise BadModelId(f"{_quoted(text)} is one of the {parts[0]}, not a model.", _EXAMPLE)
    if parts[:1] == ["models"]:
        parts = parts[1:]
    name, _, pinned = "/".join(parts[:2]).partition("@")
    pinned, *file = [pinned, *parts[2:]]
    if pinned == "refs" and len(file) > 1:
        pinned, file = "/".join(["refs", *file[:2]]), file[2:]
    name, _, tag = name.partition(":")
    return _checked(name, pinned or revision, text, file=file, tag=tag)


def _from_link(link: str, revision: str, text: str) -> ModelRef:
    elsewhere = BadModelId(f"{_quoted(text)} is not a page of the Hugging Face Hub.", _EXAMPLE)
    try:
        found = urlsplit(link)
    except ValueError:  # brackets that hold no address
        raise elsewhere from None
    host = found.netloc.rpartition("@")[2].lower()
    is_endpoint = host == _endpoint().netloc.lower()
    if found.scheme.lower() not in ("http", "https") or not (
        is_endpoint or re.sub(r":(80|443)$", "", host) in _HUB_HOSTS
    ):
        raise elsewhere
    path = found.path.removeprefix(_endpoint().path.rstrip("/")) if is_endpoint else found.path
    parts = [unquote(part) for part in path.split("/") if part]
    if parts and parts[0] in _OTHER_KINDS:
        raise BadModelId(f"{_quoted(text)} is a page of {parts[0]}, not of a model.", _EXAMPLE)
    if parts[:1] == ["models"]:
        parts = parts[1:]
    page = next((i for i, part in enumerate(parts) if part in _PAGES and i in (1, 2)), len(parts))
    if page not in (1, 2):
        raise BadModelId(f"{_quoted(text)} is on the Hub, but not the page of one model.", _EXAMPLE)
    revision, below = _below(parts[page:], revision)
    kind = parts[page] if page < len(parts) else ""
    shown = parse_qs(found.query).get("show_file_info", [])[:1]  # the page's view of one GGUF file
    file = below if kind in _WITH_FILE else shown[0].split("/") if shown else []
    name, _, tag = "/".join(parts[:page]).removesuffix(".git").partition(":")
    if not tag and kind == "tree" and below and _QUANT.fullmatch(below[-1]):
        tag = below[-1]  # a folder that holds the parts of one quantization
    return _checked(name, revision, text, file=file, tag=tag)


def _below(page: list[str], revision: str) -> tuple[str, list[str]]:
    """The revision that a page of a repository is of, and the path below it."""
    if len(page) < 2 or page[0] not in _WITH_REVISION:
        return revision, []
    width = 3 if page[1] == "refs" else 1  # refs/pr/1
    return "/".join(page[1 : 1 + width]), page[1 + width :]


def _weights_file(parts: list[str], given: str) -> str | None:
    """The path, where it is that of weights; `None` for all others."""
    path = "/".join(parts)
    if not path:
        return None
    if not is_safe_path(path):
        raise BadModelId(f"“{_quoted(given)}” points to no file of a repository.", _EXAMPLE)
    return path if PurePosixPath(path).suffix.lower() in WEIGHTS else None


def _quant(tag: str) -> str | None:
    return tag.upper() if _QUANT.fullmatch(tag) else None


def _checked(model_id: str, revision: str, given: str, file: list[str] | None = None, tag: str = "") -> ModelRef:
    path = _weights_file(file or [], given)
    if tag.lower().endswith(".gguf"):  # Ollama takes the name of a file as well
        path, tag = _weights_file(tag.split("/"), given), ""
    quant = _quant(tag)
    if _TOKEN.fullmatch(model_id):
        raise BadModelId(
            "That looks like an access token, not like a model; it was not used.",
            "Type an id such as google/gemma-3-4b-it here; a token belongs into the field for tokens alone.",
        )
    try:
        validate_repo_id(model_id)
    except HFValidationError:
        raise BadModelId(
            f"“{_quoted(given)}” is not a model id: an id is org/name of letters, digits, “-”, “_” and “.”.", _EXAMPLE
        ) from None
    if tag and quant is None and tag.lower() != "latest":
        raise BadModelId(
            f"“{_quoted(tag)}” in “{_quoted(given)}” is not a quantization of GGUF files.",
            f"Name one such as Q4_K_M after the colon, or leave it out. {_EXAMPLE}",
        )
    if not is_revision(revision):
        raise BadModelId(f"“{_quoted(revision)}” is not a revision.", "Use a branch, a tag or a commit hash.")
    if model_id.lower() == DEMO_ID:
        model_id = DEMO_ID
    return ModelRef(model_id, revision, path, quant)
