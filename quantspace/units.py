"""Bytes as people read them. Bytes are integers everywhere else; this is the one place that formats them.

GB is 10⁹ bytes and GiB is 2³⁰, always named as such.
"""

from __future__ import annotations

GIB = 2**30
MIB = 2**20

_DECIMAL = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_BINARY = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def _format(count: int, steps: tuple[tuple[int, str], ...]) -> str:
    for size, name in steps:
        if abs(count) >= size:
            value = count / size
            return f"{value:.2f} {name}" if abs(value) < 100 else f"{value:,.0f} {name}"
    return f"{count} B"


def gb(count: int) -> str:
    """`15636365312` → `15.64 GB`; small counts in MB, kB or B."""
    return _format(count, _DECIMAL)


def gib(count: int) -> str:
    """`15636365312` → `14.56 GiB`; small counts in MiB, KiB or B."""
    return _format(count, _BINARY)


def exact(count: int) -> str:
    """`3170624226` → `3,170,624,226 B`."""
    return f"{count:,} B"
