"""The reference's outputs on disk, between the load of one precision and that of the next.

They are kept as the model gave them: in bfloat16, two bytes of a logit are all there is of it, so nothing is lost and
a model compared with itself differs by exactly 0. (Log-probabilities rounded to float16 would do for a mean: measured
on the demo model they move its KL divergence by 3e-6 at most; but by up to 4e-4 at single tokens.)

    file = (tokens, vocabulary) values of `dtype`, row by row, nothing else
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import torch

from ...errors import MeasurementFailed
from ...units import gb
from .task import StoredLogits

ROOM_ON_DISK = 2**30  # left for everything else


class LogitWriter:
    """Appends rows of logits to a file, at most `max_bytes` of them.

    Raises:
        MeasurementFailed: the disk is full.
    """

    def __init__(self, file: BinaryIO, path: str, max_bytes: int) -> None:
        self._file, self._path, self._max_bytes = file, path, max_bytes
        self.rows = 0
        self._vocabulary, self._dtype = 0, ""

    def capacity(self, logits: torch.Tensor) -> int:
        """How many more rows like these `(tokens, vocabulary)` may be written."""
        free = shutil.disk_usage(Path(self._path).parent).free - ROOM_ON_DISK
        written = self.rows * logits.shape[1] * logits.element_size()
        return max(0, min(self._max_bytes - written, free) // (logits.shape[1] * logits.element_size()))

    def append(self, logits: torch.Tensor) -> None:
        self._vocabulary, self._dtype = logits.shape[1], str(logits.dtype).removeprefix("torch.")
        try:
            self._file.write(logits.contiguous().cpu().view(torch.uint8).numpy().data)
            self._file.flush()
        except OSError as error:
            raise _no_room(error) from error
        self.rows += len(logits)

    def stored(self) -> StoredLogits:
        """What a later task needs in order to read them."""
        return StoredLogits(self._path, self.rows, self._vocabulary, self._dtype)


@contextmanager
def writing(path: str, max_bytes: int) -> Iterator[LogitWriter]:
    """A writer to a new file.

    Raises:
        MeasurementFailed: the file can't be made.
    """
    try:
        file = Path(path).open("wb")  # noqa: SIM115
    except OSError as error:
        raise _no_room(error) from error
    try:
        yield LogitWriter(file, path, max_bytes)
    finally:
        with suppress(OSError):  # what could not be written was told when it was
            file.close()


def mapped(stored: StoredLogits) -> torch.Tensor:
    """All rows, `(tokens, vocabulary)` in the dtype they were given in, read from the disk as they are used.

    Raises:
        MeasurementFailed: the file has gone.
    """
    shape = (stored.tokens, stored.vocabulary)
    try:
        flat = torch.from_file(stored.path, shared=False, size=shape[0] * shape[1], dtype=getattr(torch, stored.dtype))
    except (OSError, RuntimeError) as error:
        raise MeasurementFailed(
            "The reference's outputs are not on the disk any more.", "Run the comparison again."
        ) from error
    return flat.view(shape)


def _no_room(error: OSError) -> MeasurementFailed:
    return MeasurementFailed(
        f"The reference's outputs could not be written to the disk: {error.strerror or error}.",
        f"They take up to {gb(10**9)} for a moment; free some room, or measure on fewer tokens.",
    )
