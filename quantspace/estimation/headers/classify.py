"""What each tensor of a checkpoint is for, by its name and shape alone.

Names are those of published models, with and without transformers' own: `model.layers.3.self_attn.q_proj.weight`,
`transformer.h.3.attn.c_attn.weight`, `layers.3.attention.wq.weight`. Where a name tells nothing, a tensor is taken
for what no quantizer replaces.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod

from ..inventory import Role, TensorSpec
from .packing import LogicalTensor
from .plain_config import Numbers

# dtype as safetensors spells it → as `precision.DTYPE_BYTES` does; of those without a name there, one as large.
DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "int16", "I16": "int16", "U32": "int32", "I32": "int32",
    "U64": "int64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F4": "uint8", "F6_E2M3": "uint8", "F6_E3M2": "uint8",
}  # fmt: skip
MAX_ROUTED = 1024  # experts of a layer; a projection of so few outputs beside them is their router

_NUMBERED = re.compile(r"^(?P<stack>.*?)\.(?P<layer>\d+)\.(?P<rest>.+)$")
_EXPERT = re.compile(r"^(?P<stem>.*(?:^|[._])experts)\.(?:expert_)?(?P<number>\d+)\.(?P<leaf>.+)$")
_EXPERTS_NUMBER = re.compile(r"(?<=experts\.)(?:expert_)?\d+\.")
_SHARED = re.compile(r"shared_?experts?|shared_mlp")
_BUFFER = re.compile(
    r"inv_freq|rotary_emb|masked_bias|position_ids|token_type_ids|running_(mean|var)|num_batches_tracked|causal_mask"
    r"|e_score_correction_bias|final_logits_bias|layer_scalar|slope_rate|(query|key|diagonal)_decay$"
)
_POSITIONS = re.compile(r"inv_freq|rotary_emb")  # which classes keep in float32
_EMBEDDING = re.compile(r"embed(?!\w*proj)|^wte$|^wpe$|^shared$|relative_attention_bias|^tok_embd$")
_HEADS = frozenset(
    "lm_head output output_layer embed_out head score classifier classification_head ff_out cls qa_outputs".split()
)
_BACK = frozenset("o_proj down_proj out_proj c_proj dense fc2 w2 wo dense_4h_to_h".split())
_ROUTERS = frozenset("gate router wg gating gate_network".split())
_NORM = re.compile(r"norm|(^|[._])ln(_|\d|$|\.)", re.IGNORECASE)
# Halves that transformers fuses into one parameter, and how it calls the way down (`conversion_mapping.py`).
_UP = (("gate_proj", "up_proj"), ("w1", "w3"))
_DOWN = frozenset(("down_proj", "w2"))


def layer_of(name: str) -> tuple[str, int, str] | None:
    """`model.layers.3.mlp.up_proj.weight` → `model.layers`, 3, `mlp.up_proj.weight`; `None` outside of layers."""
    match = _NUMBERED.match(name)
    if match is None or len(match["layer"]) > 4:
        return None
    return match["stack"], int(match["layer"]), match["rest"]


def distinct(names: Iterable[str]) -> int:
    """How many names there are where those of a layer's experts are one."""
    return len({all_experts(name) for name in names})


def all_experts(name: str) -> str:
    """`layers.3.mlp.experts.7.w1.weight` → `layers.3.mlp.experts.w1.weight`; other names as they are."""
    return _EXPERTS_NUMBER.sub("", name) if "experts." in name else name


def classified(tensors: Iterable[LogicalTensor], numbers: Numbers) -> list[TensorSpec]:
    """The tensors of the unquantized model with their roles, experts of a layer fused as transformers holds them.

    What would be quantized has its `rows`: 2-D weights of linear layers, but no head, no embedding, no router
    and no experts. Names and order are the checkpoint's; a tied head is not among them.
    """
    logical = [tensor for tensor in tensors if not tensor.constant]
    turned = _turned({tensor.name: tensor.shape for tensor in logical})
    widths = {} if all(tensor.shaped for tensor in logical) else _widths(logical, numbers)
    return _with_experts_fused([_spec(tensor, numbers, turned, widths) for tensor in logical])


