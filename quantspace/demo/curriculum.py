"""The questions and answers the demo model learns, and which phrasings it never sees.

Hand-written lessons come from `lessons/*.yaml`; `sizes.py` adds the computed ones and `off_topic.py` the many
ways to ask about something else.
Nothing here knows about tokens or training.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

LESSONS = Path(__file__).parent / "lessons"
FEWEST_TO_HOLD_OUT = 5  # a lesson with fewer phrasings keeps them all for training
ONE_IN = 10  # of the phrasings of a long lesson, held out


@dataclass(frozen=True)
class Lesson:
    """One answer and the phrasings of its question; `held_out` ones are kept from training."""

    name: str
    taught: tuple[str, ...]
    held_out: tuple[str, ...]
    answer: str


def split(name: str, phrasings: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divides phrasings into taught and held out, the same way every time.

    The first phrasing is always taught. Which others are held out hangs on the lesson's
    name alone, so that nobody picks the easy ones.
    """
    if len(phrasings) < FEWEST_TO_HOLD_OUT:
        return tuple(phrasings), ()
    by_chance = sorted(phrasings[1:], key=lambda ask: zlib.crc32(f"{name}/{ask}".encode()))
    held = set(by_chance[: max(1, len(phrasings) // ONE_IN)])
    return tuple(p for p in phrasings if p not in held), tuple(p for p in phrasings if p in held)


def read_lessons(folder: Path = LESSONS) -> list[Lesson]:
    """Reads the hand-written lessons, file by file in alphabetical order.

    Raises:
        ValueError: a lesson's name or phrasing is there twice, or an answer is empty.
    """
    lessons: dict[str, Lesson] = {}
    phrasings: set[str] = set()
    for file in sorted(folder.glob("*.yaml")):
        for name, entry in yaml.safe_load(file.read_text(encoding="utf-8")).items():
            asks, answer = entry["ask"], entry["answer"].strip()
            twice = sorted(phrasings.intersection(asks)) or len(set(asks)) < len(asks)
            if name in lessons or twice or not answer:
                raise ValueError(f"{file.name}: lesson {name!r} is there twice, repeats a phrasing or has no answer")
            phrasings.update(asks)
            taught, held_out = split(name, asks)
            lessons[name] = Lesson(name, taught, held_out, answer)
    return list(lessons.values())
