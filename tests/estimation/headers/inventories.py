"""Inventories without a class, as the tests here make them, and what is asked of each."""

from math import prod

from quantspace.estimation.headers import inventory_from_headers
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.estimation.weights import weight_bytes
from quantspace.hub.client import RepoFacts
from quantspace.hub.reference import ModelRef
from quantspace.hub.safetensors_headers import BITS, HeaderTensor, StoredHeader
from quantspace.precision import DTYPE_BYTES, PRECISIONS
from tests.bench.sparse_checkpoint import published_tensors

CONTEXT = 8192
WHY = "transformers does not know this architecture."


def facts(files=None, **told):
    return RepoFacts(ModelRef("org/name"), "0" * 40, files or {}, **told)


def header(tensors, path="model.safetensors"):
    """A header of tensors: name → (dtype, shape)."""
    rows = sorted(tensors.items())
    return StoredHeader(
        path, tuple(HeaderTensor(n, dtype, tuple(shape), prod(shape) * BITS[dtype] // 8) for n, (dtype, shape) in rows)
    )


def from_tensors(tensors, config=None, **told):
    return inventory_from_headers(facts(**told), [header(tensors)], config, WHY)


def both(config):
    """The inventory from the headers of a checkpoint of this config, and that from its class."""
    return from_tensors(published_tensors(config), config), inventory_from_config(config, "org/name")


def held(inventory, precision):
    return weight_bytes(inventory, PRECISIONS[precision]).held


def buffers(inventory):
    """Bytes of what a class adds to its checkpoint."""
    kept = (t for t in inventory.tensors if t.role == "buffer" and t.tied_to is None)
    return sum(t.elements * DTYPE_BYTES[t.dtype_under("bfloat16")] for t in kept)


def decoder(layers, hidden=8, kept=8, attention="self_attn", names=("q_proj", "k_proj", "v_proj", "o_proj")):
    """Tensors of a decoder of a shape of one's own; `names` are those of its projections."""
    tensors = {"embed_tokens.weight": ("BF16", (32, hidden)), "norm.weight": ("BF16", (hidden,))}
    for layer in range(layers):
        stem = f"layers.{layer}.{attention}"
        rows = {"k_proj": kept, "v_proj": kept}
        tensors |= {f"{stem}.{name}.weight": ("BF16", (rows.get(name, hidden), hidden)) for name in names}
        tensors[f"layers.{layer}.mlp.up_proj.weight"] = ("BF16", (4 * hidden, hidden))
    return tensors