def _spec(tensor: LogicalTensor, numbers: Numbers, turned: bool, widths: Mapping[str, int]) -> TensorSpec:
    role = role_of(tensor, numbers)
    shape, fixed, transposed = tensor.shape, None, False
    if role == "buffer":
        follows = tensor.floating and not _POSITIONS.search(tensor.name)
        shape, fixed = tensor.stored.shape, None if follows else DTYPES[tensor.stored.dtype]
    if not tensor.shaped and len(shape) == 1:  # no more than its elements are known
        rows = _rows_by_name(tensor, widths)
        shape = (rows, shape[0] // rows)
    if role == "linear":
        transposed = turned and _module(tensor.name) in ("c_attn", "c_proj", "c_fc", "q_attn")
    rows = shape[-1 if transposed else 0] if role == "linear" else 0
    return TensorSpec(tensor.name, shape, role, fixed, rows=rows, transposed=transposed)


def role_of(tensor: LogicalTensor, numbers: Numbers) -> Role:
    """What a tensor is for."""
    name, shape = tensor.name, tensor.shape
    parts = name.split(".")
    leaf, module = parts[-1], _module(name)
    dims = len(shape) if tensor.shaped else 2
    inside = layer_of(name) is not None
    if not tensor.floating or _BUFFER.search(name) or (leaf == "bias" and dims == 4):
        return "buffer"
    if leaf.endswith("bias") and dims < 3:
        return "bias"
    if any(part.endswith("experts") and not _SHARED.search(part) for part in parts[:-1]) and dims in (2, 3):
        return "experts"
    if _NORM.search(module) and dims < 3:
        return "norm"
    if dims == 1:
        return "norm" if leaf == "weight" else "other"
    if dims != 2 or (leaf != "weight" and leaf != "embedding"):
        return "other"
    if not inside and module in _HEADS:
        return "head"
    if _EMBEDDING.search(module) or leaf == "embedding" or module in ("wte", "wpe"):
        return "embedding"
    if not inside and tensor.shaped and numbers.vocabulary and shape[0] == numbers.vocabulary:
        return "embedding"
    if inside and module in _ROUTERS and tensor.shaped and shape[0] <= MAX_ROUTED and shape[0] < shape[1]:
        return "other"
    return "linear"


def _module(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` → `up_proj`."""
    return name.rpartition(".")[0].rpartition(".")[2]


def _turned(shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether linear layers are held as [in, out] (GPT-2's `Conv1D`): the biases tell, being as long as the outputs."""
    for name, shape in shapes.items():
        if name.endswith(("c_attn.weight", "c_fc.weight")) and len(shape) == 2 and shape[0] != shape[1]:
            bias = shapes.get(f"{name[:-6]}bias")
            if bias is not None:
                return bias == (shape[1],)
    return False


def _widths(tensors: Sequence[LogicalTensor], numbers: Numbers) -> dict[str, int]:
    """Stack of layers → its hidden size, by the norms that stand in its layers themselves; of all others under "".

    That is the config's, else the embeddings' last dimension; nothing stands there where neither tells.
    """
    norms: dict[str, Counter[int]] = {}
    embedded: dict[int, int] = {}
    for tensor in tensors:
        if not tensor.shaped:
            continue
        where, role = layer_of(tensor.name), role_of(tensor, numbers)
        if where is not None and role == "norm" and where[2].count(".") == 1 and len(tensor.shape) == 1:
            norms.setdefault(where[0], Counter())[tensor.shape[0]] += 1
        elif where is None and role == "embedding":
            embedded[prod(tensor.shape)] = tensor.shape[-1]
    width = numbers.hidden or (embedded[max(embedded)] if embedded else None)
    found = {stack: sizes.most_common(1)[0][0] for stack, sizes in norms.items()}
    return found | {"": width} if width else found


def _rows_by_name(tensor: LogicalTensor, widths: Mapping[str, int]) -> int:
    """Output features of a weight of which only the elements are known: what leads back has the hidden size.

    1 where that does not tell them (`geometry.py` believes no projection to be so narrow).
    """
    (elements,) = tensor.shape
    where = layer_of(tensor.name)
    hidden = widths.get(where[0] if where else "") or widths.get("", 0)
    if not hidden or not elements or elements % hidden:
        return 1
    return hidden if _module(tensor.name) in _BACK else elements // hidden


def _with_experts_fused(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Experts held one by one, as one parameter for all of a layer where their shapes are alike."""
    apart: dict[tuple[str, str], list[TensorSpec]] = {}
    found: list[TensorSpec | tuple[str, str]] = []
    for spec in specs:
        match = _EXPERT.match(spec.name) if spec.role in ("experts", "bias") else None
        if match is None or _SHARED.search(match["stem"].rpartition(".")[2]):
            found.append(spec)
            continue
        key = (match["stem"], match["leaf"])
        if key not in apart:
            found.append(key)
        apart.setdefault(key, []).append(spec)
    plain: list[TensorSpec] = []
    for item in found:
        plain.extend((item,) if isinstance(item, TensorSpec) else _stacked(item, apart[item]))
    return _halves_joined(plain)


def _stacked(key: tuple[str, str], members: list[TensorSpec]) -> list[TensorSpec]:
    stem, leaf = key
    if len({spec.shape for spec in members}) > 1:
        return members
    name = leaf.removesuffix(".weight")
    name = "down_proj" if name in _DOWN else name
    return [replace(members[0], name=f"{stem}.{name}", shape=(len(members), *members[0].shape), rows=0)]


def _halves_joined(specs: list[TensorSpec]) -> list[TensorSpec]:
    """The way up and its gate as one parameter, as transformers fuses them."""
    by_name = {spec.name: spec for spec in specs if spec.role == "experts" and len(spec.shape) == 3}
    gone: set[str] = set()
    joined: dict[str, TensorSpec] = {}
    for name, spec in by_name.items():
        stem, _, leaf = name.rpartition(".")
        for gate, up in _UP:
            other = by_name.get(f"{stem}.{up}")
            if leaf == gate and other is not None and other.shape == spec.shape:
                experts, rows, columns = spec.shape
                joined[name] = replace(spec, name=f"{stem}.gate_up_proj", shape=(experts, 2 * rows, columns))
                gone.add(other.name)
    return [joined.get(spec.name, spec) for spec in specs if spec.name not in gone]
