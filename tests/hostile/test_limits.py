"""What a config may ask for, and what ends a worker that asks for more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from quantspace.errors import ModelUnsupported
from quantspace.estimation import config_limits, worker_pool
from quantspace.estimation.config_limits import MAX_DEPTH, MAX_ENTRIES, MAX_VALUES, SIZE_LIMITS, check
from quantspace.estimation.worker_pool import TooLarge, TooLong, WorkStopped, run_apart
from quantspace.hub.catalogue import bundled_models, find_bundled

from . import work
from .samples import LLAMA

pytestmark = pytest.mark.xdist_group("hostile")

PUBLISHED = sorted((Path(__file__).parents[1] / "data" / "configs").glob("*.json"))  # more than come with the app


def refusal(**changes) -> str:
    with pytest.raises(ModelUnsupported) as caught:
        check({**LLAMA, **changes})
    assert caught.value.hint.endswith(".")
    return caught.value.message


def expect_accepted(name: str, config: dict) -> None:
    """Without a remark, but for that on code of its own."""
    assert len(check(config)) == bool(config.get("auto_map")), name


class TestConfigLimits:
    def test_every_bundled_config_is_accepted(self):
        for model_id in bundled_models():
            expect_accepted(model_id, find_bundled(model_id).config)

    @pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
    def test_every_published_config_is_accepted(self, path):
        expect_accepted(path.stem, json.loads(path.read_text())["config"])

    def test_no_published_config_comes_near_a_limit(self):
        assert all(4 * limit.largest <= limit.most for limit in SIZE_LIMITS)
        assert MAX_VALUES >= 4 * 67_072 and MAX_ENTRIES >= 4 * 22_422 and MAX_DEPTH >= 4 * 8

    @pytest.mark.parametrize("limit", SIZE_LIMITS, ids=lambda limit: limit.keys.pattern[:40])
    def test_a_limit_is_accepted_and_one_more_is_not(self, limit):
        key = next(key for key in EXAMPLES if first_limit(key) is limit)
        check({**LLAMA, key: limit.most})
        check({**LLAMA, key: limit.least})
        assert f"{limit.most:,}" in refusal(**{key: limit.most + 1})
        assert f"{limit.least:,}" in refusal(**{key: limit.least - 1})

    @pytest.mark.parametrize("inside", [{"text_config": None}, {"thinker_config": {"audio_config": None}}])
    def test_limits_hold_in_parts_of_a_model_too(self, inside):
        deep = json.loads(json.dumps(inside).replace("null", '{"num_hidden_layers": 100000}'))
        assert "100,000 as num_hidden_layers" in refusal(**deep)

    def test_limits_hold_in_lists(self):
        assert "-3 as num_key_value_heads" in refusal(num_key_value_heads=[8, 8, [-3]])

    def test_objects_in_lists_of_lists_are_looked_at(self):
        assert "to_dict" in refusal(x=[[{"to_dict": 1}]])
        assert "100,000 as num_hidden_layers" in refusal(x=[[[{"y": [[{"num_hidden_layers": 100_000}]]}]]])

    def test_code_of_a_repository_is_said_to_be_ignored(self):
        assert "never run" in check({**LLAMA, "auto_map": {"AutoModel": "x.Y"}})[0]
        assert check(LLAMA) == ()

    def test_every_method_of_the_config_class_is_no_setting(self):
        from transformers import PreTrainedConfig

        methods = {name for name in dir(PreTrainedConfig) if callable(getattr(PreTrainedConfig, name, None))}
        for name in methods:
            assert name in refusal(**{name: 1})

    def test_checking_takes_no_torch(self):
        program = (
            "import sys; from quantspace.estimation import config_limits, worker_pool;"
            "print([name for name in ('torch', 'transformers', 'gradio') if name in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60
        )
        assert done.stdout.strip() == "[]", done.stderr

    @pytest.mark.parametrize("values", [MAX_VALUES + 10, 10 * MAX_VALUES])
    def test_a_config_of_too_many_values_is_refused_at_once(self, values):
        config = {**LLAMA, "parts": [[0] * 1000 for _ in range(values // 1000)]}
        started = time.process_time()
        with pytest.raises(ModelUnsupported, match="values"):
            check(config)
        assert time.process_time() - started < 1

    def test_a_config_deeper_than_the_stack_is_refused(self):
        deep: dict = {}
        for _ in range(100_000):
            deep = {"a": deep}
        assert "nested deeper" in refusal(text_config=deep)
        while deep:  # Python frees what is nested this deep by recursion
            deep = deep.pop("a", {})


EXAMPLES = (
    "num_hidden_layers", "encoder_layers", "max_window_layers", "num_experts", "num_attention_heads", "vocab_size",
    "type_vocab_size", "n_positions", "sliding_window", "num_labels", "image_size", "hidden_size", "intermediate_size",
    "q_lora_rank", "num_bits", "relative_attention_num_buckets",
)  # fmt: skip


def first_limit(key: str):
    return next((limit for limit in SIZE_LIMITS if limit.keys.fullmatch(key)), None)


@pytest.fixture(scope="module")
def apart():
    """Workers as the app has them."""
    worker_pool.isolate()
    run_apart(60, os.getpid)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    assert worker_pool.worker_pids() == []
    assert not [child for child in psutil.Process().children(recursive=True) if child.status() == "zombie"]


@pytest.mark.usefixtures("apart")
class TestWorkers:
    def test_what_the_work_returns_or_raises_comes_back(self):
        assert run_apart(4, work.add, 2, 3) == 5
        with pytest.raises(ModelUnsupported) as caught:
            run_apart(4, work.refuse)
        assert caught.value.hint == "Do that."

    def test_each_work_has_a_process_of_its_own(self):
        assert len({os.getpid(), *(run_apart(4, os.getpid) for _ in range(3))}) == 4

    def test_one_starts_in_a_moment(self):
        started = time.monotonic()
        run_apart(4, os.getpid)
        assert time.monotonic() - started < 1

    @pytest.mark.parametrize("what", [work.spin, work.spin_outside_of_python, work.catch_everything])
    def test_work_that_never_ends_is_ended_by_its_cpu_time(self, what):
        with pytest.raises(TooLong):
            run_apart(0.5, what)

    def test_work_that_only_waits_is_ended_on_the_wall(self):
        started = time.monotonic()
        with pytest.raises(TooLong):
            run_apart(0.2, work.wait)
        assert time.monotonic() - started < 3

    def test_memory_is_limited_below_a_gibibyte_in_all(self):
        with pytest.raises(TooLarge):
            run_apart(4, work.eat)
        assert 600 * 2**20 < run_apart(4, work.eat_and_tell) < 2**30

    @pytest.mark.parametrize("what", [work.die, work.answer_too_much, work.answer_unsendable])
    def test_work_that_breaks_its_worker_is_told(self, what):
        with pytest.raises((WorkStopped, RuntimeError)):
            run_apart(4, what)
        assert run_apart(4, work.add, 1, 1) == 2

    def test_what_is_nested_too_deep_to_be_sent_is_told(self):
        deep: list = []
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(TooLarge):
            run_apart(4, work.add, deep, deep)

    def test_somebody_elses_request_is_untouched_by_a_strange_one(self):
        with ThreadPoolExecutor() as threads:
            strange = threads.submit(run_apart, 1.5, work.spin)
            started = time.monotonic()
            assert run_apart(4, work.add, 1, 1) == 2
            assert time.monotonic() - started < 1
            assert not strange.done()
            with pytest.raises(TooLong):
                strange.result()

    def test_two_hundred_strange_builds_leave_the_server_as_it_was(self):
        def strange(number: int) -> None:
            with pytest.raises((ModelUnsupported, WorkStopped)):
                run_apart(0.3 if number % 20 == 0 else 4, *(work.STRANGE[number % len(work.STRANGE)]))

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(strange, range(20)))
            before = psutil.Process().memory_info().rss
            list(threads.map(strange, range(200)))
        assert psutil.Process().memory_info().rss - before < 16 * 2**20
        assert config_limits.check(LLAMA) == ()
