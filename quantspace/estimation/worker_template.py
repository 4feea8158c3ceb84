"""What a worker process holds from its first moment: importing this module is the warm-up.

The fork server of `worker_pool.py` preloads it and every worker is forked from there, so that imports are paid
once, by nobody who waits. Work at import is otherwise not done in this package; a fork server's preload knows
nothing else. Nothing but that preload imports it.
"""

from __future__ import annotations

import gc
import logging
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # some classes would fetch their backbone from the Hub

import bitsandbytes  # noqa: F401

from ..errors import QuantSpaceError
from ..hub.demo import DEMO_ID, demo_config
from ..quiet import quiet_libraries
from .meta.reader import inventory_from_config

quiet_libraries()
try:  # a first build imports a hundred modules more
    inventory_from_config(demo_config(), DEMO_ID)
except QuantSpaceError as error:
    logging.getLogger(__name__).warning("the warm-up build failed: %s", error)
gc.collect()
gc.freeze()  # what is imported stays: to look at all of it again slows a build by half and copies its pages
