"""A tokenizer whose tokens are whole words: what a model with random weights says is read again as the same tokens."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

MARKS = ["<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>", "<system>", "<end>"]
TEMPLATE = (
    "<bos> {% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
SPARE = 16  # ids at the end that no word has: models of images keep them for themselves


def word_tokenizer(size: int, template: str = TEMPLATE, **named: tuple[str, int]) -> PreTrainedTokenizerFast:
    """Marks, then the words `w8`, `w9` … up to `size` tokens.

    Args:
        named: more marks, by the name that a processor knows them under: their text and id.
    """
    vocabulary = MARKS + [f"w{i}" for i in range(len(MARKS), size)]
    for text, token in named.values():
        vocabulary[token] = text
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=MARKS[4:],
        extra_special_tokens={name: text for name, (text, _) in named.items()},
    )
    tokenizer.chat_template = template
    return tokenizer


def save_word_tokenizer(folder: Path, size: int) -> None:
    """Write the files of `word_tokenizer` to `folder`."""
    word_tokenizer(size).save_pretrained(folder)


def only_words(size: int) -> list[int]:
    """Ids that an answer must not hold, for `generation_config.suppress_tokens`."""
    return [*range(len(MARKS)), *range(size - SPARE, size)]
