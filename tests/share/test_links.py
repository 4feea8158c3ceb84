"""A link is the state: what is written is read back, and links of any age and spelling are understood."""

import os
import subprocess
import sys
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from quantspace.estimation.calculator import KV_DTYPES, estimate
from quantspace.estimation.hardware import gpus
from quantspace.estimation.training.optimizers import OPTIMIZERS
from quantspace.estimation.training.workload import MAX_RANK, METHODS
from quantspace.precision import PRECISIONS
from quantspace.settings import settings
from quantspace.share import finetuning
from quantspace.share.finetuning import Finetuning
from quantspace.share.links import (
    DEFAULT,
    State,
    badge_url,
    card_url,
    embed_url,
    from_query,
    page_url,
    public_base,
    to_query,
    understood,
)  # fmt: skip

BASE = "https://quantspace.hf.space"
WORD = st.text("abcXYZ019", min_size=1, max_size=12)
TRAININGS = st.sampled_from([(method, base) for method, bases in METHODS.items() for base in ("", *bases[1:])]).flatmap(
    lambda chosen: st.builds(
        Finetuning,
        method=st.just(chosen[0]),
        base=st.just(chosen[1]),
        rank=st.integers(1, MAX_RANK),
        targets=st.sampled_from(["all-linear", "attention"]),
        sequence=st.integers(1, settings().max_context),
        step_batch=st.integers(1, settings().max_batch),
        optimizer=st.sampled_from(list(OPTIMIZERS)),
        checkpointing=st.booleans(),
    )
)
STATES = st.builds(
    State,
    model=st.one_of(
        st.just(""),
        st.builds("{}/{}".format, WORD, WORD),
        st.builds("{}/{}:Q4_K_M".format, WORD, WORD),
        st.text(st.characters(exclude_characters="%", exclude_categories=["Cs"])).map(str.strip),
    ),
    gpu=st.sampled_from(list(gpus())),
    count=st.integers(1, settings().max_gpu_count),
    context=st.integers(1, settings().max_context),
    batch=st.integers(1, settings().max_batch),
    kv=st.sampled_from(KV_DTYPES),
    ram=st.one_of(st.integers(0, 100_000).map(float), st.floats(0, 100_000, allow_nan=False)),
    images=st.integers(0, settings().max_images),
    revision=st.one_of(st.just("main"), st.just("refs/pr/1"), WORD),
    precision=st.sampled_from(["", *PRECISIONS, "gguf:a b/Model-Q4_K_M.gguf"]),
    finetuning=TRAININGS,
    tab=st.sampled_from(["", "finetune", "what-fits"]),
)


@given(STATES)
def test_what_is_written_is_read_back(state):
    assert from_query(QueryParams(to_query(state))) == (state, ())
    assert from_query(parse_qs(to_query(state), keep_blank_values=True)) == (state, ())


@given(STATES)
def test_card_and_context_are_written_with_every_model_and_of_others_what_differs_from_the_defaults(state):
    written = set(parse_qs(to_query(state), keep_blank_values=True))
    own = {name for name in State.__slots__ if getattr(state, name) != getattr(DEFAULT, name)} - {"finetuning"}
    tuned = {name for name in finetuning.FIELDS if getattr(state.finetuning, name) != getattr(Finetuning(), name)}
    assert written == own | tuned | ({"gpu", "context"} if state.model else set())


