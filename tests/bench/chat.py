"""How much of a bare `generate`'s speed a chat gives, and what a long conversation costs before the first word.

    python -m tests.bench.chat [--tokens 200] [--turns 10] [--rounds 7] [--words 16] [--precision bf16]

Ratios are of figures from one process, taken in turn, on a model of SmolLM2-135M's shape with random weights:

* decoding: tokens per second of a chat ÷ those of `generate` with `TextIteratorStreamer`;
* first token: seconds until the first token of the last turn ÷ those of the first one.

Beside the clock's seconds stand those of the processor that this process used: what others do on the machine meanwhile
moves them less.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, TextIteratorStreamer

from quantspace.runtime.chat import answer
from quantspace.runtime.hands import Work
from quantspace.runtime.job import Job, Message, Sampling, Stats
from quantspace.runtime.loader import LoadedModel, load
from tests.words import only_words, save_word_tokenizer

VOCABULARY = 49152
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def loaded_model(folder: Path, precision: str) -> LoadedModel:
    """A model of 135 M parameters that never ends an answer by itself."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).to(torch.bfloat16).save_pretrained(folder)
    save_word_tokenizer(folder, VOCABULARY)
    *_, loaded = load(Job("bench/135m", "sha", str(folder), precision, 0, 0), [])
    loaded.model.generation_config.eos_token_id = None
    loaded.model.generation_config.suppress_tokens = only_words(VOCABULARY)
    return loaded


def chat(loaded: LoadedModel, messages: list[Message], tokens: int) -> tuple[str, Stats]:
    """The answer to `messages`, and its statistics."""
    crew: list[Work] = []
    *texts, stats = answer(loaded, messages, Sampling(greedy=True, max_new_tokens=tokens), crew)
    crew[0].join()
    return "".join(text.piece for text in texts), stats


def bare(loaded: LoadedModel, message: Message, tokens: int) -> float:
    """Tokens per second, from the first to the last, of `generate` with the streamer that transformers brings."""

    class Timed(TextIteratorStreamer):
        def __init__(self) -> None:
            super().__init__(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True)
            self.times: list[float] = []

        def put(self, value: torch.Tensor) -> None:
            self.times.append(time.monotonic())
            super().put(value)

    streamer = Timed()
    inputs = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": message.content}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    given = {"max_new_tokens": tokens, "do_sample": False, "streamer": streamer, "pad_token_id": 0}
    thread = threading.Thread(target=loaded.model.generate, kwargs={**inputs, **given})
    thread.start()
    for _ in streamer:
        pass
    thread.join()
    _prompt, first, *_, last = streamer.times
    return (tokens - 1) / (last - first)


def decoding(loaded: LoadedModel, tokens: int, rounds: int) -> None:
    question = Message("user", "w100 w200 w300 w400")
    ways = [lambda: chat(loaded, [question], tokens)[1].tokens_per_s, lambda: bare(loaded, question, tokens)]
    ratios, work = [], []
    for i in range(rounds + 1):
        loaded.prefix.drop()
        order = (0, 1) if i % 2 else (1, 0)
        speed, spent = [0.0, 0.0], [0.0, 0.0]
        for way in order:
            before = time.process_time()
            speed[way] = ways[way]()
            spent[way] = time.process_time() - before
        if i:  # the first round warms up
            ratios.append(speed[0] / speed[1])
            work.append(spent[1] / spent[0])
            print(
                f"  chat {speed[0]:6.2f} · generate {speed[1]:6.2f} tokens/s: {ratios[-1]:.3f}"
                f" · processor {spent[0]:.2f} s · {spent[1]:.2f} s: {work[-1]:.3f}",
                flush=True,
            )
    print(f"decoding, ratio of {rounds} rounds (at least 0.97 wanted): median {median(ratios):.3f} by the clock,")
    print(f"  {median(work):.3f} by the processor's seconds (generate ÷ chat)")


def first_tokens(loaded: LoadedModel, turns: int, tokens: int, length: int) -> None:
    """Turns of a conversation; processor seconds are those until the first forward pass is through."""
    ticks: list[float] = []
    handle = loaded.model.register_forward_hook(lambda *_: ticks.append(time.process_time()))

    def timed(messages: list[Message], most: int) -> tuple[str, Stats, float]:
        ticks.clear()
        before = time.process_time()
        return *chat(loaded, messages, most), ticks[0] - before

    loaded.prefix.drop()
    messages: list[Message] = []
    seconds, work = [], []
    for turn in range(turns):
        words = " ".join(f"w{100 + 20 * turn + i}" for i in range(length))
        messages.append(Message("user", words))
        text, stats, spent = timed(messages, tokens)
        messages.append(Message("assistant", text))
        seconds.append(stats.first_token_s)
        work.append(spent)
        print(
            f"  turn {turn + 1:2}: first token after {stats.first_token_s:.3f} s, {spent:.3f} s of the processor,"
            f" {stats.reused_tokens:,} of {stats.prompt_tokens:,} tokens reused",
            flush=True,
        )
    loaded.prefix.drop()
    _, anew, work_anew = timed(messages[:-1], 1)
    handle.remove()
    longest = anew.prompt_tokens - stats.reused_tokens
    floor = forward_seconds(loaded, stats.reused_tokens, longest) / forward_seconds(loaded, 0, longest)
    print(f"first token, turn {turns} ÷ turn 1 (at most 1.5 wanted): {seconds[-1] / seconds[0]:.2f} by the clock,")
    print(f"  {work[-1] / work[0]:.2f} by the processor's seconds; {floor:.2f} for bare forward passes alone")
    print(f"  all read anew it would take {anew.first_token_s:.3f} s, {work_anew / work[0]:.1f} times turn 1's work")


def forward_seconds(loaded: LoadedModel, past: int, new: int, rounds: int = 5) -> float:
    """Processor seconds of one forward pass over `new` tokens after `past` cached ones, by itself: the median."""
    seconds = []
    with torch.inference_mode():
        for _ in range(rounds):
            cache = DynamicCache(config=loaded.model.config)
            if past:
                loaded.model(torch.randint(8, 1000, (1, past)), past_key_values=cache, logits_to_keep=1)
            ids, mask = torch.randint(8, 1000, (1, new)), torch.ones(1, past + new, dtype=torch.long)
            before = time.process_time()
            loaded.model(ids, past_key_values=cache, attention_mask=mask, logits_to_keep=1)
            seconds.append(time.process_time() - before)
    return median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--words", type=int, default=16, help="of each question")
    parser.add_argument("--precision", default="bf16")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        loaded = loaded_model(Path(folder), given.precision)
        print(f"{loaded.readout.device}, {torch.get_num_threads()} threads, {given.precision}")
        if given.rounds:
            decoding(loaded, given.tokens, given.rounds)
        first_tokens(loaded, given.turns, given.tokens, given.words)


if __name__ == "__main__":
    main()
