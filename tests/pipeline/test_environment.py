"""What importing `pipeline` sets for the programs that its commands start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NAME = "OMP_WAIT_POLICY"
SHOW = f"import pipeline, os; print(os.environ['{NAME}'])"


@pytest.mark.parametrize(("given", "found"), [({}, "PASSIVE"), ({NAME: "ACTIVE"}, "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_told_otherwise(given: dict[str, str], found: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != NAME} | given
    shown = subprocess.run([sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [found]
