"""What this machine has to load a model with: its processor or card, and the packages that are installed.

Asked without importing torch, so that the page can tell what would be refused before anybody tries.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Literal

ZERO_GPU = (9, 0)  # the oldest card that ZeroGPU lends (H200); the newer one, RTX PRO 6000, is 12.0
_MODULES = {"optimum": "optimum.gptq"}  # which others share their top name with
_ASK = ("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")


@dataclass(frozen=True, slots=True)
class Device:
    """Where loads go: `cpu`, or `cuda` with the compute capability of the oldest card."""

    kind: Literal["cpu", "cuda"]
    capability: tuple[int, int] = (0, 0)

    def can(self, wanted: tuple[int, int] | None) -> bool:
        """Whether this is a card of at least that compute capability."""
        return self.kind == "cuda" and (wanted is None or self.capability >= wanted)


@lru_cache(maxsize=1)
def this_device() -> Device:
    """The device of this machine. On ZeroGPU, where the parent sees none, what a call is lent."""
    if os.environ.get("SPACES_ZERO_GPU"):
        return Device("cuda", ZERO_GPU)
    capabilities = _cards()
    return Device("cuda", min(capabilities)) if capabilities else Device("cpu")


def _cards() -> list[tuple[int, int]]:
    if shutil.which(_ASK[0]) is None or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return []
    try:
        told = subprocess.run(_ASK, capture_output=True, text=True, timeout=10, check=True).stdout
        return [(int(major), int(minor)) for major, minor in (line.strip().split(".") for line in told.splitlines())]
    except (OSError, subprocess.SubprocessError, ValueError):  # a driver without a card, or one too old to be asked
        return []


@cache
def installed(package: str) -> bool:
    """Whether a package of PyPI can be imported; it is not."""
    try:
        return find_spec(_MODULES.get(package, package.replace("-", "_"))) is not None
    except ModuleNotFoundError:  # the package that it would be in is missing
        return False
