"""Which adapters PEFT adds to a model, and their parameters: `get_peft_model` in arithmetic.

Follows PEFT 0.21: `peft/tuners/tuners_utils.py` (which modules a target names), `peft/tuners/lora/layer.py`
(shapes), `peft/utils/constants.py` (defaults) and `peft/utils/transformers_weight_conversion.py`: for families
whose experts were linear layers before transformers 5, PEFT turns their names into adapters on the fused
experts and on the router.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ...errors import BadWorkload, shorten
from ..inventory import Inventory, TensorSpec

ATTENTION = "attention"
ALL_LINEAR = "all-linear"
Targets = str | tuple[str, ...]

# Names of query and value projections, fused ones included; the first row that a model has all of counts.
_QUERY_VALUE = (
    ("q_proj", "v_proj"), ("q", "v"), ("query", "value"), ("c_attn",), ("query_key_value",), ("Wqkv",),
    ("qkv_proj",), ("q_b_proj", "kv_b_proj"), ("q_proj", "kv_b_proj"), ("att_proj",), ("attn_qkv",), ("qkv",),
)  # fmt: skip
# Where PEFT's default is more than that (`TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING`).
_DEFAULTS = {
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "nemotronh": ("q_proj", "k_proj", "v_proj", "o_proj"),
}
_TEXT_ONLY = frozenset({"gemma4"})  # PEFT's default leaves the towers of these alone

# What linear layers of a fused family were called, and the parameter that holds them now.
_MIXTRAL = {"gate": "gate.weight", "w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"}
_QWEN2_MOE = {
    "gate": "gate.weight", "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj",
}  # fmt: skip
_FUSED_FAMILIES = {
    **dict.fromkeys(("mixtral", "minimax", "minimaxm2"), _MIXTRAL),
    **dict.fromkeys(
        "afmoe deepseekv2 deepseekv3 deepseekv32 dots1 ernie45moe glm4moe glm4moelite glmmoedsa glm4vmoe "
        "longcatflash solaropen mellum qwen3moe beam qwen3omnimoe qwen3omnimoethinker qwen3omnimoetext qwen3next "
        "hunyuanv1moe hunyuanmoev1 flexolmo olmoe exaonemoe cohere2moe".split(),
        _QWEN2_MOE,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Adapter:
    """Two factors beside one weight.

    Attributes:
        weight: name of the weight.
        rank: of the factors; of fused experts, rank × experts.
        columns: inputs of the weight.
        rows: its outputs.
        merged: elements of the copy of the weight into which PEFT adds the factors at each use: of a
            parameter that is not a linear layer's (`ParamWrapper`); 0 elsewhere.
    """

    weight: str
    rank: int
    columns: int
    rows: int
    merged: int = 0

    @property
    def tensors(self) -> tuple[int, int]:
        """Elements of its two factors."""
        return self.rank * self.columns, self.rank * self.rows

    @property
    def parameters(self) -> int:
        return sum(self.tensors)


def adapters(inventory: Inventory, targets: Targets, rank: int) -> tuple[Adapter, ...]:
    """The adapters that `get_peft_model` adds, in the model's order.

    Args:
        targets: `attention` (PEFT's default where it has one, else the query and value projections),
            `all-linear` (every linear layer but the output head), or names of modules as PEFT takes them.

    Raises:
        BadWorkload: no layer is called so.
    """
    modules, fused = _resolve(inventory, targets)
    found = [_on_linear(spec, rank) for spec in _matching(inventory, targets, modules)]
    for name in sorted(set(fused.values())):
        twice = sum(new == name for new in fused.values())  # gate and up keep a rank each
        specs = (spec for spec in inventory.tensors if spec.name.endswith(f".{name}"))
        found += [_on_parameter(spec, rank * twice) for spec in specs]
    if not found:
        names = ", ".join(leaves(inventory)[:12])
        raise BadWorkload(
            f"No layer of {inventory.model_id} is called {_spelled(targets)}.",
            f"Use all-linear, or names among: {names}.",
        )
    return tuple(found)


def leaves(inventory: Inventory) -> list[str]:
    """Last names of the model's linear layers: what PEFT takes as `target_modules`."""
    return sorted({_leaf(spec.name) for spec in _linears(inventory)})


def converts_experts(inventory: Inventory) -> bool:
    """Whether PEFT puts adapters on the fused experts of this family when they are targeted."""
    return _model_type(inventory.architecture) in _FUSED_FAMILIES


def _resolve(inventory: Inventory, targets: Targets) -> tuple[tuple[str, ...], dict[str, str]]:
    """Names of modules to match, and old names of experts with the parameters that hold them now."""
    family = _FUSED_FAMILIES.get(_model_type(inventory.architecture), {})
    if targets == ATTENTION:
        asked: Iterable[str] = _query_value(inventory)
    elif targets == ALL_LINEAR:
        asked = [*leaves(inventory), *family]
    else:
        asked = (targets,) if isinstance(targets, str) else targets
    fused = {old: new for old, new in family.items() if any(_named(name, old) for name in asked)}
    partners = [old for old, new in family.items() if new == "gate_up_proj"]
    given = [old for old in partners if old in fused]
    if given and len(given) < len(partners):
        raise BadWorkload(
            f"In this family {' and '.join(partners)} are one tensor: PEFT does not adapt {given[0]} alone.",
            f"Give {' and '.join(partners)} together, or all-linear.",
        )
    return tuple(name for name in asked if not any(_named(name, old) for old in fused)), fused


def _query_value(inventory: Inventory) -> tuple[str, ...]:
    default = _DEFAULTS.get(_model_type(inventory.architecture))
    if default:
        return default
    present = set(leaves(inventory))
    for names in _QUERY_VALUE:
        if present.issuperset(names):
            return names
    raise BadWorkload(
        f"{inventory.architecture} has no query and value projections that are known by name.",
        f"Use all-linear, or names among: {', '.join(sorted(present)[:12])}.",
    )


def _matching(inventory: Inventory, targets: Targets, modules: tuple[str, ...]) -> Iterable[TensorSpec]:
    text_only = targets == ATTENTION and _model_type(inventory.architecture) in _TEXT_ONLY
    taken = list(_linears(inventory))
    if isinstance(targets, tuple):  # who names modules may name these too
        taken += (spec for spec in inventory.tensors if spec.role in ("head", "embedding") and len(spec.shape) == 2)
    for spec in taken:
        weight = spec.name.removesuffix(".weight")
        if text_only and "language_model" not in weight:
            continue
        if any(_named(weight, module) for module in modules):
            yield spec


def _linears(inventory: Inventory) -> Iterable[TensorSpec]:
    """Weights of what PEFT takes for linear layers: also the output of torch's own `MultiheadAttention`."""
    names = {spec.name for spec in inventory.tensors}
    for spec in inventory.tensors:
        block, _, leaf = spec.name.rpartition(".out_proj.")
        of_attention = leaf == "weight" and f"{block}.in_proj_weight" in names
        if len(spec.shape) == 2 and spec.name.endswith(".weight") and (spec.role == "linear" or of_attention):
            yield spec


def _on_linear(spec: TensorSpec, rank: int) -> Adapter:
    rows, columns = reversed(spec.shape) if spec.transposed else spec.shape
    return Adapter(spec.name, rank, columns, rows)


def _on_parameter(spec: TensorSpec, rank: int) -> Adapter:
    rows, columns = spec.shape[-2:]
    experts = spec.shape[0] if len(spec.shape) == 3 else 1
    return Adapter(spec.name, rank * experts if experts > 1 else rank, columns, rows, merged=spec.elements)


def _named(module: str, target: str) -> bool:
    """PEFT's rule: the whole name, or the end of it after a dot."""
    return module == target or module.endswith(f".{target}")


def _leaf(weight: str) -> str:
    return weight.removesuffix(".weight").rpartition(".")[2]


def _model_type(architecture: str) -> str:
    """`Qwen3MoeForCausalLM` → `qwen3moe`: transformers' model type without its underscores."""
    return re.split(r"For[A-Z]|LMHead|Model$", architecture)[0].lower().replace("_", "")


def _spelled(targets: Targets) -> str:
    names = (targets,) if isinstance(targets, str) else targets
    return " or ".join(f"“{shorten(name, 30)}”" for name in names)
