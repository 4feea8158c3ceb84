"""What a training step holds where no step was watched: formulas over the sizes of layers, on the safe side."""

from __future__ import annotations

from collections import Counter

from ...formula import Formula, Term, counted
from ..inventory import Inventory, TensorSpec
from ..stored import layer_of
from .lora import Adapter
from .workload import FLOAT32, FinetuneWorkload

LOGITS_BYTES = 12  # a logit at the loss: float32 log-probabilities, and two float32 gradients

_LOGITS = Formula("batch * tokens * vocabulary * each", tokens="tokens", vocabulary="logits", each="B")
_LAYERS = Formula("2 * size * batch * tokens * features", size="B", tokens="tokens", features="inputs_and_outputs")
_KEPT = Formula("size * batch * tokens * hidden * layers", size="B", tokens="tokens", layers="layers")
_MASKS = Formula("size * layers * batch * tokens ** 2", size="B", layers="layers", tokens="tokens")
_INPUTS = Formula("size * batch * tokens * features", size="B", tokens="tokens", features="inputs")
_MASKED = "scaled_dot_product_attention turns a mask into numbers to add, at each layer"
_CHECKPOINTS = "2·s·b·h of Korthikanti et al. (arXiv:2205.05198) where values have 2 bytes"
_LOSS = "transformers/loss/loss_utils.py, ForCausalLMLoss, watched with its backward pass"
_ADAPTED = "peft/tuners/lora/layer.py casts inputs to the adapter's float32"
_ASSUMED = (
    "assumed, on the safe side of what watched steps of real architectures hold; 34·s·b·h of Korthikanti et al. "
    "(arXiv:2205.05198), for fused kernels, is less than transformers keeps"
)


def assumed_terms(
    inventory: Inventory, work: FinetuneWorkload, found: tuple[Adapter, ...], gradients: int, sequence: int, batch: int
) -> list[Term]:
    """Gradients, logits and activations at a length and batch, each as large as it gets."""
    step = {"batch": batch, "tokens": sequence}
    vocabulary = {**step, "vocabulary": _vocabulary(inventory), "each": LOGITS_BYTES}
    terms = [
        counted("gradients", gradients, "all of them beside all activations: the safe side"),
        Term("logits and loss", _LOGITS, vocabulary, _LOSS),
    ]
    if work.checkpointing:
        kept = {"size": work.stream_bytes, "hidden": _hidden(inventory), "layers": _layers(inventory)}
        terms.append(Term("inputs of checkpointed layers", _KEPT, {**step, **kept}, _CHECKPOINTS))
    together = _largest_layer if work.checkpointing else _all_layers
    features = {"size": work.stream_bytes, "features": together(_features(inventory))}
    terms.append(Term("activations", _LAYERS, {**step, **features}, _ASSUMED))
    windowed = [layer.count for layer in inventory.cache if layer.window and layer.window < sequence]
    if windowed:
        masks = {"size": work.stream_bytes, "layers": 1 if work.checkpointing else sum(windowed)}
        terms.append(Term("masks of sliding windows", _MASKS, {**step, **masks}, _MASKED))
    if found:
        inputs = {"size": FLOAT32, "features": together(_adapter_features(work, found))}
        terms.append(Term("activations of adapters", _INPUTS, {**step, **inputs}, _ADAPTED))
    return terms


def _adapter_features(work: FinetuneWorkload, found: tuple[Adapter, ...]) -> Counter[str]:
    """What adapters keep a token, by layer: between their factors, and a float32 copy of a 16-bit input."""
    copied = work.stream_bytes < FLOAT32
    features: Counter[str] = Counter()
    for adapter in found:
        features[layer_of(adapter.weight)] += adapter.rank + copied * adapter.columns
    return features


def _features(inventory: Inventory) -> Counter[str]:
    """Inputs plus outputs of the linear layers and norms that a token visits, by layer."""
    features: Counter[str] = Counter()
    for spec in inventory.tensors:
        if spec.role == "linear" and len(spec.shape) == 2:
            features[layer_of(spec.name)] += sum(spec.shape)
        elif spec.role == "norm":
            features[layer_of(spec.name)] += 2 * spec.elements
        elif spec.role == "experts":
            features[layer_of(spec.name)] += max(inventory.experts_per_token, 1) * sum(spec.shape[-2:])
    return features


def _all_layers(features: Counter[str]) -> int:
    return sum(features.values())


def _largest_layer(features: Counter[str]) -> int:
    return max(features.values(), default=0)


def _hidden(inventory: Inventory) -> int:
    return inventory.hidden_size or max((spec.shape[-1] for spec in _embeddings(inventory)), default=1)


def _vocabulary(inventory: Inventory) -> int:
    return inventory.vocab_size or max((spec.shape[0] for spec in _embeddings(inventory)), default=1)


def _embeddings(inventory: Inventory) -> list[TensorSpec]:
    return [spec for spec in inventory.tensors if spec.role == "embedding" and len(spec.shape) == 2]


def _layers(inventory: Inventory) -> int:
    return len(inventory.blocks) or len(_features(inventory))
