"""A GGUF file through transformers, which unpacks it to 16 bits, and its tokenizer, which is in the file."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GgufConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from .job import Job
from .options import from_pretrained_options

UNPACKED = torch.bfloat16


def file_arguments(job: Job) -> dict[str, Any]:
    """What `from_pretrained` is told beside the folder, of tokenizer and model alike; nothing for other jobs."""
    return {} if job.gguf is None else {"gguf_file": job.gguf.path}


def load_unpacked(job: Job) -> PreTrainedModel:
    """Load the model of a job that names a GGUF file."""
    return AutoModelForCausalLM.from_pretrained(
        job.folder,
        dtype=UNPACKED,
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
        trust_remote_code=False,
        **file_arguments(job),
        **from_pretrained_options(job, None),
    )
