"""Names as a checkpoint writes them, turned into names of the class that transformers builds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PLAIN = re.compile(r"[\w.-]+")


def renamer(model: PreTrainedModel) -> Callable[[str], str]:
    """What transformers renames while it loads this class, for names of modules; a trailing `*` is kept."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    renamings = get_model_conversion_mapping(model)

    def renamed(name: str) -> str:
        stem = name.rstrip("*")
        new = stem.rstrip(".") + "."  # renamings are written for names of weights
        for renaming in renamings:
            new, _ = renaming.rename_source_key(new)
        return new.removesuffix(".") + stem[len(stem.rstrip(".")) :] + name[len(stem) :]

    return renamed


def globbed(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether a module is, or is inside, one of `patterns`, in which `*` stands for anything."""
    plain = {pattern for pattern in patterns if "*" not in pattern}
    globs = [pattern for pattern in patterns if "*" in pattern]

    def inside(module: str) -> bool:
        parts = module.split(".")
        above = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
        return not plain.isdisjoint(above) or any(fnmatchcase(module, glob) for glob in globs)

    return inside


def matching(patterns: Iterable[str], modules: Iterable[str], renamed: Callable[[str], str]) -> list[str]:
    """Those of `patterns` that `should_convert_module` of transformers could match to one of `modules`.

    Published lists name every norm of every layer. The library compiles a regular expression for each pattern and
    module, beyond the 512 that Python caches: a list of 712 takes it over a minute. Dropping what can't match
    changes nothing else.
    """
    names = list(modules)
    ends = "\n".join(names) + "\n"
    starts = {name[:end] for name in names for end in _boundaries(name)}

    def may_match(pattern: str) -> bool:
        new = renamed(pattern)
        return not _PLAIN.fullmatch(new) or new.rstrip(".") in starts or f"{new}\n" in ends

    return [pattern for pattern in patterns if may_match(pattern)]


def _boundaries(name: str) -> list[int]:
    return [match.start() for match in re.finditer(r"\.", name)] + [len(name)]
