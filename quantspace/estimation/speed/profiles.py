"""What is assumed of engines and cards when a speed is estimated, each as a low and a high figure.

The figures were set so that published measurements (`data/speeds.json`) lie between; where none was found the
words of a profile say so. They are not measurements themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...precision import Precision
from ..hardware import Gpu

LOW, HIGH = 0, 1  # index of the figure behind the low and the high end of a range

Ends = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Profile:
    """How an engine runs one kind of weights. Times are seconds, shares are of the card's peak.

    Attributes:
        words: what is assumed, for people.
        launch: processor time to launch the kernels of one decoder layer.
        call: what a quantized linear layer adds to that; `routing` what a layer's routed experts add.
        gap: time a layer that no other work hides.
        efficiency: share of the memory bandwidth that is reached.
        step_rate: share of the peak operations a second in a decode step; `prompt_rate` in a prefill.
        cache_passes: how often a step moves the cache: appending to it copies it (read and write), then
            attention reads it (`transformers/cache_utils.py`, `DynamicLayer.update`).
        repeats_heads: whether keys and values may also be written and read once for each query head.
        dequantizes: whether whole weights may be dequantized when several tokens pass at once.
        gathers: whether the weights of chosen experts may be copied together first.
    """

    engine: str
    words: str
    launch: Ends
    call: Ends
    routing: Ends
    efficiency: Ends
    step_rate: Ends = (0.12, 0.9)
    prompt_rate: Ends = (0.25, 0.85)
    gap: Ends = (0.0, 0.0)
    cache_passes: Ends = (3, 3)
    repeats_heads: bool = True
    dequantizes: bool = False
    gathers: bool = True


_EAGER = "transformers, eager"
_ROUTING = (1.5e-3, 0.1e-3)  # assumed: no published figure for the fused experts of transformers 5

# Launch times are those of servers: 0.6 to 1.1 ms a layer in the published figures for 16 bits.
_PROFILES = {
    "cast": Profile(
        _EAGER, "memory is read at 40 to 92 % of its bandwidth",
        (1.25e-3, 0.5e-3), (0.0, 0.0), _ROUTING, (0.40, 0.92),
    ),
    "4bit": Profile(
        _EAGER, "4-bit kernels of bitsandbytes, which may dequantize whole weights for more than 4 tokens at once",
        (1.25e-3, 0.5e-3), (0.15e-3, 0.02e-3), _ROUTING, (0.35, 0.85), dequantizes=True,
    ),
    "int8": Profile(
        _EAGER, "LLM.int8 of bitsandbytes, which looks for outliers in each linear layer",
        (1.25e-3, 0.5e-3), (0.60e-3, 0.15e-3), _ROUTING, (0.30, 0.85), prompt_rate=(0.08, 0.85),
    ),
    "packed": Profile(
        _EAGER, "kernels of GPTQModel, AWQ or triton, which differ much",
        (1.25e-3, 0.5e-3), (0.10e-3, 0.0), _ROUTING, (0.35, 0.90), prompt_rate=(0.1, 0.85),
    ),
    "stored": Profile(
        _EAGER, "kernels for the checkpoint's own format, which differ much; few figures were found",
        (1.25e-3, 0.5e-3), (0.45e-3, 0.0), _ROUTING, (0.30, 0.90), prompt_rate=(0.08, 0.85),
    ),
    "torchao": Profile(
        _EAGER, "torchao without torch.compile, for which no published figure was found",
        (1.25e-3, 0.5e-3), (0.50e-3, 0.02e-3), _ROUTING, (0.30, 0.90), prompt_rate=(0.1, 0.85), dequantizes=True,
    ),
    "gguf": Profile(
        "llama.cpp", "memory read at 42 to 95 % of its bandwidth",
        (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.42, 0.95), gap=(0.16e-3, 0.03e-3),
        prompt_rate=(0.2, 1.3),  # GeForce cards multiply twice as fast where float16 is also summed in float16
        cache_passes=(1.5, 1), repeats_heads=False, gathers=False,
    ),
}  # fmt: skip

_GEFORCE = ("rtx-20", "rtx-30", "rtx-40", "rtx-50", "gtx-", "rx-")
DESKTOP = (0.6, 0.65)  # of a server's launch time and calls: desktop processors run one thread faster
APPLE_LAUNCH = 2.5  # how much slower Metal's launches may be: assumed
EMULATED = 0.5  # share of the low efficiency left where bfloat16 is emulated: assumed
TENSOR_CORES = 7.0  # compute capability from which a card has them

# float32 as a share of fp16 TFLOPS, by compute capability, from NVIDIA's data sheets (T4 8.1 of 65, A100 19.5 of
# 312, A10 31.2 of 125, RTX 3090 35.6 of 71, RTX 4090 82.6 of 165, H100 67 of 989, B200 75 of 2,250).
_FLOAT32 = {
    "7.0": (1 / 8, 1 / 8), "7.5": (1 / 8, 1 / 4), "8.0": (1 / 16, 1 / 16), "8.6": (1 / 4, 1 / 2),
    "8.9": (1 / 4, 1 / 2), "9.0": (1 / 15, 1 / 14), "10.0": (1 / 30, 1 / 28), "12.0": (1 / 4, 1 / 2),
}  # fmt: skip
_FLOAT32_ELSEWHERE = (1 / 16, 1 / 2)

# GB/s over 16 lanes: pageable memory at worst (what accelerate's offload copies), pinned memory at best.
_PCIE = {3: (2_500_000_000, 13_000_000_000), 4: (4_000_000_000, 26_000_000_000), 5: (5_000_000_000, 52_000_000_000)}
_EIGHT_LANES = ("rtx-4060", "rtx-4060-ti-16gb", "rtx-5060-ti-16gb")


def profile_of(precision: Precision, gpu: Gpu) -> Profile:
    """What is assumed of the engine that runs `precision` on `gpu`."""
    profile = _PROFILES["gguf" if precision.engine == "llama.cpp" else precision.method]
    if profile.engine == "llama.cpp":
        return profile
    if gpu.id.startswith(_GEFORCE):
        profile = _DESKTOP[precision.method]
    elif gpu.kind == "apple":
        profile = replace(profile, launch=(APPLE_LAUNCH * profile.launch[LOW], profile.launch[HIGH]))
    if precision.dtype == "bfloat16" and gpu.bf16_native is False:
        low, high = profile.efficiency
        words = f"{profile.words}; bfloat16 is emulated on this card"
        profile = replace(profile, efficiency=(EMULATED * low, high), words=words)
    return profile


def _scaled(ends: Ends, factors: Ends) -> Ends:
    return ends[LOW] * factors[LOW], ends[HIGH] * factors[HIGH]


_DESKTOP = {
    method: replace(profile, launch=_scaled(profile.launch, DESKTOP), call=_scaled(profile.call, DESKTOP))
    for method, profile in _PROFILES.items()
}


def peak(gpu: Gpu, dtype: str) -> Ends | None:
    """Dense operations a second in `dtype`, at least and at most; `None` where they aren't known.

    float32, and bfloat16 where it is emulated, run outside of the tensor cores.
    """
    half = gpu.fp16_tflops
    if half is None or (gpu.compute_capability and float(gpu.compute_capability) < TENSOR_CORES):
        return None  # cuBLAS computes float16 in float32 there, whatever the data sheet says of float16
    if dtype == "float16" or (dtype == "bfloat16" and gpu.bf16_native):
        known = (gpu.bf16_tflops if dtype == "bfloat16" else half) or half
        return known * 1e12, known * 1e12
    low, high = _FLOAT32.get(gpu.compute_capability or "", _FLOAT32_ELSEWHERE)
    return low * half * 1e12, high * half * 1e12


def pcie(gpu: Gpu) -> tuple[int, int]:
    """Bytes a second between system memory and the card, at worst and at best.

    By the generation that cards of its compute capability or year have; 15.75, 31.5 and 63 GB/s over 16 lanes
    are what PCI Express 3, 4 and 5 can carry.
    """
    capability = float(gpu.compute_capability or 0)
    if capability:
        generation = 3 if capability < 8 else 4 if capability < 9 else 5
    else:
        generation = 5 if (gpu.release_year or 0) >= 2023 else 4
    low, high = _PCIE[generation]
    return low, high // 2 if gpu.id in _EIGHT_LANES else high
