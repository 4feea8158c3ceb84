"""Trains the demo model from scratch and writes it as a folder that `from_pretrained` loads.

    python -m quantspace.demo.train --out quantspace/data/demo

For: making a tiny chat model that answers what `lessons/` teaches at every precision, 4 bits included.
Not for: models that should know anything else, GPUs, or resuming. It runs on a CPU in under half an
hour; with the same seed, thread count and library versions it writes the same weights.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from quantspace.demo.conversations import IGNORED, SYSTEM_PROMPTS, Conversations
from quantspace.demo.curriculum import Lesson, read_lessons
from quantspace.demo.off_topic import off_topic_lesson
from quantspace.demo.rounding import levels, rounded
from quantspace.demo.sizes import size_lessons
from quantspace.demo.tokenizer import LONGEST, VOCABULARY, as_asked, train_tokenizer
from quantspace.demo.wording import reword

OUT = Path(__file__).parents[1] / "data" / "demo"
SIZE_SHARE = 0.2  # of the training questions, those from sizes.py
WARMUP = 100  # steps
LONGEST_ANSWER = 256  # tokens a chat may generate unless it asks for more


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1700, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=3072, help="tokens per step (default: %(default)s)")
    parser.add_argument("--rounding-from", type=float, default=0.4, help="share of the steps before 4-bit rounding")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with 3.5 million random weights; every linear size is a multiple of 64, as 4-bit blocks need."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def texts(lessons: list[Lesson], chance: random.Random) -> Iterator[str]:
    """What the tokenizer learns its merges from: answers, questions as written and reworded, system prompts."""
    for lesson in lessons:
        yield lesson.answer
        for ask in lesson.taught:
            yield as_asked(ask)
            yield as_asked(reword(ask, chance))
    yield from SYSTEM_PROMPTS


def question_weights(taught: list[Lesson], sizes: list[Lesson]) -> list[float]:
    """How often each lesson comes up: by the root of its phrasings, with a fixed share for the sizes."""
    by_hand = [len(lesson.taught) ** 0.5 for lesson in taught]
    share = SIZE_SHARE / (1 - SIZE_SHARE) * sum(by_hand) / len(sizes)
    return by_hand + [share] * len(sizes)


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = linear_weights(model)
    chosen = {id(weight) for weight in matrices}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=3e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def linear_weights(model: LlamaForCausalLM) -> list[torch.nn.Parameter]:
    """The weights that bitsandbytes would quantize: all linear layers but the tied output head."""
    return [module.weight for module in model.model.modules() if isinstance(module, torch.nn.Linear)]


def learning_rate(progress: float, step: int) -> float:
    """The factor on the base rate: a short warmup, then a straight line to (nearly) zero."""
    return min(1.0, (step + 1) / WARMUP) * max(0.01, 1 - progress)


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the assistant's tokens; only their positions go through the output head."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    targets = labels[:, 1:]
    learned = targets != IGNORED
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.lm_head(hidden[learned])
    return cross_entropy(logits.float(), targets[learned])


def fit(model: LlamaForCausalLM, conversations: Conversations, args: argparse.Namespace) -> None:
    """Runs the training steps; the last part sees weights rounded to nf4, to fp4, or exact, in turn."""
    weights, steppers = linear_weights(model), optimizers(model)
    base = [stepper.param_groups[0]["lr"] for stepper in steppers]
    codes = (levels("nf4"), levels("fp4"), levels("fp4"), None)
    start, running = time.monotonic(), 0.0
    model.train()
    for step, (ids, labels) in enumerate(conversations.batches(args.tokens)):
        if step == args.steps:
            break
        progress = step / args.steps
        for stepper, rate in zip(steppers, base, strict=True):
            stepper.param_groups[0]["lr"] = rate * learning_rate(progress, step)
        code = codes[step % len(codes)] if progress > args.rounding_from else None
        with rounded(weights, code):
            loss = loss_of(model, ids, labels)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step:5d}  loss {running:.4f}  {time.monotonic() - start:6.0f} s", flush=True)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes bf16 weights, configuration and tokenizer."""
    model.to(torch.bfloat16).eval()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=LONGEST_ANSWER,
        do_sample=False,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Trains and saves."""
    args = arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    chance = random.Random(args.seed)
    taught, sizes = read_lessons(), size_lessons()
    tokenizer = train_tokenizer(texts([*taught, *sizes[:: len(sizes) // 20]], chance))
    taught.append(off_topic_lesson())
    model = new_model(tokenizer)
    print(f"{len(taught)} lessons, {len(sizes)} sizes, {model.num_parameters():,} parameters", flush=True)
    conversations = Conversations([*taught, *sizes], question_weights(taught, sizes), tokenizer, chance)
    fit(model, conversations, args)
    save(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
