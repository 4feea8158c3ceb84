"""The options of a load: what each default is and why, what cannot be had here, and what transformers is told.

The parent settles them before anything is fetched (`settle`), so that expected bytes follow them; the worker turns
them into arguments (`from_pretrained_options`, `cache_for`). Torch and transformers are imported only where a
function needs them. Where modules go is `placement.py`'s matter.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import BadInput, shorten
from ..estimation.fit import OVERFLOWING
from ..estimation.inventory import Inventory
from ..estimation.quantized_cache import FORMATS
from ..precision import Precision
from .device_text import OFF_CARD
from .job import Job, LoadOptions
from .machine import Machine, machine
from .option_checks import QUANTIZING, check_attention, check_cache, check_offload, checked_skip
from .placement import as_promised, by_hand, by_limits, off_card

COMPUTE_DTYPES = ("bfloat16", "float16", "float32")
_CPU_FLAG = "llm_int8_enable_fp32_cpu_offload"  # of int8 and 4-bit alike, and of whatever dtype is computed in


@dataclass(frozen=True, slots=True)
class Choice:
    """What is taken where nothing is chosen, as people name it, and why."""

    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Defaults:
    """The default of each option, for one model on one machine."""

    compute_dtype: Choice
    double_quant: Choice
    skip: Choice
    attention: Choice
    kv_dtype: Choice
    placement: Choice


def defaults(inventory: Inventory, here: Machine) -> Defaults:
    """What is taken where nothing is chosen, each with its reason."""
    return Defaults(
        compute_dtype=_compute_dtype(inventory, here),
        double_quant=Choice("the row's", "“NF4 + double quant” quantizes its scales again, “NF4” does not."),
        skip=Choice("no others", "The output head and tied embeddings are never quantized."),
        attention=_attention(inventory),
        kv_dtype=Choice("the model's", "Full precision: nothing is lost, and every model can."),
        placement=_placement(here),
    )


def settle(
    options: LoadOptions, inventory: Inventory, precision: Precision, here: Machine | None = None
) -> LoadOptions:
    """What is really done: defaults filled in where they differ from the row's own, the map written out in full.

    What does not apply to a row is dropped: a cast row is its own compute dtype, and quantizes nothing.

    Args:
        here: the machine; this one where none is given.

    Raises:
        BadInput: something is asked for that this model or this machine cannot do.
    """
    here = here or machine()
    check_attention(options, inventory, precision, here)
    check_cache(options.kv_dtype, inventory)
    told = replace(
        options,
        compute_dtype=_settled_dtype(options.compute_dtype, inventory, precision, here),
        double_quant=_settled_double_quant(options.double_quant, precision),
        skip=checked_skip(options.skip, inventory) if precision.method in QUANTIZING else (),
        attention="" if options.attention == "auto" else options.attention,
        kv_dtype="" if options.kv_dtype == "auto" else options.kv_dtype,
    )
    variant = precision.with_options(told.compute_dtype, told.double_quant, told.skip)
    devices = _devices(told, inventory, variant, here)
    check_offload(dict(devices), precision, here)
    return replace(told, device_map=devices)


def unquantized_modules(options: LoadOptions, here: Machine | None = None) -> tuple[str, ...]:
    """Modules that settled options leave unquantized: those to skip, and those that a card does not hold."""
    return (*options.skip, *off_card(options.device_map, here or machine()))


def warnings(options: LoadOptions, inventory: Inventory, here: Machine) -> tuple[str, ...]:
    """What may go wrong with options that can be had."""
    found = []
    if options.compute_dtype == "float16" and inventory.architecture.startswith(OVERFLOWING):
        found.append("Activations of this family overflow in float16: answers may be empty or broken.")
    if options.compute_dtype == "bfloat16" and here.card is not None and here.card.bf16_native is False:
        found.append(f"{here.name} has no native bfloat16: it computes, but slowly.")
    if any(device == "disk" for device, _ in options.max_memory) or "disk" in dict(options.device_map).values():
        found.append("What is on the disk is read again for every token: expect seconds for each.")
    return tuple(found)


def from_pretrained_options(job: Job, quantization_config: Any = None) -> dict[str, Any]:
    """The keyword arguments of `from_pretrained` that options add to those of the precision.

    Args:
        quantization_config: what the precision gives; the int8 and 4-bit ones of bitsandbytes are told here that
            some of their modules are not on a GPU, which they refuse otherwise.
    """
    devices = dict(job.options.device_map)
    told = {name: _as_told(device) for name, device in devices.items()}
    kwargs: dict[str, Any] = {"device_map": told or {"": _main_device()}}
    if job.options.attention:
        kwargs["attn_implementation"] = job.options.attention
    if "disk" in devices.values():
        kwargs["offload_folder"] = _empty_folder()
    on_cards = any(device not in OFF_CARD for device in devices.values())
    if on_cards and set(devices.values()) & set(OFF_CARD) and hasattr(quantization_config, _CPU_FLAG):
        setattr(quantization_config, _CPU_FLAG, True)
    return kwargs


def cache_for(options: LoadOptions, model: Any) -> dict[str, Any]:
    """The keyword arguments of `generate` that keep the KV cache quantized: a new cache; empty for the model's dtype.

    Formats and group sizes are those that `estimation/quantized_cache.py` counts.
    """
    row = FORMATS.get(options.kv_dtype)
    if row is None:
        return {}
    from transformers import QuantizedCache

    bits = {} if row.bits is None else {"nbits": row.bits}
    return {"past_key_values": QuantizedCache(row.backend, model.config.get_text_config(decoder=True), **bits)}


def _compute_dtype(inventory: Inventory, here: Machine) -> Choice:
    native = here.card is None or here.card.bf16_native is not False
    if inventory.architecture.startswith(OVERFLOWING):
        slow = "" if native else f" {here.name} has no native bfloat16: it computes, but slowly."
        return Choice("bfloat16", f"Activations of this family overflow in float16.{slow}")
    if not native:
        return Choice("float16", f"{here.name} has no native bfloat16.")
    if here.card is None:
        return Choice("bfloat16", "Float32's range in half the bytes, as most models are published.")
    return Choice("bfloat16", f"{here.name} computes in it natively, with float32's range.")


def _attention(inventory: Inventory) -> Choice:
    return Choice("sdpa", f"PyTorch's fused attention; eager where {inventory.architecture} has none.")


def _placement(here: Machine) -> Choice:
    if here.zero_gpu:
        return Choice("one GPU", "ZeroGPU lends one at a time.")
    if here.card is None:
        return Choice("system memory", "There is no GPU here.")
    if here.cards > 1:
        return Choice("as few GPUs as hold it", "One answers faster than several that wait for each other.")
    return Choice("the GPU", "Layers that do not fit stay in system memory, as the row says.")


def _settled_dtype(asked: str, inventory: Inventory, precision: Precision, here: Machine) -> str:
    if asked and asked not in COMPUTE_DTYPES:
        raise BadInput(f"“{shorten(asked, 40)}” is no compute dtype.", f"Use one of {', '.join(COMPUTE_DTYPES)}.")
    if precision.method not in ("int8", "4bit"):
        return asked if precision.method in QUANTIZING else ""
    wanted = asked or _compute_dtype(inventory, here).value
    return "" if wanted == precision.dtype else wanted


def _settled_double_quant(asked: bool | None, precision: Precision) -> bool | None:
    return None if precision.method != "4bit" or asked == precision.double_quant else asked


def _devices(
    options: LoadOptions, inventory: Inventory, precision: Precision, here: Machine
) -> tuple[tuple[str, str], ...]:
    if options.device_map:
        found = by_hand(options.device_map, inventory, precision, here)
    elif options.max_memory:
        found = by_limits(options.max_memory, inventory, precision, here)
    else:
        found = as_promised(inventory, precision, here)
    used = {device for _, device in found}
    if len(used) == 1:
        return () if used == {here.main} else (("", *used),)  # type: ignore[return-value]
    return found


def _as_told(device: str) -> str | int:
    """A card as its number: accelerate takes any of a set for the main one, and small numbers come in order."""
    kind, _, number = device.partition(":")
    return int(number) if kind == "cuda" else device


def _main_device() -> str:
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def _empty_folder() -> str:
    """Where transformers writes tensors that it has to make before they can lie on the disk; one load's at a time."""
    folder = Path(tempfile.gettempdir()) / f"quantspace-offload-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(folder)
