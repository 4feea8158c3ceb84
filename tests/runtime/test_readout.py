"""What a model really holds, checked against sizes that were worked out by hand.

One weight of 64 × 128 = 8,192 elements is quantized: 128 blocks of 64 share an absmax each.
"""

from types import SimpleNamespace

import bitsandbytes as bnb
import pytest
import torch

from quantspace.runtime.readout import held_tensors

IN, OUT = 128, 64


class HandMade(torch.nn.Module):
    """A layer, a norm beside it, and what the readout asks of a model's config."""

    def __init__(self, linear):
        super().__init__()
        self.config = SimpleNamespace(dtype=torch.bfloat16)
        self.linear = linear
        self.norm = torch.nn.LayerNorm(IN, bias=False)

    def forward(self, x):
        return self.linear(self.norm(x))


def four_bit(double_quant):
    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(
        IN, OUT, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4", compress_statistics=double_quant
    )
    return HandMade(layer).to(torch.bfloat16).to("cpu")


def eight_bit():
    torch.manual_seed(0)
    return HandMade(bnb.nn.Linear8bitLt(IN, OUT, bias=False, has_fp16_weights=False)).to(torch.bfloat16).to("cpu")


def weight_of(model):
    return next(tensor for tensor in held_tensors(model) if tensor.name == "linear.weight")


@pytest.mark.parametrize(
    ("double_quant", "constants"),
    [
        (False, 4 * 128 + 64),  # absmax float32, code
        (True, 128 + 4 * 1 + 1024 + 4 + 64),  # absmax uint8, nested absmax, nested code, offset, code
    ],
    ids=["nf4", "nf4-dq"],
)
def test_constants_of_four_bits_are_counted_once(double_quant, constants):
    weight = weight_of(four_bit(double_quant))
    assert weight.shape == (OUT, IN)
    assert (weight.logical_dtype, weight.storage_dtype) == ("bfloat16", "uint8 (nf4)")
    assert (weight.data_bytes, weight.constant_bytes) == (4096, constants)
    assert weight.held_bytes == 4096 + constants


def test_scales_of_int8_are_counted_before_and_after_a_forward_pass():
    model = eight_bit()
    before = weight_of(model)
    assert model.linear.weight.SCB is not None

    model(torch.randn(1, IN, dtype=torch.bfloat16))

    assert model.linear.weight.SCB is None  # bitsandbytes has moved it to the layer's state
    after = weight_of(model)
    assert (before.data_bytes, before.constant_bytes) == (8192, 4 * OUT)
    assert after == before
    assert (after.storage_dtype, after.logical_dtype) == ("int8", "bfloat16")


@pytest.mark.parametrize("make", [lambda: four_bit(True), eight_bit], ids=["nf4-dq", "int8"])
def test_what_is_not_quantized_holds_its_own_bytes_alone(make):
    (norm,) = [tensor for tensor in held_tensors(make()) if tensor.name == "norm.weight"]
    assert (norm.shape, norm.storage_dtype, norm.data_bytes, norm.constant_bytes) == ((IN,), "bfloat16", 256, 0)


def test_tied_weight_is_counted_once_and_names_its_owner():
    model = torch.nn.Module()
    model.embed = torch.nn.Embedding(100, 8)
    model.head = torch.nn.Linear(8, 100, bias=False)
    model.head.weight = model.embed.weight

    embed, head = held_tensors(model)
    assert (embed.name, embed.held_bytes, embed.tied_to) == ("embed.weight", 3200, None)
    assert (head.name, head.held_bytes, head.tied_to) == ("head.weight", 0, "embed.weight")


def test_views_of_one_storage_are_counted_once_and_in_full():
    model = torch.nn.Module()
    storage = torch.zeros(10, 8)
    model.register_buffer("first", storage[:2])
    model.register_buffer("rest", storage[2:])
    first, rest = held_tensors(model)
    assert (first.held_bytes, first.shape) == (320, (2, 8))
    assert (rest.held_bytes, rest.tied_to) == (0, "first")


def test_buffers_are_counted_also_where_a_checkpoint_leaves_them_out():
    model = torch.nn.Module()
    model.register_buffer("inv_freq", torch.zeros(32), persistent=False)
    (buffer,) = held_tensors(model)
    assert (buffer.name, buffer.storage_dtype, buffer.held_bytes) == ("inv_freq", "float32", 128)


def test_empty_tensors_hold_nothing_and_are_not_tied():
    model = torch.nn.Module()
    model.register_buffer("one", torch.zeros(0))
    model.register_buffer("other", torch.zeros(0))
    assert [(tensor.held_bytes, tensor.tied_to) for tensor in held_tensors(model)] == [(0, None), (0, None)]
