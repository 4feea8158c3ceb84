"""Known architectures, told twice. What knows the Hub is imported late: its address is set after this file is read."""

import json

import pytest


@pytest.fixture(scope="module")
def known():
    """Inventories from headers and from the class, by name; each pair is made once."""
    from tests.estimation.headers.inventories import both
    from tests.tiny_models import ARCHITECTURES

    made = {}

    def pair(name):
        if name not in made:
            made[name] = both(json.loads(ARCHITECTURES[name]().to_json_string(use_diff=False)))
        return made[name]

    return pair
