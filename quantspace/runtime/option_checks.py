"""What options ask for that this model or this machine cannot do: refused before anything is fetched."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import BadInput, shorten
from ..estimation.inventory import Inventory
from ..estimation.quantized_cache import FORMATS, can_quantize
from ..precision import Precision
from .device_text import OFF_CARD
from .job import LoadOptions
from .machine import Machine, importable

ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
MAX_SKIPPED = 64
QUANTIZING = ("int8", "4bit", "torchao")  # methods that take modules to skip
_MODULE = re.compile(r"[\w.]+")  # transformers reads a name as a regular expression: more than this could hang it
_FLAGS = {"sdpa": "_supports_sdpa", "flash_attention_2": "_supports_flash_attn"}  # of a class of transformers
_16_BITS = ("bfloat16", "float16")


def unavailable(here: Machine) -> dict[str, str]:
    """Choices that nobody can have here, each with its reason."""
    found = {}
    if here.card is None:
        found["flash_attention_2"] = "needs a GPU"
    elif not importable("flash_attn"):
        found["flash_attention_2"] = "needs the package flash-attn"
    if not importable("optimum.quanto"):
        found |= dict.fromkeys(("int4", "int2"), "needs the package optimum-quanto")
    return found


def check_attention(options: LoadOptions, inventory: Inventory, precision: Precision, here: Machine) -> None:
    asked = options.attention
    if asked in ("", "auto", "eager"):
        return
    if asked not in ATTENTIONS:
        raise BadInput(
            f"“{shorten(asked, 40)}” is no attention of transformers.", f"Use one of {', '.join(ATTENTIONS)}."
        )
    if reason := unavailable(here).get(asked):
        raise BadInput(f"{asked} cannot be had here: it {reason}.", "Choose sdpa or eager.")
    if asked == "flash_attention_2" and (options.compute_dtype or precision.dtype) not in _16_BITS:
        raise BadInput("flash_attention_2 computes in 16 bits only.", "Choose sdpa, or another compute dtype.")
    import transformers

    cls = getattr(transformers, inventory.architecture, None)
    if not getattr(cls, _FLAGS[asked], True):
        raise BadInput(f"{inventory.architecture} has no {asked}.", "Choose eager.")


def check_cache(asked: str, inventory: Inventory) -> None:
    if asked in ("", "auto"):
        return
    if asked not in FORMATS:
        raise BadInput(
            f"transformers keeps a cache in the model's own dtype or quantized, not in “{shorten(asked, 40)}”.",
            f"Use auto, or one of {', '.join(FORMATS)}.",
        )
    if FORMATS[asked].backend == "quanto" and not importable("optimum.quanto"):
        raise BadInput(f"A cache in {asked} needs the package optimum-quanto.", "Use fp8, or install it.")
    if not can_quantize(inventory, asked):
        raise BadInput(
            f"transformers cannot keep the cache of {inventory.architecture} in {asked}.",
            "It quantizes only where every layer attends to all tokens: leave the cache in the model's dtype.",
        )


def checked_skip(names: tuple[str, ...], inventory: Inventory) -> tuple[str, ...]:
    if len(names) > MAX_SKIPPED:
        raise BadInput(f"{len(names):,} modules to skip are too many.", f"Name at most {MAX_SKIPPED}.")
    modules = [spec.name.rpartition(".")[0] for spec in inventory.tensors if spec.role in ("linear", "experts", "head")]
    for name in names:
        if not _MODULE.fullmatch(name):
            raise BadInput(f"“{shorten(name, 60)}” is no module's name.", "Names are letters, digits, _ and dots.")
        matches = matcher(name)
        if not any(matches(module) for module in modules):
            raise BadInput(
                f"No layer of this model that could be quantized is named “{shorten(name, 60)}”.",
                _nearest_names(name, modules),
            )
    return names


def _nearest_names(name: str, modules: list[str]) -> str:
    """The next step of who named a module that is not there: its whole name, where this is the middle of one."""
    for module in modules:
        before, found, after = f".{module}".partition(f".{name}.")
        if found and after:
            return f"Write {before[1:]}.{name}: the name from its beginning."
    ends = sorted({module.rpartition(".")[2] for module in modules})
    return f"Names end in {', '.join(ends[:8])}; a block is named such as {modules[0].rpartition('.')[0]}."


def matcher(name: str) -> Callable[[str], bool]:
    """Whether transformers would leave a module out for `name`: it begins so, up to a dot, or ends so.

    The rule of `transformers/quantizers/quantizers_utils.py`, `should_convert_module`.
    """
    begins = re.compile(rf"(?:{name})(?:(?<=\.)|(?=\.|$))")
    return lambda module: bool(begins.match(module)) or module.endswith(name)


def check_offload(devices: dict[str, str], precision: Precision, here: Machine) -> None:
    on_disk = "disk" in devices.values()
    if len(devices) > 1 and precision.experts:
        raise BadInput(f"{precision.label} is loaded on one device.", "Leave where modules go to the default.")
    if precision.method == "stored" and set(devices.values()) & set(OFF_CARD) and len(devices) > 1:
        raise BadInput(
            "A checkpoint that is stored quantized is not kept in system memory or on the disk in part.",
            "Put all of it on GPUs, or on cpu.",
        )
    if not precision.quantizes or not (on_disk or (here.card is None and len(devices) > 1)):
        return
    if here.card is None:
        raise BadInput(
            f"{precision.label} cannot be partly on the disk where there is no GPU: its quantizer refuses.",
            "Load BF16 or FP16 with the disk, or leave all of it in memory.",
        )
    if precision.method not in ("int8", "4bit"):
        raise BadInput(f"{precision.label} cannot be kept on the disk.", "Leave the disk out, or load NF4 or INT8.")
