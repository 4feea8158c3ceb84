"""Device maps and limits as people write them: a line for each module, or for each device. Pure text."""

from __future__ import annotations

import re

from ..errors import BadInput, shorten

Pairs = tuple[tuple[str, str], ...]  # a module's name, and its device
Limits = tuple[tuple[str, int], ...]  # a device, and the bytes of weights that it may hold

REST = "*"  # in a map: every module that no other line names
OFF_CARD = ("cpu", "disk")
MAX_LINES = 2000
_LINE = re.compile(r"^\s*(?P<module>[\w.\-]+|\*)\s*[:=]\s*(?P<device>[\w:]+)\s*$")
_LIMIT = re.compile(r"^\s*(?P<device>[\w]+(?::\d+)?)\s*[:=]\s*(?P<size>[\d.,_]+)\s*(?P<unit>[kmgt]?i?b?)\s*$", re.I)
_SPAN = re.compile(r"^(?P<stack>.*\.)(?P<first>\d+)-(?P<last>\d+)$")
_DEVICE = re.compile(r"^(?:cuda:|gpu:?)?(?P<number>\d{1,2})$")
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_MAP_HINT = "Write a module and a device on each line, such as `model.layers.0-11: cuda:0`, and `*: cpu` for the rest."
_LIMIT_HINT = "Write a device and a size on each line, such as `cuda:0: 10 GB`, `cpu: 24 GiB` or `disk: 100 GB`."


def parse_map(text: str) -> Pairs:
    """A map as people write it, a `module: device` on each line.

    `model.layers.0-11` stands for twelve blocks, `*` for every module that no other line names.

    Raises:
        BadInput: a line is none of that, or there are too many.
    """
    pairs: dict[str, str] = {}
    for line in _lines(text):
        match = _LINE.match(line)
        if not match:
            raise BadInput(f"“{shorten(line, 60)}” is no line of a device map.", _MAP_HINT)
        device = device_of(match["device"], _MAP_HINT)
        for module in _spanned(match["module"]):
            pairs[module] = device
            if len(pairs) > MAX_LINES:
                raise BadInput(f"The device map names more than {MAX_LINES:,} modules.", _MAP_HINT)
    return tuple(pairs.items())


def parse_limits(text: str) -> Limits:
    """Limits as people write them, a `device: size` on each line. GB is 10⁹ bytes, GiB 2³⁰.

    Raises:
        BadInput: a line is no such thing.
    """
    limits: dict[str, int] = {}
    for line in _lines(text):
        match = _LIMIT.match(line)
        if not match:
            raise BadInput(f"“{shorten(line, 60)}” is no limit of a device.", _LIMIT_HINT)
        limits[device_of(match["device"], _LIMIT_HINT)] = _bytes(match["size"], match["unit"].lower(), line)
    return tuple(limits.items())


def device_of(name: str, hint: str = _MAP_HINT) -> str:
    """`0`, `gpu0` and `cuda:0` are the first card; `cpu` and `disk` are themselves.

    Raises:
        BadInput: it is none of them.
    """
    plain = name.strip().lower()
    if plain in OFF_CARD:
        return plain
    if match := _DEVICE.match("cuda:0" if plain == "cuda" else plain):
        return f"cuda:{int(match['number'])}"
    raise BadInput(f"“{shorten(name, 40)}” is no device.", hint)


def _spanned(module: str) -> list[str]:
    span = _SPAN.match(module)
    if not span:
        return [module]
    first, last = int(span["first"]), int(span["last"])
    if not first <= last <= MAX_LINES:
        raise BadInput(f"“{shorten(module, 60)}” is no span of blocks.", _MAP_HINT)
    return [f"{span['stack']}{number}" for number in range(first, last + 1)]


def _bytes(size: str, unit: str, line: str) -> int:
    try:
        number = float(size.replace(",", "").replace("_", ""))
    except ValueError as error:
        raise BadInput(f"“{shorten(line, 60)}” is no limit of a device.", _LIMIT_HINT) from error
    base = 1024 if "i" in unit else 1000
    return int(number * base ** _POWER[unit.rstrip("b").rstrip("i")])


def _lines(text: str) -> list[str]:
    lines = [line for line in (text or "").splitlines() if line.strip()]
    if len(lines) > MAX_LINES:
        raise BadInput(f"There are {len(lines):,} lines; at most {MAX_LINES:,} are read.", _MAP_HINT)
    return lines
