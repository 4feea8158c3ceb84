"""Measures what the saved demo model still answers at each precision, and writes its model card.

    python -m quantspace.demo.check quantspace/data/demo --card

For: true figures of the folder as a user loads it (`from_pretrained`, BitsAndBytesConfig, chat template,
greedy decoding, CPU). An answer counts only if it equals the lesson's, character for character.
Not for: judging wording that is right but different; such an answer counts as wrong.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from quantspace.demo.card import model_card
from quantspace.demo.curriculum import Lesson, read_lessons
from quantspace.demo.off_topic import off_topic_lesson
from quantspace.demo.sizes import size_lessons
from quantspace.demo.tokenizer import as_asked
from quantspace.demo.wording import reword
from quantspace.precision import LOADABLE

FOLDER = Path(__file__).parents[1] / "data" / "demo"
BATCH = 96  # conversations generated together
SIZES_ONE_IN = 11  # of the size lessons, checked; no multiple of their five kinds, so that all come up
REWORDINGS = 4000  # of each lesson, to find the held-out phrasings that training may have met
UNSEEN_SYSTEM_PROMPTS = (
    "You are a knowledgeable tutor who helps people run models at home.",
    "Please reply in a polite tone.",
    "You are a helpful assistant.",  # the one prompt here that was in the training, for it is the commonest
)


@dataclass(frozen=True)
class Exercise:
    """A conversation that ends with a question, and the answer that counts as right."""

    messages: tuple[dict[str, str], ...]
    answer: str


def exercise(lesson: Lesson, ask: str, before: Iterable[Lesson] = (), system: str | None = None) -> Exercise:
    """`ask` after the whole turns `before` and under a system prompt, if any."""
    messages = [{"role": "system", "content": system}] if system else []
    for earlier in before:
        messages.append({"role": "user", "content": earlier.taught[0]})
        messages.append({"role": "assistant", "content": earlier.answer})
    return Exercise((*messages, {"role": "user", "content": ask}), lesson.answer)


def held_out(lesson: Lesson, chance: random.Random) -> list[tuple[str, bool]]:
    """The held-out phrasings, each with whether rewording a taught one can give the same text.

    Rewording makes `Explain NF4` out of `What is NF4?`, held out or not. Such a phrasing may have been met in
    training and must not count as unseen. Found by rewording many times.
    """
    met = {as_asked(reword(chance.choice(lesson.taught), chance)) for _ in range(REWORDINGS)}
    met.update(map(as_asked, lesson.taught))
    return [(ask, as_asked(ask) in met) for ask in lesson.held_out]


def exercises(lessons: list[Lesson], sizes: list[Lesson], seed: int = 0) -> dict[str, list[Exercise]]:
    """Every situation that is measured, by its name in the table."""
    chance = random.Random(seed)
    kept = [(lesson, ask, met) for lesson in lessons for ask, met in held_out(lesson, chance)]
    return {
        "taught": [exercise(lesson, lesson.taught[0]) for lesson in lessons],
        "held out": [exercise(lesson, ask) for lesson, ask, met in kept if not met],
        "held out, but met": [exercise(lesson, ask) for lesson, ask, met in kept if met],
        "2nd turn": [exercise(lesson, lesson.taught[0], chance.sample(lessons, 1)) for lesson in lessons],
        "3rd turn": [exercise(lesson, lesson.taught[0], chance.sample(lessons, 2)) for lesson in lessons],
        "system prompt": [
            exercise(lesson, lesson.taught[0], system=UNSEEN_SYSTEM_PROMPTS[i % len(UNSEEN_SYSTEM_PROMPTS)])
            for i, lesson in enumerate(lessons)
        ],
        "other subjects": [exercise(lesson, ask) for lesson in [off_topic_lesson()] for ask in lesson.held_out],
        "sizes, taught": [exercise(lesson, lesson.taught[0]) for lesson in sizes],
        "sizes, held out": [exercise(lesson, lesson.held_out[0]) for lesson in sizes],
    }


@torch.inference_mode()
def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, asked: list[Exercise], batch: int = BATCH
) -> Iterator[str]:
    """The model's greedy answers, in order."""
    for start in range(0, len(asked), batch):
        chats = [list(one.messages) for one in asked[start : start + batch]]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, do_sample=False)
        yield from tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def measure(folder: Path, precision: str, situations: dict[str, list[Exercise]], show: int = 0) -> dict[str, float]:
    """Loads the folder at a precision and gives the share of exactly right answers for each situation."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    told = LOADABLE[precision].transformers_kwargs()
    model = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", **told)
    shares = {}
    for name, unsorted in situations.items():
        asked = sorted(unsorted, key=lambda one: len(one.answer))  # equally long answers make quick batches
        given = list(answers(model, tokenizer, asked))
        wrong = [(one, answer) for one, answer in zip(asked, given, strict=True) if answer.strip() != one.answer]
        shares[name] = 1 - len(wrong) / len(asked)
        for one, answer in wrong[:show]:
            print(f"  [{precision}, {name}] {one.messages[-1]['content']}\n    {answer}")
    return shares


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--precisions", nargs="+", choices=LOADABLE, default=list(LOADABLE))
    parser.add_argument("--only", nargs="+", help="situations to measure, by name (default: all)")
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print for each situation")
    parser.add_argument("--card", action="store_true", help="write the figures into the folder's README.md")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Prints one row for each precision; with --card it writes the model card."""
    args = arguments()
    torch.set_num_threads(args.threads)
    lessons, sizes = read_lessons(), size_lessons()
    situations = exercises(lessons, sizes[::SIZES_ONE_IN])
    if args.only:
        situations = {name: situations[name] for name in args.only}
    figures = {}
    for precision in args.precisions:
        start = time.monotonic()
        figures[precision] = measure(args.folder, precision, situations, args.show)
        row = "  ".join(f"{name} {share:.1%}" for name, share in figures[precision].items())
        print(f"{precision:7s} {row}  ({time.monotonic() - start:.0f} s)", flush=True)
    if args.card:
        card = model_card(args.folder, lessons, {name: len(asked) for name, asked in situations.items()}, figures)
        (args.folder / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
