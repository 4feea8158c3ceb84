"""Repositories that are not simply a checkpoint: GGUF files, alone and beside one."""

import pytest
from playwright.sync_api import Page, expect

from quantspace import estimate
from quantspace.hub.demo import demo_folder
from tests.browser.test_flow import LOAD_MS, ROWS, choose
from tests.gguf_samples import quantized, sparse_gguf, tensors_of
from tests.hub import LocalHub

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("app")]

KINDS = ("Q8_0", "Q6_K", "Q4_K", "Q2_K")
HEADER = {
    "block_count": 64,
    "context_length": 40960,
    "embedding_length": 5120,
    "attention.head_count": 64,
    "attention.head_count_kv": 8,
    "attention.key_length": 128,
    "attention.value_length": 128,
}


@pytest.fixture(scope="module")
def repos(hub: LocalHub) -> LocalHub:
    """A repository of GGUF files of true size, and one that has them beside its safetensors."""
    shapes = tensors_of(estimate("Qwen/Qwen3-32B").inventory)
    large = {f"Qwen3-32B-{kind}.gguf": sparse_gguf("qwen3", HEADER, quantized(shapes, kind)) for kind in KINDS}
    hub.add_repo("source/Qwen3-32B-GGUF", large)
    small = {"block_count": 4, "context_length": 2048, "embedding_length": 256, "attention.head_count": 4}
    small |= {"attention.head_count_kv": 2, "attention.key_length": 64, "attention.value_length": 64}
    demo = tensors_of(estimate("quantspace/demo").inventory)
    file = sparse_gguf("llama", small, quantized(demo, "Q8_0", output="Q8_0"))
    hub.add_repo("source/both", {"demo-Q8_0.gguf": file}, folder=demo_folder())
    return hub


@pytest.fixture
def opened(page: Page, online_app: str, repos: LocalHub) -> Page:
    page.goto(f"{online_app}/?gpu=rtx-4090")
    expect(page.locator(ROWS)).to_have_count(7, timeout=LOAD_MS)
    return page


def test_files_alone_are_the_table_with_the_one_that_was_asked_for_in_view(opened):
    choose(opened, "source/Qwen3-32B-GGUF:q4_k")
    expect(opened.locator(ROWS)).to_have_count(len(KINDS), timeout=LOAD_MS)
    expect(opened.locator(".qs-source")).to_contain_text("from GGUF headers")
    expect(opened.locator("#fit-table button[data-precision]")).to_have_count(len(KINDS))
    asked = opened.locator(".qs-asked")
    expect(asked).to_have_attribute("data-row", "gguf:Qwen3-32B-Q4_K.gguf")
    expect(asked).to_be_in_viewport()
    expect(opened.locator("[data-row='gguf:Qwen3-32B-Q8_0.gguf']")).to_contain_text("layers on the GPU")


def test_the_link_of_a_file_leads_to_its_row(opened, repos):
    choose(opened, f"{repos.url}/source/Qwen3-32B-GGUF/blob/main/Qwen3-32B-Q2_K.gguf")
    expect(opened.locator(".qs-asked")).to_have_attribute("data-row", "gguf:Qwen3-32B-Q2_K.gguf", timeout=LOAD_MS)
    expect(opened.locator(".qs-asked")).to_be_in_viewport()


def test_files_beside_a_checkpoint_open_on_demand(opened):
    choose(opened, "source/both")
    expect(opened.locator(".qs-fit .qs-model")).to_have_text("source/both", timeout=LOAD_MS)
    expect(opened.locator(ROWS)).to_have_count(7)
    row = opened.locator("[data-row='gguf:demo-Q8_0.gguf']")
    expect(row).to_be_hidden()
    opened.get_by_text("1 GGUF file of this repository").click()
    expect(row).to_be_visible()
    expect(row.locator("button")).to_have_text("Load")
