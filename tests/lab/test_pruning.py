"""Pruning, by bytes: what it saves, and what it does not."""

import copy

import pytest
import torch

from quantspace.lab.experiments import Pruning, PruningResult
from quantspace.lab.lessons import demo_model, demo_tokenizer, questions, recall
from quantspace.lab.pruning import CsrLinear, feed_forwards, layer_states
from quantspace.lab.recipes import prune_rows, prune_unstructured, shrink_feed_forward, without_rows
from quantspace.lab.sizes import held_bytes

OUT, IN = 704, 256
PLAIN = 4 * OUT * IN


@pytest.fixture(scope="module")
def model():
    return demo_model()


@pytest.fixture(scope="module")
def states(model):
    return {state.name: state for state in layer_states(feed_forwards(model)[0].gate_proj, 0.5)}


@pytest.fixture(scope="module")
def result():
    asked = Pruning((0.2, 0.7), questions=16)
    return [event for event in asked.run() if isinstance(event, PruningResult)][-1]


def test_zeros_take_the_same_bytes_in_memory_and_on_the_disk(states):
    plain = states["as it is"]
    assert plain.held_bytes == PLAIN
    for name in ("unstructured, permanent", "structured, rows zeroed"):
        assert states[name].nonzero == 0.5
        assert (states[name].held_bytes, states[name].saved_bytes) == (plain.held_bytes, plain.saved_bytes)


def test_a_mask_that_is_held_doubles_the_memory(states):
    assert states["unstructured, mask held"].held_bytes == 2 * PLAIN


def test_the_layer_rebuilt_without_its_rows_is_smaller(states):
    assert states["structured, rebuilt smaller"].held_bytes == PLAIN // 2
    assert states["structured, rebuilt smaller"].saved_bytes < 0.51 * states["as it is"].saved_bytes


def test_csr_costs_an_index_of_4_bytes_with_every_value(states):
    kept = OUT * IN // 2
    assert states["unstructured, as CSR"].held_bytes == 4 * kept + 4 * kept + 4 * (OUT + 1)


def test_csr_saves_once_more_than_half_is_gone(model):
    sparse = {state.name: state for state in layer_states(feed_forwards(model)[0].gate_proj, 0.7)}
    assert sparse["unstructured, as CSR"].held_bytes < 0.61 * PLAIN


def test_every_pruned_state_of_a_kind_gives_the_same_outputs(model):
    layer = copy.deepcopy(feed_forwards(model)[0].gate_proj)
    prune_unstructured(layer, 0.5)
    hidden = torch.randn(8, IN, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(CsrLinear(layer)(hidden), layer(hidden), atol=1e-5)
        rows = copy.deepcopy(feed_forwards(model)[0].gate_proj)
        prune_rows(rows, 0.5)
        alive = rows.weight.abs().sum(dim=1) > 0
        assert torch.allclose(without_rows(rows)(hidden), rows(hidden)[:, alive], atol=1e-5)


def test_no_state_changes_the_model_it_is_made_from(model):
    before = copy.deepcopy(model.state_dict())
    list(layer_states(feed_forwards(model)[0].gate_proj, 0.5))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_two_of_four_is_refused_without_a_card():
    if torch.cuda.is_available():
        pytest.skip("this machine has a card")
    with pytest.raises(RuntimeError):
        torch.sparse.to_sparse_semi_structured(torch.tensor([[1.0, 0, 1, 0]] * 64).repeat(1, 16).half())


def test_a_rebuilt_feed_forward_answers_as_the_zeroed_one(model):
    mlp = copy.deepcopy(feed_forwards(model)[0])
    prune_rows(mlp.gate_proj, 0.5)
    hidden = torch.randn(8, IN, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        zeroed = mlp(hidden)
        shrink_feed_forward(mlp)
        assert torch.allclose(mlp(hidden), zeroed, atol=1e-5)
    assert held_bytes(mlp) == 3 * PLAIN // 2


def test_the_curve_has_a_point_for_each_share_and_its_bytes(result):
    assert [one.sparsity for one in result.models] == [0.2, 0.7]
    for one in result.models:
        removed = round(one.sparsity * OUT)
        assert one.held_zeroed == result.held_bytes
        assert one.held_rebuilt == result.held_bytes - 4 * 3 * 4 * removed * IN


def test_more_pruned_costs_more_loss_and_whole_neurons_more_than_scattered_zeros(result):
    few, many = result.models
    assert few.loss_scattered < many.loss_scattered < many.loss_rebuilt
    assert few.loss_scattered < few.loss_rebuilt < many.loss_rebuilt


def test_the_curves_loss_is_that_of_a_model_pruned_by_hand(result):
    by_hand = demo_model()
    for mlp in feed_forwards(by_hand):
        for layer in (mlp.gate_proj, mlp.up_proj, mlp.down_proj):
            prune_unstructured(layer, 0.7)
    assert recall(by_hand, questions(demo_tokenizer(), 16)).loss == pytest.approx(result.models[1].loss_scattered)