def test_a_link_means_the_same_where_the_app_opens_with_another_card_and_context(tmp_path):
    query = embed_url("", State("google/gemma-3-4b-it")).partition("?")[2]
    code = (
        "from urllib.parse import parse_qs; from quantspace.share.links import State, from_query\n"
        f"state = from_query(parse_qs({query!r}))[0]\n"
        "print(State().gpu, State().context, state.gpu, state.context)"
    )
    elsewhere = os.environ | {"QUANTSPACE_DEFAULT_GPU": "l4", "QUANTSPACE_DEFAULT_CONTEXT": "4096"}
    done = subprocess.run([sys.executable, "-c", code], env=elsewhere, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["l4", "4096", "t4", "8192"]


@given(st.dictionaries(st.text(max_size=60), st.text(max_size=60)))
def test_anything_at_all_is_read_without_an_exception_and_can_be_written_again(parameters):
    state, ignored = from_query(parameters)
    assert from_query(QueryParams(to_query(state)))[0] == state
    assert all(len(name) <= 40 for name in ignored)


def test_the_default_state_has_no_query():
    assert to_query(DEFAULT) == ""
    assert page_url(f"{BASE}/", DEFAULT) == f"{BASE}/"


@pytest.mark.parametrize(
    ("link", "state"),
    [
        ("model=google/gemma-3-4b-it&gpu=t4&count=1&context=8192&batch=1&kv=auto", State("google/gemma-3-4b-it")),
        ("model=google%2Fgemma-3-4b-it", State("google/gemma-3-4b-it")),
        ("model=google%252Fgemma-3-4b-it", State("google/gemma-3-4b-it")),
        ("model=+gpt2+", State("gpt2")),
        ("MODEL=gpt2&GPU=L4", State("gpt2", gpu="l4")),
        ("gpu=NVIDIA%20A100-SXM4-80GB", State(gpu="a100-80gb")),
        ("gpu_count=4&gpu=l4", State(gpu="l4", count=4)),
        ("gpus=2", State(count=2)),
        ("context=32k", State(context=32768)),
        ("ctx=16_384", State(context=16384)),
        ("context_length=4,096", State(context=4096)),
        ("batch_size=8", State(batch=8)),
        ("kv_dtype=fp16", State(kv="float16")),
        ("kv-dtype=INT4", State(kv="int4")),
        ("kv=", State()),
        ("ram_gb=64", State(ram=64.0)),
        ("ram=0.5", State(ram=0.5)),
        ("images=3", State(images=3)),
        ("rev=refs/pr/3", State(revision="refs/pr/3")),
        ("precision=NF4_DQ", State(precision="nf4-dq")),
        ("quant=Q4_K_M", State(precision="q4_k_m")),
        ("dtype=bfloat16", State(precision="bf16")),
        ("row=4bit", State(precision="nf4")),
        ("precision=gguf:m-Q8_0.gguf", State(precision="gguf:m-Q8_0.gguf")),
        ("tab=Finetune", State(tab="finetune")),
        ("method=LoRA&base=fp16&rank=64", State(finetuning=Finetuning("lora", "fp16", 64))),
        ("method=lora&base=bf16", State(finetuning=Finetuning("lora"))),
        ("lora_r=8&target_modules=all_linear&seq_len=4k", State(finetuning=Finetuning(rank=8, sequence=4096))),
        ("optim=adamw_torch&train_batch=2", State(finetuning=Finetuning(optimizer="adamw", step_batch=2))),
        ("optim=paged_adamw_8bit&gradient_checkpointing=True", State()),
        ("checkpointing=off", State(finetuning=Finetuning(checkpointing=False))),
        ("__theme=dark&model=gpt2&logs=container", State("gpt2")),
    ],
)
def test_links_of_other_versions_and_spellings_are_understood(link, state):
    assert from_query(QueryParams(link)) == (state, ())


@pytest.mark.parametrize(
    "link",
    [
        "gpu=voodoo2", "count=0", "count=9", "count=two", "context=-1", "context=many", "context=1e99", "batch=1.5",
        "kv=int3", "ram=-1", "ram=nan", "images=-1", "revision=../x", "precision=int3", "precision=gguf:../x",
        "tab=<b>", "colour=blue", f"model={'a' * 5000}", "images=", "gpu=",
        "method=dpo", "base=q4_k_m", "base=bf16", "rank=0", "rank=many", "targets=q_proj", "sequence=-1",
        "step_batch=x", "optimizer=lion", "checkpointing=perhaps",
    ],
)  # fmt: skip
def test_what_is_broken_or_unknown_is_ignored_and_named(link):
    assert from_query(QueryParams(f"{link}&batch_size=3")) == (State(batch=3), (link.partition("=")[0],))


def test_of_a_repeated_parameter_the_last_that_is_understood_counts():
    assert from_query(QueryParams("batch=2&batch=4&batch=x")) == (State(batch=4), ("batch",))
    assert from_query(QueryParams("batch=4&batch=4")) == (State(batch=4), ())


def test_the_name_of_today_counts_before_an_older_one():
    assert from_query(QueryParams("count=4&gpu_count=2")) == (State(count=4), ("gpu_count",))
    assert from_query(QueryParams("gpu_count=2&count=4"))[0] == State(count=4)


def test_a_base_that_the_method_does_not_take_is_named_and_the_methods_own_is_taken():
    state, ignored = from_query(QueryParams("method=full&base=nf4&rank=4"))
    assert state.finetuning == Finetuning("full", rank=4) and state.finetuning.precision == "bf16"
    assert ignored == ("base",)


def test_what_is_given_is_known_from_what_is_a_default():
    assert understood(QueryParams("ctx=8192&gpu=voodoo2&colour=red&rank=16")) == {"context", "rank"}


def test_names_of_somebody_else_are_passed_over():
    assert from_query({"theme": "dark", "model": "gpt2"}, also=("theme",)) == (State("gpt2"), ())
    assert from_query({"theme": "dark"})[1] == ("theme",)


def test_a_name_of_markup_is_cut_and_kept_on_one_line():
    _, (name,) = from_query({"<script>\n" + "x" * 100: "1"})
    assert len(name) == 40 and "\n" not in name


def test_the_addresses_carry_the_state():
    state = State("google/gemma-3-4b-it", gpu="l4", precision="nf4", finetuning=Finetuning(rank=8), tab="finetune")
    query = "model=google/gemma-3-4b-it&gpu=l4&context=8192&precision=nf4"
    assert page_url(BASE, state) == f"{BASE}/?{query}&rank=8&tab=finetune"
    assert embed_url(BASE, state, theme="dark") == f"{BASE}/embed?{query}&theme=dark"
    assert badge_url(BASE, state) == f"{BASE}/badge.svg?{query}"
    assert card_url(BASE, state) == f"{BASE}/card.svg?{query}"
    assert card_url(BASE, state, "png", "dark") == f"{BASE}/card.png?{query}&theme=dark"


def test_a_model_of_markup_is_no_markup_in_an_address():
    url = page_url(BASE, State('"><script>alert(1)</script>&gpu=l4#x'))
    assert not set('<>"#') & set(url)
    assert from_query(QueryParams(urlsplit(url).query))[0].model == '"><script>alert(1)</script>&gpu=l4#x'


def test_a_space_is_named_by_its_public_host(monkeypatch):
    monkeypatch.setenv("SPACE_HOST", "someone-quantspace.hf.space")
    assert public_base("http://10.0.0.7:7860/") == "https://someone-quantspace.hf.space"
    monkeypatch.setenv("SPACE_HOST", "evil.example/path?x=")
    assert public_base("http://127.0.0.1:7860/") == "http://127.0.0.1:7860"


def test_a_state_asks_for_its_estimate():
    state, _ = from_query({"model": "openai-community/gpt2", "gpu": "l4", "context": "512", "ram": "0"})
    found = estimate(**state.arguments())
    assert (found.hardware.gpu.id, found.workload.context, found.hardware.host_bytes) == ("l4", 512, 0)
