"""A local Hub with one repository of each kind, and the real client."""

import json
from collections.abc import Iterator

import pytest
from huggingface_hub import HfApi

from tests.hub import LocalHub
from tests.local_hub.support import CONFIG, TOKEN, WEIGHTS


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    """A running Hub with a small model, a gated one and a private one, and a user named ada."""
    hub = LocalHub()
    files = {"config.json": json.dumps(CONFIG), "model.safetensors": WEIGHTS, "onnx/extra/notes.txt": "notes"}
    hub.add_repo("org/name", files, tags=["license:mit"], pipeline_tag="text-generation", downloads=10, likes=3)
    hub.add_repo("org/gated", {"config.json": "{}", "model.safetensors": WEIGHTS}, gated="manual")
    hub.add_repo("ada/private", {"config.json": "{}"}, private=True)
    hub.add_account(TOKEN, "ada")
    with hub.running():
        yield hub


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    return HfApi(endpoint=hub.url, token=False)
