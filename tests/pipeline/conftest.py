"""Stages read the environment and set it, and take signals: every test here leaves both as they were."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def own_ray() -> Iterator[None]:
    """A Ray that a test started goes with its file: it has the environment and the directory of its start."""
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture(autouse=True)
def same_process() -> Iterator[None]:
    environment = dict(os.environ)
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield
    os.environ.clear()
    os.environ.update(environment)
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
