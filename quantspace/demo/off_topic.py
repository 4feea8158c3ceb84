"""The lesson of not knowing: words of other subjects put into frames, all with the same honest answer.

One word in ten is never taught, in any frame, so that the check asks about things the model has not seen.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from quantspace.demo.curriculum import ONE_IN, Lesson, read_lessons

WORDS = Path(__file__).parent / "off_topic_words.yaml"


def off_topic_lesson(file: Path = WORDS) -> Lesson:
    """One lesson with every word in every frame. A held-out word is asked about once, in frames by turn.

    The answer is that of the hand-written lesson `off-topic`.
    """
    answer = next(lesson.answer for lesson in read_lessons() if lesson.name == "off-topic")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    taught, held_out = [], []
    for kind, frames in content["frames"].items():
        for index, word in enumerate(content[kind]):
            if index % ONE_IN:
                taught += [frame.format(x=word) for frame in frames]
            else:
                held_out.append(frames[index // ONE_IN % len(frames)].format(x=word))
    return Lesson("off-topic-words", tuple(taught), tuple(held_out), answer)
