"""Rewords questions the way other people would type them: other frames, synonyms, slips, case, courtesies.

Only training uses this. It widens what the model recognizes; it adds no facts.
"""

from __future__ import annotations

import random
import re

# A question's frame, and frames that ask the same of {x}.
FRAMES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = tuple(
    (re.compile(pattern), tuple(others))
    for pattern, others in (
        (
            r"What (?:is|are) (?P<x>.+)\?",
            (
                *("What's {x}?", "Explain {x}.", "Tell me about {x}.", "Can you explain {x}?", "Describe {x}."),
                *("What does {x} mean?", "Define {x}.", "What exactly is {x}?", "Do you know what {x} is?"),
                *("I want to know about {x}.", "Could you tell me what {x} is?", "{x}?", "what is meant by {x}?"),
            ),
        ),
        (
            r"(?:Explain|Tell me about|Describe|Define) (?P<x>.+)\.",
            (
                *("What is {x}?", "Can you explain {x}?", "Please explain {x}.", "Could you describe {x}?"),
                *("I would like to know about {x}.", "Tell me something about {x}.", "How would you explain {x}?"),
                *("What can you tell me about {x}?", "Help me understand {x}.", "What's {x}?"),
            ),
        ),
        (
            r"How (?:do|can) I (?P<x>.+)\?",
            (
                *("How to {x}?", "How can I {x}?", "How do I {x}?", "How should I {x}?", "How could I {x}?"),
                *("I want to {x}. How?", "What is the way to {x}?", "How does one {x}?", "Tell me how to {x}."),
            ),
        ),
        (
            r"Can I (?P<x>.+)\?",
            (
                *("Is it possible to {x}?", "Could I {x}?", "Can you {x}?", "Am I able to {x}?", "May I {x}?"),
                *("I want to {x}, is that possible?", "Can one {x}?", "Can we {x}?"),
            ),
        ),
        (
            r"How much (?:memory|VRAM) does (?P<x>.+) (?:need|take|have|use|give)(?P<end>.*)\?",
            (
                *("How many GB does {x} have{end}?", "How much memory has {x}{end}?", "Memory of {x}{end}?"),
                *("How much GPU memory does {x} need{end}?", "What is the memory of {x}{end}?", "VRAM of {x}{end}?"),
                *("What amount of memory does {x} take{end}?", "How much VRAM does {x} use{end}?"),
            ),
        ),
        (r"Which (?P<x>.+)\?", ("What {x}?", "Tell me which {x}.", "Do you know which {x}?")),
        (r"Should I (?P<x>.+)\?", ("Would you {x}?", "Is it better to {x}?", "Is it a good idea to {x}?")),
        (r"Why (?P<x>.+)\?", ("Why {x}?", "Tell me why {x}.", "Do you know why {x}?", "What is the reason, why {x}?")),
        (
            r"Compare (?P<x>.+) and (?P<y>.+)\.",
            ("{x} vs {y}", "What is the difference between {x} and {y}?", "{x} or {y}?", "{y} versus {x}?"),
        ),
        (
            r"What is the difference between (?P<x>.+) and (?P<y>.+)\?",
            ("{x} vs {y}", "Compare {x} with {y}.", "How does {x} differ from {y}?", "{y} or {x}?", "{x} versus {y}"),
        ),
    )
)
SYNONYMS = {
    "GPU": ("graphics card", "card", "gpu"),
    "GPUs": ("graphics cards", "cards", "gpus"),
    "memory": ("VRAM", "GPU memory", "mem"),
    "VRAM": ("memory", "GPU memory", "vram"),
    "model": ("LLM", "language model", "network"),
    "need": ("require", "take", "use"),
    "large": ("big",),
    "big": ("large",),
    "size": ("memory size",),
    "smaller": ("more compact",),
    "compute": ("calculate", "work out"),
    "calculate": ("compute", "work out"),
    "use": ("take", "choose"),
    "work": ("function",),
    "better": ("preferable",),
    "slow": ("so slow", "slower than expected"),
    "fit": ("run", "go"),
    "reduce": ("lower", "cut"),
    "purpose": ("point",),
    "load": ("open",),
    "4-bit": ("4 bit", "4 bits", "four bit"),
    "8-bit": ("8 bit", "8 bits", "eight bit"),
    "quantization": ("quantisation", "quantizing"),
}
GREETINGS = ("please", "hey,", "hi,", "hello,", "ok,", "okay", "so,", "and", "please tell me:", "i would like to know:")
THANKS = ("please", "thanks", "thank you", "pls", "in short", "for a beginner", "exactly", "in simple words")
STOPWORDS = frozenset(("a", "an", "the", "is", "are", "do", "does", "of", "in", "my", "i", "to", "for", "me", "it"))


def reword(ask: str, chance: random.Random) -> str:
    """The same question as somebody else might type it; about one in four stays as it is."""
    if chance.random() < 0.25:
        return ask
    if chance.random() < 0.35:
        ask = reframe(ask, chance)
    words = [_synonym(word, chance) for word in ask.split()]
    if len(words) > 4 and chance.random() < 0.2:
        dropped = [i for i, word in enumerate(words) if word.lower() in STOPWORDS]
        if dropped:
            words.pop(chance.choice(dropped))
    if chance.random() < 0.15:
        long_words = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
        if long_words:
            at = chance.choice(long_words)
            words[at] = mistype(words[at], chance)
    return recase(add_courtesy(" ".join(words), chance), chance)


def reframe(ask: str, chance: random.Random) -> str:
    """The question in another frame: `What is NF4?` becomes `Can you explain NF4?`."""
    for pattern, others in FRAMES:
        if match := pattern.fullmatch(ask):
            return chance.choice(others).format(**match.groupdict())
    return ask


def mistype(word: str, chance: random.Random) -> str:
    """One small slip: two letters swapped, one dropped or one doubled."""
    at = chance.randrange(1, len(word) - 1)
    slips = (
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
    )
    return chance.choice(slips)


def add_courtesy(ask: str, chance: random.Random) -> str:
    """Sometimes a greeting before or a thank-you after, sometimes no full stop or question mark."""
    if chance.random() < 0.3:
        ask = ask.rstrip("?.!") or ask
    if chance.random() < 0.12:
        ask = f"{chance.choice(GREETINGS)} {ask[0].lower()}{ask[1:]}"
    if chance.random() < 0.08:
        ask = f"{ask.rstrip('?.!')}, {chance.choice(THANKS)}{chance.choice(('?', '', '.'))}"
    return ask


def recase(ask: str, chance: random.Random) -> str:
    """Often lower case, seldom upper case."""
    case = chance.random()
    return ask.lower() if case < 0.3 else ask.upper() if case < 0.33 else ask[0].upper() + ask[1:]


def _synonym(word: str, chance: random.Random) -> str:
    """Now and then another word of the same meaning, with the same punctuation behind it."""
    bare = word.rstrip("?.,!")
    if bare not in SYNONYMS or chance.random() > 0.15:
        return word
    return chance.choice(SYNONYMS[bare]) + word[len(bare) :]
