from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tsdsr.config import Params
from tsdsr.errors import UserError
from tsdsr.training.distillation import Job, distill


def test_a_gpu_that_is_not_there_is_one_clear_line(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    places = ("pairs", "latents", "teacher", "out", "curve", "checkpoints", "diagnostics", "validation", "trajectories")
    job = Job("full", 0, **{name: tmp_path / name for name in places})
    with pytest.raises(UserError, match="cuda, and torch finds no GPU"):
        distill(params, job, device=torch.device("cuda", 0))
