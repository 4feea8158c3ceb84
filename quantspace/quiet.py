"""Silence what libraries print on every load and answer, and nobody can act on."""

from __future__ import annotations

import logging
import warnings
from functools import lru_cache

_NOISE = (
    "MatMul8bitLt: inputs will be cast",
    "Failed to load CPU gemm_4bit_forward from kernels-community",
    "Using a slow image processor",
    "torchao/_C_",  # its kernels for cards that are not here
    "is an Enum subclass and is now natively supported",
)
_LOGGERS = (
    "bitsandbytes.backends.cpu.ops",
    "bitsandbytes.autograd._functions",
    "bitsandbytes",
    "transformers",
    "torchao",
    "torch.utils._pytree",
)


@lru_cache(maxsize=1)
def quiet_libraries() -> None:
    """Drop the known lines; any other warning still shows."""
    for text in _NOISE:
        warnings.filterwarnings("ignore", message=f".*{text}.*")
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(text in message for text in _NOISE)
