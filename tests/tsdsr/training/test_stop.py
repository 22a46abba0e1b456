"""A run that is asked to stop: a checkpoint at that step, then the same end as if it had not been."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from tests.tsdsr.training.rig import all_adapters, distill_config, trainer
from tsdsr.training.checkpoint import Stopped


def finished(directory: Path, **options):
    made = trainer(distill_config(), directory, **options)
    made.run()
    return made


def equal(found, wanted) -> bool:
    a, b = all_adapters(found.method.student), all_adapters(wanted.method.student)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.parametrize("step", [1, 2, 5])
def test_it_stops_after_the_step_and_goes_on_to_the_same_end(tmp_path: Path, step: int) -> None:
    asked = iter([False] * (step - 1) + [True])
    with pytest.raises(Stopped, match=f"stopped after step {step} of 6") as caught:
        finished(tmp_path / "cut", stop=lambda: next(asked))
    assert (caught.value.step, caught.value.steps) == (step, 6)
    assert sorted(path.name for path in (tmp_path / "cut").iterdir())[-1] == f"step-{step:08d}"
    resumed, whole = finished(tmp_path / "cut"), finished(tmp_path / "whole")
    assert equal(resumed, whole)
    assert resumed.history == whole.history  # to the bit: a checkpoint off the rhythm changes no mean


def test_asked_at_the_last_step_it_ends(tmp_path: Path) -> None:
    steps: list[int] = []
    made = trainer(distill_config(), tmp_path, on_step=lambda step, _: steps.append(step), stop=lambda: len(steps) == 6)
    made.run()
    assert len(steps) == 6


def test_a_clock_set_back_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are ordered by step: neither the clock nor the files' times decide what is resumed from."""
    whole = finished(tmp_path / "whole")
    clock = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    asked = iter([False] * 4 + [True])
    with pytest.raises(Stopped):
        finished(tmp_path / "cut", stop=lambda: next(asked))
    newest_last = sorted((tmp_path / "cut").iterdir())
    for age, path in enumerate(newest_last):  # the newest step has the oldest time
        os.utime(path, (10**9 - age * 86400,) * 2)
    steps: list[int] = []
    resumed = finished(tmp_path / "cut", on_step=lambda step, _: steps.append(step))
    assert steps[0] == 6
    assert equal(resumed, whole)
