"""A few bits a weight: rounded after training, against trained to be rounded. On the demo model, in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..errors import QuantSpaceError
from ..runtime.job import Phase
from .experiments import AS_IS, CONTROL, PTQ, QAT, LowBits, LowBitsResult, Rounded
from .lessons import (
    Batch,
    answer,
    demo_model,
    demo_tokenizer,
    exercises,
    loss_of,
    questions,
    recall,
)
from .recipes import finish_training, is_layer, prepare_for_training, quantize_after_training
from .sizes import held_bytes

RATE = 1e-3  # of learning, at its highest
WARMUP = 5  # steps
QUESTION = "What is NF4?"


class NoTorchao(QuantSpaceError):
    code = "no_torchao"


class _Subject:
    """The questions, and what is written down of a model that was asked them."""

    def __init__(self, asked: LowBits) -> None:
        self.asked = asked
        self.tokenizer: PreTrainedTokenizerFast = demo_tokenizer()
        self.batches: list[Batch] = questions(self.tokenizer, asked.questions)
        self.tokens = sum(int((labels >= 0).sum()) for _, labels in self.batches)

    def state(self, name: str, model: PreTrainedModel) -> Rounded:
        known = recall(model, self.batches)
        return Rounded(name, known.loss, known.right, packed_bytes(model, self.asked.bits), self._answer(model))

    def _answer(self, model: PreTrainedModel) -> str:
        return answer(model, self.tokenizer, QUESTION)


def measure(asked: LowBits) -> Iterator[Phase | LowBitsResult]:
    """The states one after another, and the curve of training as it grows.

    Raises:
        NoTorchao: the package that rounds is not installed.
    """
    refuse_without_torchao()
    yield Phase("Measuring the model as it is")
    subject = _Subject(asked)
    before = subject.state(AS_IS, demo_model())
    result = LowBitsResult(asked.bits, QUESTION, subject.tokens, (before,))
    yield result

    yield Phase(f"Rounding to {asked.bits} bits")
    rounded = quantize_after_training(demo_model(), asked.bits, asked.group)
    held = held_bytes(nn.ModuleList(quantized_layers(rounded)))
    result = replace(result, states=(before, subject.state(PTQ, rounded)), held_bytes=held)
    yield result

    model = prepare_for_training(demo_model(), asked.bits, asked.group)
    began = time.monotonic()
    for step, loss in enumerate(train(model, subject.tokenizer, asked), start=1):
        result = replace(result, curve=(*result.curve, loss), seconds=time.monotonic() - began)
        yield result
        yield Phase("Training with rounded weights, step", step, asked.steps)
    model = finish_training(model, asked.bits, asked.group)
    result = replace(result, states=(*result.states, subject.state(QAT, model)))
    yield result

    if asked.control:
        model = demo_model()
        for step, _ in enumerate(train(model, subject.tokenizer, asked), start=1):
            yield Phase("Training without rounding, for comparison, step", step, asked.steps)
        model = quantize_after_training(model, asked.bits, asked.group)
        state = subject.state(CONTROL, model)
        yield replace(result, states=(*result.states, state))


def train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, asked: LowBits) -> Iterator[float]:
    """Train on the lessons in place; yields the loss of each step. The same seed draws the same lessons."""
    torch.manual_seed(asked.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP) * (1 - step / asked.steps)
    )
    model.train()
    for _, batch in zip(range(asked.steps), exercises(tokenizer, asked.seed, asked.batch), strict=False):
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        yield loss.item()
    model.eval()


def quantized_layers(model: nn.Module) -> list[nn.Module]:
    """The layers whose weights are rounded."""
    return [module for name, module in model.named_modules() if is_layer(module, name)]


def packed_bytes(model: nn.Module, bits: int) -> int:
    """Of the layers' weights: `bits` for each and the scales as they are; of a layer that isn't rounded, as held.

    torchao keeps a byte for each of these integers on a CPU; kernels that read them packed keep `bits`.
    """
    return sum(_packed(layer.weight, bits) for layer in quantized_layers(model))


def _packed(weight: torch.Tensor, bits: int) -> int:
    integers = getattr(weight, "qdata", None)
    if integers is None:
        return 2 * weight.numel()  # the file's bf16
    return -(-integers.numel() * bits // 8) + weight.scale.nbytes


def refuse_without_torchao() -> None:
    """Raises NoTorchao where it can't be imported."""
    try:
        import torchao.quantization.qat  # noqa: F401
    except ImportError as error:
        raise NoTorchao("Rounding to few bits needs torchao, which is not installed.", "pip install torchao") from error
