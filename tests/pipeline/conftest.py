"""Stages read the environment and set it, and take signals: every test here leaves both as they were."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def same_process() -> Iterator[None]:
    environment = dict(os.environ)
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield
    os.environ.clear()
    os.environ.update(environment)
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
