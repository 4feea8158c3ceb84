"""What an answer leaves out of a model that does not generate text: told from what the Hub and its config say."""

from __future__ import annotations

from ...errors import shorten
from ...hub.client import RepoFacts

_GENERATING = frozenset(
    "text-generation image-text-to-text any-to-any text2text-generation conversational audio-text-to-text "
    "video-text-to-text visual-question-answering document-question-answering summarization translation "
    "image-to-text".split()
)
# Libraries whose models generate no text by a decoder's cache.
_LIBRARIES = frozenset(
    "diffusers sentence-transformers timm open_clip setfit spacy flair fasttext espnet speechbrain pyannote-audio nemo "
    "ultralytics stable-baselines3 tf-keras".split()
)
_CLASSES = tuple(
    "ForMaskedLM ForSequenceClassification ForTokenClassification ForQuestionAnswering ForImageClassification "
    "ForObjectDetection ForSemanticSegmentation ForPreTraining ForCTC ForAudioClassification ForMaskedImageModeling "
    "ForSpeechSeq2Seq ForRewardModel".split()
)


def left_out(facts: RepoFacts, architecture: str = "") -> str:
    """What is not counted of a model that does something else than generate text; empty where it generates.

    A model of which nothing is said is taken to generate: its cache is then counted.

    Args:
        architecture: the class that its config names.
    """
    task = facts.task
    if task is None and facts.library in _LIBRARIES:
        task = facts.library
    named_model = architecture.endswith("Model") and not architecture.endswith("HeadModel")
    if task is None and (architecture.endswith(_CLASSES) or named_model):
        return f"Weights only: what a pass of {shorten(architecture)} takes is not counted."
    if task is None or task in _GENERATING:
        return ""
    return f"Weights only: what a pass of a model for {shorten(task.replace('-', ' '))} takes is not counted."
