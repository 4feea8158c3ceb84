"""Optimizer states by arithmetic against those that real optimizers hold after a real step."""

import warnings
from collections import Counter

import bitsandbytes as bnb
import pytest
import torch

from quantspace.estimation.training.optimizers import optimizer_bytes

# Around every threshold: one value, a block, 8-bit from 4,096 elements on, paged from 100,000.
SHAPES = [(1,), (255,), (257,), (4095,), (4096,), (63, 65), (64, 65), (300, 333), (400, 250), (500, 201)]
REAL = {
    "adamw": torch.optim.AdamW,
    "adamw-8bit": bnb.optim.AdamW8bit,
    "paged-adamw-8bit": bnb.optim.PagedAdamW8bit,
    "sgd": torch.optim.SGD,
}


def stepped(name, dtype, shapes=SHAPES):
    parameters = [torch.nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in shapes]
    optimizer = REAL[name](parameters, lr=1e-3)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pages are for CUDA
        optimizer.step()
    return optimizer


def held(optimizer):
    tensors = (t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor))
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())


def trained(dtype, shapes=SHAPES):
    return Counter((torch.Size(shape).numel(), dtype.itemsize) for shape in shapes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", REAL)
def test_states_after_a_step_are_the_counted_ones(name, dtype):
    counted = optimizer_bytes(name, trained(dtype))

    assert held(stepped(name, dtype)) == counted.on_card + counted.paged - _in_use(counted)


def _in_use(counted):
    """The largest paged state is counted on the card too, while it is updated."""
    return sum(term.bytes for term in counted.terms if "paged" in term.name)


def test_only_small_tensors_leave_no_tables():
    counted = optimizer_bytes("adamw-8bit", trained(torch.float32, [(4095,)]))

    assert counted.on_card == held(stepped("adamw-8bit", torch.float32, [(4095,)])) == 2 * 4 * 4095


def test_paged_are_the_states_that_the_library_pages(monkeypatch):
    """`get_state_buffer` pages on CUDA only: asked here with a tensor that says it is there."""
    asked = []
    monkeypatch.setattr(
        bnb.functional, "get_paged", lambda *shape, dtype, device: asked.append(shape) or torch.empty(0)
    )
    monkeypatch.setattr(bnb.functional, "fill", lambda *_: None)
    optimizer = bnb.optim.PagedAdamW8bit([torch.nn.Parameter(torch.ones(1))])
    for shape in SHAPES:
        optimizer.get_state_buffer(torch.empty(shape, device="meta"), dtype=torch.uint8)

    paged = sum(torch.Size(shape).numel() for shape in asked)
    assert optimizer_bytes("paged-adamw-8bit", trained(torch.float32)).paged == 2 * paged > 0


def test_terms_sum_to_what_is_on_the_card():
    for name in REAL:
        counted = optimizer_bytes(name, trained(torch.bfloat16))
        assert counted.on_card == sum(term.bytes for term in counted.terms)
        assert all(term.shown for term in counted.terms)
