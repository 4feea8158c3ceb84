"""How people write precisions: `NF4_DQ`, `4bit`, `bfloat16`, `Q4_K_M`, or the path of a file."""

from __future__ import annotations

import re

from ..errors import BadInput, shorten
from ..estimation.gguf.file import PREFIX
from ..hub.reference import is_safe_path
from ..precision import PRECISIONS

_SHOWN = 40  # characters of what was written
_OTHER_NAMES = {
    "float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "8bit": "int8", "bnb8bit": "int8",
    "4bit": "nf4", "bnb4bit": "nf4", "nf4doublequant": "nf4-dq", "bnb4bitdq": "nf4-dq",
}  # fmt: skip


def read_precision(text: str) -> str:
    """The id of a row from what people write: `NF4_DQ`, `4bit`, `Q4_K_M`, or `gguf:` and the path of a file.

    Raises:
        BadInput: there is no such precision.
    """
    bare = text.strip()
    if bare.lower().startswith(PREFIX):
        path = bare[len(PREFIX) :]
        if not is_safe_path(path):
            raise BadInput(f"“{shorten(bare, _SHOWN)}” is no file of a repository.", f"Give `{PREFIX}` and its path.")
        return PREFIX + path
    found = find_spelling(bare)
    if found is None:
        raise BadInput(f"“{shorten(bare, _SHOWN)}” is not a precision.", f"Use one of {', '.join(PRECISIONS)}.")
    return found


def find_spelling(text: str) -> str | None:
    """The id of a precision of the table from another spelling of it, such as `NF4_DQ` or `4bit`."""
    key = _key(text)
    return _OTHER_NAMES.get(key) or _KEYS.get(key)


def _key(text: str) -> str:
    return re.sub(r"[-_\s+]", "", text.lower())


_KEYS = {_key(name): name for name in PRECISIONS}
