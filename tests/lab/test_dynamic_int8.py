"""Dynamic int8: bytes of files before and after, outputs, and silence."""

import warnings

import pytest
import torch
from torch import nn

from quantspace.lab.dynamic_int8 import deprecation_silenced, shrunk
from quantspace.lab.experiments import KINDS, DynamicInt8, DynamicResult
from quantspace.lab.recipes import quantize_dynamic_int8
from quantspace.runtime.job import Phase


@pytest.fixture(scope="module")
def rows():
    last = [event for event in DynamicInt8().run() if isinstance(event, DynamicResult)][-1]
    return {row.kind: row for row in last.rows}


def test_the_lstm_with_a_linear_is_saved_in_11_685_bytes_instead_of_27_541(rows):
    assert (rows["lstm"].saved_before, rows["lstm"].saved_after) == (27_541, 11_685)


def test_a_model_of_linear_layers_alone_shrinks_to_a_quarter(rows):
    row = rows["transformer"]
    assert row.left_bytes == 0
    assert row.held_bytes == 4 * 4 * (4 * (256 * 256 + 256) + 256 * 1024 + 1024 + 1024 * 256 + 256)
    assert row.saved_after / row.saved_before == pytest.approx(0.25, abs=0.01)


def test_embedding_and_norms_stay_in_fp32(rows):
    embedding, norms, frequencies = 2048 * 256, 9 * 256, 2 * 32
    assert rows["demo"].left_bytes == 4 * (embedding + norms + frequencies)


def test_outputs_move_a_little(rows):
    for row in rows.values():
        assert 0 < row.difference < 0.15 * row.scale


def test_the_chat_model_keeps_its_lessons(rows):
    assert rows["demo"].loss_before < 0.001
    assert rows["demo"].loss_after < 0.01


def test_every_kind_is_measured_in_turn():
    events = list(DynamicInt8(("lstm", "transformer")).run())
    assert [event.name for event in events if isinstance(event, Phase)] == [
        f"Measuring {KINDS['lstm']}",
        f"Measuring {KINDS['transformer']}",
    ]


def test_nothing_is_said_of_deprecation():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shrunk("lstm")


def test_integers_are_within_half_a_step_of_the_weights():
    torch.manual_seed(0)
    before = nn.Sequential(nn.Linear(64, 32))
    with deprecation_silenced():
        weight = quantize_dynamic_int8(before)[0].weight()
    assert weight.dtype == torch.qint8
    assert (weight.dequantize() - before[0].weight).abs().max() <= weight.q_scale() / 2 + 1e-7
