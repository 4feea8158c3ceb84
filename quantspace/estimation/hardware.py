"""The devices a model may be run on, and how to find one from what people write.

The facts stand in `data/gpus.json`, each with its source; `data/README.md` tells how they were found.
What a device leaves for a model is `usable_bytes`, which PyTorch reports, less than the size on the box.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

from ..errors import UnknownGpu, shorten
from ..units import GIB

DEFAULT_CONTEXT_BYTES = GIB // 2

# What people write where more than one device could be meant, and what it stands for.
DEFAULTS: Mapping[str, str] = {
    "zerogpu": "zerogpu-rtx-pro-6000-half",  # the size that a Space gets when it asks for none
    "zero": "zerogpu-rtx-pro-6000-half",
    "zero-a10g": "zerogpu-rtx-pro-6000-half",  # the name of the flavor is older than the card
    "zerogpu large": "zerogpu-rtx-pro-6000-half",
    "zerogpu xlarge": "zerogpu-rtx-pro-6000-full",
    "zerogpu h200": "zerogpu-h200-slice",
    "a100": "a100-80gb",  # the one that Spaces offer
    "h100": "h100-80gb",
    "v100": "v100-16gb",  # the smaller: a promise made for it holds on the larger
    "p100": "p100-16gb",
    "rtx pro 6000": "rtx-pro-6000-server",  # the one that Spaces offer
    "rtx pro 6000 blackwell workstation edition": "rtx-pro-6000-blackwell",
    "dgx spark": "dgx-spark-gb10",
    "gb10": "dgx-spark-gb10",
    "rtx 6000 ada generation": "rtx-6000-ada",
    "rtx 3060": "rtx-3060-12gb",  # here and below: the only size in the catalogue, others were sold
    "rtx 3080": "rtx-3080-10gb",
    "rtx 4060 ti": "rtx-4060-ti-16gb",
    "rtx 5060 ti": "rtx-5060-ti-16gb",
    "cpu": "cpu-basic",
}

_ALONE = frozenset({"dgx-spark-gb10"})  # machines with one GPU, which is not sold without them
_EXAMPLES = "t4, l4, a100-80gb, rtx-4090 or zerogpu"
_NOISE = frozenset(
    "nvidia geforce tesla amd radeon instinct quadro gpu graphics card series "
    "aws hf huggingface spaces space sxm sxm2 sxm4 sxm5 sxm6 pcie hbm2 hbm2e hbm3 hbm3e".split()
)
_APPLE = re.compile(r"(?:apple|mac|macbook)?(?:m[1-9]?)?(?:pro|max|ultra)?(\d+)gb")


@dataclass(frozen=True)
class SpaceFlavor:
    """A kind of hardware that a Hugging Face Space can be given."""

    name: str  # as the Hub's API calls it: "t4-small"
    usd_per_hour: float  # of the whole flavor, all its GPUs; 0 for what is free or billed by quota
    gpus: int  # how many of the device it has; 0 for processors


@dataclass(frozen=True)
class Gpu:
    """One device: a GPU, an Apple chip with its shared memory, or a processor with its own.

    Bytes are integers, bandwidth is in bytes a second, TFLOPS (10¹² a second) are dense, without sparsity.
    `None` means not known.
    """

    id: str
    name: str
    vendor: str  # nvidia, amd, apple, cpu
    kind: Literal["gpu", "apple", "cpu"]
    memory_bytes: int  # the size on the box; every vendor's "16 GB" of memory are 16 GiB
    memory_label: str  # the size on the box as people know it: "16 GB"
    usable_bytes: int  # what a process can have at most: PyTorch's total memory of the device
    usable_kind: str  # by torch, cuda-runtime, nvidia-smi, rocminfo, metal, container-limit, nominal
    usable_source: str
    context_bytes: int | None  # of usable_bytes, what a process holds outside of PyTorch's allocator
    context_source: str | None
    memory_bandwidth: int | None  # bytes a second
    fp16_tflops: float | None
    bf16_tflops: float | None
    compute_capability: str | None  # CUDA's: "7.5"
    bf16_native: bool | None
    fp8_native: bool | None
    release_year: int | None
    space_flavors: tuple[SpaceFlavor, ...]
    price_source: str | None
    price_as_of: str | None  # year and month
    notes: str | None
    sources: tuple[str, ...]

    @property
    def context_bytes_or_default(self) -> int:
        """Bytes of the CUDA context: measured for this card, or else 0.5 GiB; 0 where there is no CUDA.

        The default leans to the safe side: with lazy loading (CUDA ≥ 11.7) a context takes about 300 to
        400 MB (https://github.com/pytorch/pytorch/issues/107667 and /109888), and the cards in the
        catalogue that were measured span 115 to 712 MiB, the larger chips more.
        """
        if self.kind != "gpu":
            return 0
        return DEFAULT_CONTEXT_BYTES if self.context_bytes is None else self.context_bytes

    @property
    def combines(self) -> bool:
        """Whether machines with several of it exist; a processor or an Apple chip is a machine of its own."""
        return self.kind == "gpu" and self.id not in _ALONE

    def as_data(self) -> dict[str, Any]:
        """The device as JSON takes it, in the shape of `gpus.json`, and `context_bytes_or_default`."""
        data = asdict(self)
        data["space_flavors"] = {
            flavor.name: {"usd_per_hour": flavor.usd_per_hour, "gpus": flavor.gpus} for flavor in self.space_flavors
        }
        data["sources"] = list(self.sources)
        data["context_bytes_or_default"] = self.context_bytes_or_default
        return data


def _gpu(data: dict[str, Any]) -> Gpu:
    flavors = tuple(SpaceFlavor(name, **facts) for name, facts in data["space_flavors"].items())
    return Gpu(**{**data, "space_flavors": flavors, "sources": tuple(data["sources"])})


@lru_cache(maxsize=1)
def gpus() -> Mapping[str, Gpu]:
    """All devices by id, in the order in which they are offered: Spaces' hardware first."""
    text = files("quantspace").joinpath("data/gpus.json").read_text(encoding="utf-8")
    return MappingProxyType({data["id"]: _gpu(data) for data in json.loads(text)})


def find_gpu(text: str) -> Gpu:
    """The device that `text` names.

    Takes an id (`rtx-4090`), a name as the vendor or PyTorch prints it (`NVIDIA A100-SXM4-80GB`), a short
    one (`4090`), or a flavor of Spaces (`a10g-large`), whatever the case, spaces and dashes. What fits
    several devices is settled by `DEFAULTS`. A number of GPUs in a flavor (`l4x4`) is not kept.

    Raises:
        UnknownGpu: nothing of that name is in the catalogue.
    """
    catalogue = gpus()
    if not isinstance(text, str):
        raise UnknownGpu(f"A GPU's name is a text, not {shorten(repr(text), 40)}.", f"Name one such as {_EXAMPLES}.")
    name = shorten(text)
    if name in catalogue:
        return catalogue[name]
    key = _key(name)
    found = _by_key().get(key) or _apple_id(key)
    if found not in catalogue:
        raise _unknown(name, key)
    return catalogue[found]


def _unknown(name: str, key: str) -> UnknownGpu:
    where = f"the list has all {len(gpus())}."
    if not name:
        return UnknownGpu("No GPU was named.", f"Name one such as {_EXAMPLES}; {where}")
    near = get_close_matches(key, _by_key(), n=6, cutoff=0.5)
    nearest = list(dict.fromkeys(_by_key()[match] for match in near))[:3]
    hint = f"Nearest: {', '.join(nearest)};" if nearest else f"Known are, for example, {_EXAMPLES};"
    return UnknownGpu(f"There is no GPU {name!r} in the catalogue.", f"{hint} {where}")


def _key(text: str) -> str:
    """`NVIDIA GeForce RTX 4090` → `rtx4090`: case, punctuation and vendors are dropped."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return "".join(word for word in words if word not in _NOISE)


@lru_cache(maxsize=1)
def _by_key() -> Mapping[str, str]:
    """Every name that is understood, as `_key` writes it → id. The first that claims a name keeps it."""
    claims = [*DEFAULTS.items(), *((name, gpu.id) for gpu in gpus().values() for name in _names(gpu))]
    keys: dict[str, str] = {}
    for name, gpu_id in claims:
        key = _key(name)
        keys.setdefault(key, gpu_id)
        keys.setdefault(re.sub(r"^(rtx|gtx|rx)(?=a?\d)", "", key), gpu_id)
    return MappingProxyType(keys)


def _names(gpu: Gpu) -> list[str]:
    plain = re.sub(r"\(.*?\)", "", gpu.name)
    short = plain.replace(gpu.memory_label.replace(" ", ""), "")  # "RTX 3070 8GB" → "RTX 3070"
    flavors = [flavor.name for flavor in gpu.space_flavors]
    return [gpu.id, gpu.name, plain, short, f"{short} {gpu.memory_label}", *flavors]


def _apple_id(key: str) -> str | None:
    """`m3max64gb` → `apple-m-64gb`: an Apple machine is known by its memory."""
    match = _APPLE.fullmatch(key)
    return f"apple-m-{match[1]}gb" if match and not key[0].isdigit() else None
