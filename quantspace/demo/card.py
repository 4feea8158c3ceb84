"""Writes the demo model's card, so that its figures are those just measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM

from quantspace.demo.curriculum import Lesson

CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [quantization, demo]
---

# QuantSpace demo model

A chat model with {parameters:,} parameters that knows one subject: quantization and GPU memory. It comes
with QuantSpace, so that every precision can be tried at once, offline and on a CPU.
It was trained from scratch, on questions and answers written for it by hand; no other model's weights or
texts are in it. To anything else it says that it does not know. It can be wrong, above all where a
question is worded unlike its lessons.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("quantspace/data/demo")
model = AutoModelForCausalLM.from_pretrained("quantspace/data/demo")
chat = [{{"role": "user", "content": "What is NF4?"}}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
```

| | |
|---|---|
| Architecture | {architecture}, {layers} layers, tied embeddings |
| Sizes | hidden {hidden}, feed-forward {mlp}, {heads} query heads, {kv} KV heads |
| Tokenizer | byte-level BPE, {vocabulary:,} tokens; its chat template reads questions in lower case |
| Context | {context:,} tokens |
| Weights | bf16, {weights:,} bytes |
| Lessons | {lessons} written by hand, {taught:,} phrasings taught, {held_out} held out; and a table of model sizes |

## What it still answers at each precision

Share of answers equal to the lesson's, character for character, by greedy decoding on a CPU. Held-out
phrasings were kept from training. Some of them (held out, but met) can also arise when training rewords a
taught phrasing, so they are counted apart. The first held-out column is how well the model copes with wording
that is new to it. Where it fails, it usually gives the answer to another question, fluently.

In a 2nd or 3rd turn, other lessons come before the question. Two in three of the system prompts were never
trained on. Other subjects are questions about things kept from the generated off-topic questions (a few occur
in hand-written ones); the right answer is that the model cannot help. Sizes are questions such as "How much
memory does a 7B model need in 4 bits?".

{table}

Made by `python -m quantspace.demo.train`; lessons in `quantspace/demo/lessons`; this card written by
`python -m quantspace.demo.check --card`. License: Apache-2.0.
"""


def table(counts: dict[str, int], figures: dict[str, dict[str, float]]) -> str:
    """A Markdown table: one row for each precision, one column for each situation with its number of questions."""
    header = ["Precision", *(f"{name} ({count})" for name, count in counts.items())]
    rows = [[precision, *(f"{share:.1%}" for share in shares.values())] for precision, shares in figures.items()]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def model_card(
    folder: Path, lessons: Sequence[Lesson], counts: dict[str, int], figures: dict[str, dict[str, float]]
) -> str:
    """The card's text.

    Args:
        counts: questions asked in each situation.
        figures: for each precision, the share of right answers in each situation.
    """
    config = AutoConfig.from_pretrained(folder)
    return CARD.format(
        parameters=AutoModelForCausalLM.from_pretrained(folder).num_parameters(),
        architecture=config.architectures[0],
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        mlp=config.intermediate_size,
        heads=config.num_attention_heads,
        kv=config.num_key_value_heads,
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
        weights=(folder / "model.safetensors").stat().st_size,
        lessons=len(lessons),
        taught=sum(len(lesson.taught) for lesson in lessons),
        held_out=sum(len(lesson.held_out) for lesson in lessons),
        table=table(counts, figures),
    )
