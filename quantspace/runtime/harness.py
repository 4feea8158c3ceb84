"""lm-eval with a model that is already in memory. Imported only where it is installed."""

from __future__ import annotations

import logging
import os
from typing import Any

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from ..errors import MeasurementFailed
from .benchmarks import Benchmark, Watch, own_tasks
from .loader import LoadedModel

_CODE = "HF_ALLOW_CODE_EVAL"  # what the metric that runs code asks for


class WatchedModel(HFLM):
    """The loaded model as the harness sees it: counts what it has answered, and stops when it is no longer wanted."""

    def __init__(self, loaded: LoadedModel, watch: Watch) -> None:
        self._watch = watch
        super().__init__(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=1)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        self._watch.total += len(requests)
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        self._watch.total += len(requests)
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        self._watch.total += len(requests)
        return super().generate_until(requests, disable_tqdm=True)

    def _model_call(self, inps: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        self._watch.step(inps.shape[0])
        with torch.inference_mode():
            return super()._model_call(inps, **kwargs)

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs: Any) -> torch.Tensor:
        self._watch.step(context.shape[0])
        return super()._model_generate(context, max_length, stop, **kwargs)


def run(benchmark: Benchmark, limit: int, loaded: LoadedModel, watch: Watch) -> tuple[float, float | None, int, str]:
    """Value and standard error of the benchmark's figure, how many questions were asked, and the harness's version.

    Raises:
        MeasurementFailed: the harness gave no such figure.
        Exception: whatever the harness raises.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if benchmark.runs_code:
        os.environ[_CODE] = "1"
    found = lm_eval.simple_evaluate(
        model=WatchedModel(loaded, watch),
        tasks=[benchmark.task],
        limit=limit,
        task_manager=TaskManager(**own_tasks()),
        log_samples=False,
        bootstrap_iters=0 if limit < 2 else 1000,
        confirm_run_unsafe_code=benchmark.runs_code,
    )
    figures = found["results"].get(benchmark.task) or found["groups"].get(benchmark.task, {})
    metric = benchmark.metric or _first_metric(figures)
    if metric not in figures:
        raise MeasurementFailed(
            f"lm-eval {lm_eval.__version__} gave no {metric} for {benchmark.label}, but {', '.join(figures)}.",
            "This version of the harness names it otherwise; use the one that requirements name.",
        )
    name, _, filtered = metric.partition(",")
    stderr = figures.get(f"{name}_stderr,{filtered}")
    questions = sum(counts["effective"] for counts in found["n-samples"].values())
    return float(figures[metric]), stderr if isinstance(stderr, float) else None, questions, lm_eval.__version__


def _first_metric(figures: dict[str, Any]) -> str:
    """The figure of a task whose metric nobody named."""
    return next((name for name in figures if "," in name and "_stderr" not in name), "")
