"""Of which variants a copy may be kept: what can be saved, what gains by it, and what is nobody else's business."""

from __future__ import annotations

from pathlib import Path

from ..errors import KeepFailed, ModelUnavailable, shorten
from ..hub.client import repo_facts
from ..hub.demo import DEMO_ID
from ..hub.reference import ModelRef
from ..precision import PRECISIONS, label_of
from ..settings import settings
from ..units import gb
from .job import Job, LoadOptions
from .machine import machine

METHODS = ("cast", "int8", "4bit", "torchao")  # of precisions made while loading: others are stored so already
_CLEARLY = 0.9
_NOT_SAVED = {("int4-ao", "cpu"): "torchao cannot save what processors make of it."}  # Int4OpaqueTensor, torchao 0.18


def refusal_to_keep(precision: str, options: LoadOptions) -> KeepFailed | None:
    """Why no copy of such a variant is kept; `None` where one can be."""
    row = PRECISIONS.get(precision)
    if not settings().kept_bytes:
        return KeepFailed("This app keeps no copies.", "Set QUANTSPACE_KEPT_BYTES to more than 0 where you run it.")
    if row is None or row.method not in METHODS:
        label = row.label if row else shorten(precision, 40)
        return KeepFailed(f"{label} is stored so already.", "There is nothing to quantize again: the download is kept.")
    if (precision, device()) in _NOT_SAVED:
        return KeepFailed(f"{row.label}: {_NOT_SAVED[precision, device()]}", "Keep NF4, INT8 or INT8 torchao instead.")
    if options.device_map:
        return KeepFailed(
            "Only a model that is on one device whole is kept.", "Load it without offload, or on one GPU."
        )
    return None


def device() -> str:
    """Where copies are packed and read, which makes a difference to some formats."""
    return "cpu" if machine().card is None else "cuda"


def is_public(model_id: str, sha: str) -> bool:
    """Whether anybody may read a model, as the Hub says now; `False` where it can't be asked."""
    if model_id == DEMO_ID:
        return True
    try:
        facts = repo_facts(ModelRef(model_id, sha))
    except ModelUnavailable:
        return False
    return not facts.private and not facts.gated


def check_may_keep(job: Job) -> bool:
    """Whether the model of a job is public, once it is known that a copy of it may be kept.

    Raises:
        KeepFailed: it may not, with the reason.
    """
    refusal = refusal_to_keep(job.precision, job.options)
    if refusal is not None:
        raise refusal
    if PRECISIONS[job.precision].method == "cast" and not is_smaller(job):
        raise KeepFailed(
            f"The download of {job.model_id} is no larger than a copy at {label_of(job.precision)} would be.",
            "It is on this disk already, and loads as fast.",
        )
    public = is_public(job.model_id, job.sha)
    if settings().on_space and not public:
        raise KeepFailed(
            f"{job.model_id} is not open to everybody, so no copy of it is kept where everybody may visit.",
            "Run the app yourself to keep one.",
        )
    if job.expected_bytes > settings().kept_bytes:
        raise KeepFailed(
            f"The copy would take {gb(job.expected_bytes)}; all copies together may take {gb(settings().kept_bytes)}.",
            "Keep a smaller one, or raise QUANTSPACE_KEPT_BYTES where you run the app yourself.",
        )
    return public


def is_smaller(job: Job) -> bool:
    """Whether a copy would take clearly less than the files that were downloaded."""
    downloaded = sum(path.stat().st_size for path in Path(job.folder).glob("*.safetensors"))
    return job.expected_bytes < _CLEARLY * downloaded
