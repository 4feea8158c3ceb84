"""What turns a conversation into a model's numbers: the tokenizer of a checkpoint, and its processor of images."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from ..errors import LoadFailed, shorten

LOCAL = {"local_files_only": True, "trust_remote_code": False}

_log = logging.getLogger(__name__)


def tokenizer_of(folder: str, model_id: str, **where: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a checkpoint's folder.

    Args:
        where: `gguf_file`, where it is in such a file.

    Raises:
        LoadFailed: there is none, or it can't be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL, **where)
    except Exception as error:  # a broken file raises what its parser raises, down to Rust's panics
        if any(Path(folder).glob("*token*")):
            raise LoadFailed(
                f"The tokenizer of {model_id} can't be read: {type(error).__name__}: {shorten(str(error), 200)}",
                "Its files may be incomplete or broken; try again, or try another model.",
            ) from error
        raise _missing(model_id) from error
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):  # what transformers makes where there are no files
        raise _missing(model_id)
    return tokenizer


def processor_of(folder: str, model: PreTrainedModel) -> Any:
    """What prepares images for `model`, with a chat template that places them; `None` where it reads text alone."""
    kind = model.config.model_type
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return None
    try:
        processor = _processor(folder, kind)
    except Exception as error:  # files of it may be missing or broken, or need packages: text is still answered
        _log.info("no images for %s: %s", folder, error)
        return None
    if getattr(processor, "image_processor", None) is None:
        return None
    if getattr(processor, "chat_template", None) is None:  # older repositories keep it with the tokenizer
        processor.chat_template = processor.tokenizer.chat_template
    return processor if processor.chat_template else None


def _processor(folder: str, kind: str) -> Any:
    """A checkpoint's processor; without its part for videos, where that can't be had: it needs torchvision."""
    try:
        return AutoProcessor.from_pretrained(folder, **LOCAL)
    except (ImportError, ValueError, AttributeError):
        made = getattr(transformers, PROCESSOR_MAPPING_NAMES[kind])
        if "video_processor" not in inspect.signature(made.__init__).parameters:
            raise
        parts = [AutoImageProcessor.from_pretrained(folder, **LOCAL), AutoTokenizer.from_pretrained(folder, **LOCAL)]
        images_alone = type(made.__name__, (_NoVideos, made), {})
        return images_alone(*parts, None, chat_template=parts[1].chat_template)


class _NoVideos:
    """Lets a processor do without the part for videos, which it asks for even if none are ever shown."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor" and argument is None:
            return None
        return super().check_argument_for_proper_class(argument_name, argument)


def _missing(model_id: str) -> LoadFailed:
    return LoadFailed(
        f"{model_id} comes without a tokenizer, so no text can be given to it.",
        "Pick another model: those made from it usually say which one's tokenizer they use.",
    )
