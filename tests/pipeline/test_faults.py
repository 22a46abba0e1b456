"""Killed by SIGKILL in each of the benchmark's ways, distillation ends with the bytes of an undisturbed run."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest


@pytest.mark.repro
@pytest.mark.timeout(500)
def test_killed_runs_end_with_the_same_bytes(root: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("faults", root / "benchmarks/faults.py")
    assert spec is not None
    assert spec.loader is not None
    faults = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(faults)
    survived, kills = faults.run(tmp_path, len(faults.WAYS), random.Random(0))
    assert survived == len(faults.WAYS)
    assert kills > 0
