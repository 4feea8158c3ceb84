"""The demo model as people meet it: small, and right about what it was taught, at every precision."""

import pytest
import torch

from quantspace.demo.check import exercise, measure
from quantspace.demo.curriculum import read_lessons
from quantspace.estimation.builder import demo_inventory
from quantspace.hub.demo import demo_config, demo_folder
from quantspace.precision import LOADABLE
from quantspace.ui.chat_view import DEMO_QUESTIONS

MEBIBYTE = 2**20


def test_the_folder_is_at_most_eight_mebibytes():
    assert sum(file.stat().st_size for file in demo_folder().iterdir()) <= 8 * MEBIBYTE


def test_every_quantizable_layer_has_sizes_that_suit_blocks_of_64():
    shapes = [tensor.shape for tensor in demo_inventory().tensors if tensor.quantizable]
    assert shapes
    assert all(size % 64 == 0 for shape in shapes for size in shape)


def test_it_is_a_llama_with_a_chat_template():
    assert demo_config()["architectures"] == ["LlamaForCausalLM"]
    assert (demo_folder() / "chat_template.jinja").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("precision", LOADABLE)
def test_it_answers_what_it_was_taught(precision):
    """Character for character, a sample of the lessons; its card has the figures for all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sample = [exercise(lesson, lesson.taught[0]) for lesson in read_lessons()[::6]]
    shares = measure(demo_folder(), precision, {"taught": sample})
    torch.set_num_threads(threads)
    assert shares["taught"] >= 0.95


@pytest.mark.parametrize("question", DEMO_QUESTIONS)
def test_what_the_page_suggests_asking_was_taught(question):
    assert any(question in lesson.taught for lesson in read_lessons())
