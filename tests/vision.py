"""Tiny models that read images, as whole checkpoints: weights, a tokenizer of words, and the processor's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tests.tiny_models import save_tiny
from tests.words import word_tokenizer

VOCABULARY = 512
_TEMPLATE = (
    "<bos> {{% for m in messages %}}<{{{{ m.role }}}}> "
    "{{% if m.content is string %}}{{{{ m.content }}}}{{% else %}}{{% for part in m.content %}}"
    "{{% if part.type == 'image' %}}{mark} {{% else %}}{{{{ part.text }}}}{{% endif %}}{{% endfor %}}{{% endif %}}"
    " <end> {{% endfor %}}{{% if add_generation_prompt %}}<assistant> {{% endif %}}"
)


def _gemma3(folder: Path) -> Any:
    from transformers import Gemma3ImageProcessorPil, Gemma3Processor

    marks = {"image_token": ("<image_soft_token>", 511), "boi_token": ("<boi>", 510), "eoi_token": ("<eoi>", 509)}
    tokenizer = word_tokenizer(VOCABULARY, _TEMPLATE.format(mark="<boi>"), **marks)
    images = Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    return Gemma3Processor(images, tokenizer, tokenizer.chat_template, image_seq_length=4)


def _qwen2_5_vl(folder: Path) -> Any:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil

    from quantspace.runtime.readers import _NoVideos

    ids = {"vision_start_token_id": 508, "vision_end_token_id": 507, "image_token_id": 511, "video_token_id": 510}
    _change(folder / "config.json", **ids)
    marks = {"image_token": ("<|image_pad|>", 511), "video_token": ("<|video_pad|>", 510)}
    frame = {"start": ("<|vision_start|>", 508), "end": ("<|vision_end|>", 507)}
    template = _TEMPLATE.format(mark="<|vision_start|> <|image_pad|> <|vision_end|>")
    tokenizer = word_tokenizer(VOCABULARY, template, **marks, **frame)
    images = Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, min_pixels=28 * 28, max_pixels=16 * 28 * 28)
    images_alone = type("Qwen2_5_VLProcessor", (_NoVideos, Qwen2_5_VLProcessor), {})
    return images_alone(images, tokenizer, None, chat_template=tokenizer.chat_template)


FAMILIES: dict[str, Callable[[Path], Any]] = {"gemma3-vision": _gemma3, "qwen2.5-vl-vision": _qwen2_5_vl}


def save_vision(name: str, folder: Path) -> Path:
    """Write a checkpoint of a model in `FAMILIES` with all that a chat about images needs; returns `folder`."""
    save_tiny(name, folder)
    processor = FAMILIES[name](folder)
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    kind = next(cls for cls in type(processor).__mro__ if cls.__module__.startswith("transformers."))
    _change(folder / "preprocessor_config.json", processor_class=kind.__name__)
    own = {"image_seq_length": processor.image_seq_length} if hasattr(processor, "image_seq_length") else {}
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": kind.__name__, **own}))
    return folder


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (84, 56), **options: Any) -> str:
    """Save a picture in one colour; gives its path."""
    Image.new("RGB", size, colour).save(path, **options)
    return str(path)


def _change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
