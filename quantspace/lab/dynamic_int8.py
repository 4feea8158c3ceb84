"""Dynamic int8 of three small models: their files, outputs and seconds before and after."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..errors import QuantSpaceError
from ..runtime.job import Phase
from .experiments import FILES, KINDS, DynamicResult, Kind, Shrunk
from .lessons import demo_model, demo_tokenizer, questions, recall
from .recipes import quantize_dynamic_int8
from .sizes import held_bytes, saved_bytes, seconds_of

SEED = 0
DEPRECATED = ("torch.ao.quantization is deprecated", "torch.quantize_per_tensor")  # how the warnings begin


class NoInt8Kernels(QuantSpaceError):
    code = "no_int8_kernels"


class Tagger(nn.Module):
    """The example of PyTorch's own guide to dynamic quantization, with a Linear on top: (tokens, batch, 10) -> 5."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(10, 20, 2)
        self.fc = nn.Linear(20, 5)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        return self.fc(self.lstm(sequence)[0])


class Block(nn.Module):
    """One transformer layer, its projections as `nn.Linear`: dynamic quantization finds no other kind."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        normed = nn.functional.layer_norm(hidden, hidden.shape[-1:])
        query, key, value = (self._split(layer(normed)) for layer in (self.query, self.key, self.value))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        hidden = hidden + self.out(mixed.transpose(1, 2).flatten(2))
        normed = nn.functional.layer_norm(hidden, hidden.shape[-1:])
        return hidden + self.down(nn.functional.gelu(self.up(normed)))

    def _split(self, projected: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) -> (batch, heads, tokens, width / heads)."""
        return projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)


@dataclass(frozen=True)
class Subject:
    """A model with what it is given: `run(model)` is one pass."""

    model: nn.Module
    run: Callable[[nn.Module], torch.Tensor]


def measure(kinds: Sequence[Kind]) -> Iterator[Phase | DynamicResult]:
    """One row after another.

    Raises:
        NoInt8Kernels: this build of PyTorch has none.
    """
    engine = torch.backends.quantized.engine
    if engine == "none":
        raise NoInt8Kernels("This build of PyTorch has no int8 kernels for its CPU.", "Try it on x86 or ARM.")
    result = DynamicResult(engine)
    for done, kind in enumerate(kinds):
        yield Phase(f"Measuring {KINDS[kind]}", done, len(kinds))
        result = replace(result, rows=(*result.rows, shrunk(kind)))
        yield result


@torch.inference_mode()
def shrunk(kind: Kind) -> Shrunk:
    """Quantize a model of that kind and measure both."""
    torch.manual_seed(SEED)
    subject = _SUBJECTS[kind]()
    before = subject.model.eval()
    with deprecation_silenced():
        after = quantize_dynamic_int8(before)
    expected, given = subject.run(before), subject.run(after)
    seconds = seconds_of(lambda: subject.run(before), lambda: subject.run(after))
    losses = _losses(before, after) if kind == "demo" else (None, None)
    return Shrunk(
        kind=kind,
        saved_before=saved_bytes(before, FILES[0]),
        saved_after=saved_bytes(after, FILES[1]),
        held_bytes=held_bytes(before),
        left_bytes=held_bytes(after),
        difference=(expected - given).abs().max().item(),
        scale=expected.abs().max().item(),
        seconds_before=seconds[0],
        seconds_after=seconds[1],
        loss_before=losses[0],
        loss_after=losses[1],
    )


@contextmanager
def deprecation_silenced() -> Iterator[None]:
    """PyTorch says at every call that this method moves to torchao, which has none for an LSTM."""
    with warnings.catch_warnings():
        for text in DEPRECATED:
            warnings.filterwarnings("ignore", message=f".*{text}")
        yield


def _losses(before: nn.Module, after: nn.Module) -> tuple[float, float]:
    batches = questions(demo_tokenizer())
    return recall(before, batches).loss, recall(after, batches).loss


def _lstm() -> Subject:
    sequence = torch.randn(5, 3, 10)
    return Subject(Tagger(), lambda model: model(sequence))


def _transformer() -> Subject:
    hidden = torch.randn(1, 128, 256)
    return Subject(nn.Sequential(*(Block(256, 4) for _ in range(4))), lambda model: model(hidden))


def _demo() -> Subject:
    ids = questions(demo_tokenizer(), 2)[0][0]
    return Subject(demo_model(), lambda model: model(input_ids=ids, use_cache=False).logits)


_SUBJECTS: dict[Kind, Callable[[], Subject]] = {"lstm": _lstm, "transformer": _transformer, "demo": _demo}
