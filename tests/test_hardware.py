"""The catalogue of devices, and finding one from what people write."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest

from quantspace.errors import UnknownGpu
from quantspace.estimation.hardware import DEFAULT_CONTEXT_BYTES, DEFAULTS, find_gpu, gpus
from quantspace.settings import Settings
from quantspace.units import GIB, MIB

EVERY_GPU = pytest.mark.parametrize("gpu", gpus().values(), ids=gpus())
CUDA = [gpu for gpu in gpus().values() if gpu.compute_capability]


@EVERY_GPU
def test_a_device_never_promises_more_than_the_size_on_its_box(gpu):
    assert 0 < gpu.usable_bytes <= gpu.memory_bytes
    assert gpu.memory_bytes == int(gpu.memory_label.removesuffix(" GB")) * GIB


@EVERY_GPU
def test_the_size_a_device_reports_is_not_far_below_the_size_on_its_box(gpu):
    least = 0.7 if gpu.kind == "apple" else 0.9
    assert gpu.usable_bytes / gpu.memory_bytes > least


@EVERY_GPU
def test_every_fact_of_a_device_has_a_source(gpu):
    assert gpu.usable_source and gpu.sources
    assert (gpu.context_bytes is None) == (gpu.context_source is None)
    assert bool(gpu.space_flavors) == bool(gpu.price_source) == bool(gpu.price_as_of)


@EVERY_GPU
def test_units_are_bytes_a_second_and_trillions_a_second(gpu):
    if gpu.memory_bandwidth is not None:
        assert 10**11 < gpu.memory_bandwidth < 10**13
    for tflops in (gpu.fp16_tflops, gpu.bf16_tflops):
        assert tflops is None or 0.1 < tflops < 5000


@pytest.mark.parametrize("gpu", CUDA, ids=lambda gpu: gpu.id)
def test_native_bf16_and_fp8_follow_from_the_compute_capability(gpu):
    capability = tuple(map(int, gpu.compute_capability.split(".")))
    assert gpu.bf16_native == (capability >= (8, 0))
    assert gpu.fp8_native == (capability >= (8, 9))


@EVERY_GPU
def test_a_device_turns_into_json_and_back(gpu):
    data = json.loads(json.dumps(gpu.as_data()))
    assert data["id"] == gpu.id
    assert data["usable_bytes"] == gpu.usable_bytes
    assert data["context_bytes_or_default"] == gpu.context_bytes_or_default
    assert set(data["space_flavors"]) == {flavor.name for flavor in gpu.space_flavors}


@EVERY_GPU
def test_a_device_is_found_by_its_own_id_and_name(gpu):
    assert find_gpu(gpu.id) == gpu
    assert find_gpu(gpu.id.upper().replace("-", " ")) == gpu
    assert find_gpu(gpu.name) == gpu


def test_a_flavor_of_spaces_leads_to_the_first_device_that_carries_it():
    first = {}
    for gpu in gpus().values():
        for flavor in gpu.space_flavors:
            first.setdefault(flavor.name, gpu)
    assert {name: find_gpu(name) for name in first} == first
    assert {"t4-small", "l4x1", "a10g-large", "l40sx1", "a100-large", "zero-a10g", "cpu-basic"} <= set(first)


def test_the_hardware_of_spaces_comes_first():
    current = [gpu for gpu in gpus().values() if gpu.kind == "gpu" and gpu.id != "zerogpu-h200-slice"]
    on_spaces = [bool(gpu.space_flavors) for gpu in current]
    assert on_spaces == sorted(on_spaces, reverse=True)
    assert next(iter(gpus())) == Settings().default_gpu


@pytest.mark.parametrize(
    "gpu_id",
    """t4 l4 a10g l40s a100-40gb a100-80gb h100-80gb h200 b200 rtx-3060-12gb rtx-3070 rtx-3080-10gb rtx-3090
    rtx-4060 rtx-4070 rtx-4080 rtx-4090 rtx-5070 rtx-5080 rtx-5090 zerogpu-rtx-pro-6000-half
    zerogpu-rtx-pro-6000-full rx-7900-xtx mi300x apple-m-16gb cpu-basic""".split(),
)
def test_the_devices_that_people_have_are_there(gpu_id):
    assert gpus()[gpu_id].id == gpu_id


@pytest.mark.parametrize("gpu_id", DEFAULTS.values())
def test_every_default_leads_to_a_device(gpu_id):
    assert gpu_id in gpus()


@pytest.mark.parametrize(
    ("text", "gpu_id"),
    [
        ("t4", "t4"),
        ("NVIDIA T4", "t4"),
        ("  tesla\tT4 ", "t4"),
        ("t4-small", "t4"),
        ("l4x1", "l4"),
        ("l4x4", "l4"),
        ("a10g-large", "a10g"),
        ("A10", "a10"),
        ("L40S", "l40s"),
        ("l40", "l40"),
        ("rtx4090", "rtx-4090"),
        ("4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("RTX_3060", "rtx-3060-12gb"),
        ("3080 10 GB", "rtx-3080-10gb"),
        ("4060", "rtx-4060"),
        ("4060 ti", "rtx-4060-ti-16gb"),
        ("rtx 5070", "rtx-5070"),
        ("5070 Ti", "rtx-5070-ti"),
        ("1080ti", "gtx-1080-ti"),
        ("a100", "a100-80gb"),
        ("A100 40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("h100", "h100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("Tesla V100-SXM2-32GB", "v100-32gb"),
        ("A6000", "rtx-a6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "rtx-pro-6000-blackwell"),
        ("rtx-pro-6000", "rtx-pro-6000-server"),
        ("NVIDIA GB10", "dgx-spark-gb10"),
        ("zerogpu", "zerogpu-rtx-pro-6000-half"),
        ("ZeroGPU", "zerogpu-rtx-pro-6000-half"),
        ("Zero GPU", "zerogpu-rtx-pro-6000-half"),
        ("zero-a10g", "zerogpu-rtx-pro-6000-half"),
        ("zerogpu xlarge", "zerogpu-rtx-pro-6000-full"),
        ("7900 XTX", "rx-7900-xtx"),
        ("AMD Instinct MI300X", "mi300x"),
        ("Apple M3 Max 64 GB", "apple-m-64gb"),
        ("M1 16GB", "apple-m-16gb"),
        ("cpu", "cpu-basic"),
        ("CPU upgrade", "cpu-upgrade"),
    ],
)
def test_a_device_is_found_however_it_is_written(text, gpu_id):
    assert find_gpu(text).id == gpu_id


@pytest.mark.parametrize(
    "text",
    ["", " ", "nvidia", "gpu", "4", "gb", "16gb", "no such", "🤖", "\x00", "../", "x" * 10_000, "t4 " * 4000],
    ids=lambda text: repr(text[:12]),
)
def test_nonsense_is_refused_in_a_short_message_that_says_where_the_list_is(text):
    with pytest.raises(UnknownGpu) as caught:
        find_gpu(text)
    assert len(str(caught.value)) < 300
    assert "the list has all" in caught.value.hint


@pytest.mark.parametrize("text", ["4070 Ti", "H100 NVL", "3080 12GB", "4060 Ti 8GB", "RTX 6000", "M4 36GB"])
def test_a_sibling_that_is_not_in_the_catalogue_is_not_taken_for_one_that_is(text):
    with pytest.raises(UnknownGpu):
        find_gpu(text)


@pytest.mark.parametrize(("text", "near"), [("rtx 409", "rtx-4090"), ("H100 NVL", "h100"), ("l40z", "l40s")])
def test_the_hint_names_the_nearest_devices(text, near):
    with pytest.raises(UnknownGpu, match=near):
        find_gpu(text)


def test_the_cuda_context_is_the_measured_one_or_half_a_gibibyte():
    assert gpus()["t4"].context_bytes_or_default == 135 * MIB
    assert gpus()["a10g"].context_bytes is None
    assert gpus()["a10g"].context_bytes_or_default == DEFAULT_CONTEXT_BYTES == 512 * MIB


def test_a_processor_or_an_apple_chip_has_no_cuda_context():
    kinds = {gpu.kind: gpu.context_bytes_or_default for gpu in gpus().values() if gpu.kind != "gpu"}
    assert kinds == {"apple": 0, "cpu": 0}


def test_a_t4_leaves_what_pytorch_reports_on_it():
    t4 = find_gpu("t4")
    assert t4.memory_bytes == 17_179_869_184
    assert t4.usable_bytes == 15_636_365_312


def test_sources_lead_somewhere_and_nothing_private_is_named():
    text = files("quantspace").joinpath("data/gpus.json").read_text(encoding="utf-8")
    assert not re.search(r"idx:|on disk|stored copy|recalled|file://", text, re.IGNORECASE)
