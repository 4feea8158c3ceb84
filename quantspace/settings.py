"""Limits and defaults, read once from the environment.

Every setting is `QUANTSPACE_<NAME>` in upper case. What belongs to the Hub client (endpoint, token,
offline mode, cache folder) is left to huggingface_hub and its own variables.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from functools import lru_cache


@dataclass(frozen=True)
class Settings:
    """All limits of the app. Sizes in bytes, times in seconds."""

    default_gpu: str = "t4"
    default_context: int = 8192
    max_context: int = 100_000_000  # tokens asked for; past this a request is a typing error
    max_batch: int = 4096
    max_gpu_count: int = 8
    max_images: int = 1000
    max_config_bytes: int = 16 * 2**20  # of a config.json that is fetched
    hub_timeout: float = 4.0  # for an answer about a model, and for each next byte of a file
    fetch_seconds: float = 20.0  # for one small file or one part of a large one
    max_download_bytes: int = 40 * 10**9  # a Space's disk holds 50 GB
    max_new_tokens: int = 2048
    max_chat_images: int = 8  # in one conversation; each is read anew with every turn
    max_image_bytes: int = 20 * 2**20  # of a file in a chat
    max_image_pixels: int = 2**20  # an image with more is made smaller: Qwen2.5-VL makes a token of 784
    max_prompt_characters: int = 400_000  # about 100,000 tokens of a conversation
    inventory_cache_entries: int = 256  # in memory, of what comes with the app
    inventory_cache_tensors: int = 2_000_000  # in memory, of the Hub's models together; each at least 2,000
    store_folder: str = ""  # of inventories on disk; empty: beside the Hub's cache
    store_entries: int = 4000
    store_bytes: int = 256 * 2**20
    kept_folder: str = ""  # of quantized copies on disk; empty: beside the Hub's cache
    kept_bytes: int = 20 * 10**9  # of all of them; the least recently used goes first, and 0 keeps none
    engines: str = ""  # that speak OpenAI's protocol: `name = https://host/v1 [model]`, several apart by `;`
    engine_key: str = field(default="", repr=False)  # sent to all of them
    engine_timeout: float = 120.0  # for the next piece of an answer: an engine may load a model first
    benchmark_folder: str = ""  # of tasks of lm-eval's own kind, beside those that it brings
    benchmark_tasks: str = ""  # which of them are offered, apart by spaces
    gpu_seconds_min: int = 15  # clamp of what is asked of ZeroGPU a call
    gpu_seconds_max: int = 60

    @property
    def on_space(self) -> bool:
        """Whether this is a Hugging Face Space, where anybody may visit."""
        return "SPACE_ID" in os.environ


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process.

    Raises:
        ValueError: a variable holds something that is not a number where one is wanted.
    """
    given = {}
    for limit in fields(Settings):
        text = os.environ.get(f"QUANTSPACE_{limit.name.upper()}")
        if text is not None:
            given[limit.name] = type(limit.default)(text)
    return Settings(**given)
