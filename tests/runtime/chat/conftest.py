"""The demo model, loaded once. What knows the Hub is imported late: its address is set after this file is read."""

import time

import pytest


@pytest.fixture(scope="package")
def models():
    return {}


@pytest.fixture
def loaded(models, request):
    """The demo model at bf16, or at the precision that a test asks for; loaded once."""
    from quantspace.runtime.loader import load
    from tests.runtime.chat.asking import demo_job

    precision = getattr(request, "param", "bf16")
    if precision not in models:
        *_, models[precision] = load(demo_job(precision), [])
    return models[precision]


@pytest.fixture
def endless(loaded, monkeypatch):
    """The model without a token that ends an answer, at a pace that can be followed."""
    from tests.runtime.chat.asking import SECONDS_A_TOKEN

    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", None)
    handle = loaded.model.register_forward_hook(lambda *_: time.sleep(SECONDS_A_TOKEN))
    yield loaded
    handle.remove()
