"""Pruning, in bytes and in loss: one layer through all its states, then the demo model over several sparsities."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedModel

from ..runtime.job import Phase
from .experiments import LayerState, PrunedModel, Pruning, PruningResult
from .lessons import Batch, demo_model, demo_tokenizer, questions, recall
from .recipes import prune_rows, prune_unstructured, shrink_feed_forward, without_rows
from .sizes import held_bytes, nonzero_share, saved_bytes, seconds_of

TOKENS = 256  # that one pass through the layer reads
SEED = 0


class CsrLinear(nn.Module):
    """A linear layer whose weight is kept as its nonzero values, with an index for each."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*CSR tensor support is in beta")
            self.register_buffer("weight", _compact(layer.weight.detach().to_sparse_csr()))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return (self.weight @ hidden.T).T


def measure(asked: Pruning) -> Iterator[Phase | PruningResult]:
    """The layer's states, then a point of the curve for each sparsity."""
    sparsities = sorted(set(asked.sparsities))
    total = len(sparsities) + 1
    yield Phase("Pruning one layer", 0, total)
    model, batches = demo_model(), questions(demo_tokenizer(), asked.questions)
    layer = feed_forwards(model)[0].gate_proj
    states = tuple(layer_states(layer, asked.layer_sparsity))
    known = recall(model, batches)
    shape = (layer.out_features, layer.in_features)
    result = PruningResult(
        asked.layer_sparsity, shape, states, known.loss, known.right, held_bytes(model), known.tokens
    )
    yield result
    for done, sparsity in enumerate(sparsities, start=1):
        yield Phase(f"Measuring the loss with {sparsity:.0%} pruned", done, total)
        result = replace(result, models=(*result.models, pruned(model, sparsity, batches)))
        yield result


@torch.inference_mode()
def layer_states(original: nn.Linear, sparsity: float) -> Iterator[LayerState]:
    """The layer as it is, then pruned in each way."""
    layers = {name: (make(original, sparsity), note) for name, make, note in _STATES}
    hidden = torch.randn(TOKENS, original.in_features, generator=torch.Generator().manual_seed(SEED))
    seconds = seconds_of(*(_pass(layer, hidden) for layer, _ in layers.values()))
    for (name, (layer, note)), taken in zip(layers.items(), seconds, strict=True):
        yield LayerState(name, held_bytes(layer), saved_bytes(layer, "w.pt"), _nonzero(layer), taken, note)


@torch.inference_mode()
def pruned(model: PreTrainedModel, sparsity: float, batches: Sequence[Batch]) -> PrunedModel:
    """The model with that share of its feed-forward weights pruned, both ways; `model` stays as it is."""
    scattered, rows = copy.deepcopy(model), copy.deepcopy(model)
    for mlp in feed_forwards(scattered):
        for layer in (mlp.gate_proj, mlp.up_proj, mlp.down_proj):
            prune_unstructured(layer, sparsity)
    for mlp in feed_forwards(rows):
        prune_rows(mlp.gate_proj, sparsity)
        shrink_feed_forward(mlp)
    known, rebuilt = recall(scattered, batches), recall(rows, batches)
    return PrunedModel(
        sparsity=sparsity,
        loss_scattered=known.loss,
        loss_rebuilt=rebuilt.loss,
        right_scattered=known.right,
        right_rebuilt=rebuilt.right,
        held_zeroed=held_bytes(scattered),
        held_rebuilt=held_bytes(rows),
    )


def feed_forwards(model: PreTrainedModel) -> list[nn.Module]:
    """The feed-forward part of every layer."""
    return [layer.mlp for layer in model.model.layers]


def _compact(weight: torch.Tensor) -> torch.Tensor:
    """A CSR matrix with indices of 4 bytes; as PyTorch converts it, it holds 16 bytes of them for every value."""
    rows, columns = (indices.to(torch.int32) for indices in (weight.crow_indices(), weight.col_indices()))
    return torch.sparse_csr_tensor(rows, columns, weight.values(), weight.shape, check_invariants=True)


def _pass(layer: nn.Module, hidden: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: layer(hidden)


def _nonzero(layer: nn.Module) -> float:
    weight = layer.weight
    return weight.values().numel() / weight.numel() if weight.layout == torch.sparse_csr else nonzero_share(weight)


def _scattered(layer: nn.Linear, sparsity: float, permanent: bool = True) -> nn.Linear:
    layer = copy.deepcopy(layer)
    prune_unstructured(layer, sparsity, permanent)
    return layer


def _masked(layer: nn.Linear, sparsity: float) -> nn.Linear:
    layer = _scattered(layer, sparsity, permanent=False)
    layer(torch.zeros(1, layer.in_features))
    return layer


def _rows(layer: nn.Linear, sparsity: float) -> nn.Linear:
    layer = copy.deepcopy(layer)
    prune_rows(layer, sparsity)
    return layer


_STATES: tuple[tuple[str, Callable[[nn.Linear, float], nn.Module], str], ...] = (
    ("as it is", lambda layer, _: copy.deepcopy(layer), ""),
    ("unstructured, mask held", _masked, "l1_unstructured: the exact weight, its mask, and at each pass their product"),
    ("unstructured, permanent", _scattered, "prune.remove: the zeros are kept as numbers"),
    ("unstructured, as CSR", lambda layer, s: CsrLinear(_scattered(layer, s)), "each value with an index of 4 B"),
    ("structured, rows zeroed", _rows, "ln_structured: the rows are there, full of zeros"),
    ("structured, rebuilt smaller", lambda layer, s: without_rows(_rows(layer, s)), "the rows are gone"),
)
