"""What a training step waits for on a GPU: nothing, once its kernels are chosen."""

from __future__ import annotations

import pytest
import torch

from benchmarks import step_sides
from tsdsr.models import presets
from tsdsr.training.stepper import Stepper


def take(device: torch.device, steps: int, mode: str) -> None:
    """Steps of TSD-SR at the tiny preset's size; after the first, torch complains of whatever waits for the GPU."""
    tiny, config = presets.get("tiny"), step_sides.recipe("tiny")
    method = step_sides.untrained(tiny, config, device)
    batch = step_sides.random_batch(tiny, 1, 32, method, device)
    stepper = Stepper(method, spans=[range(1000)])
    stepper.take(0, step_sides.PHASE, [batch])
    try:
        torch.cuda.set_sync_debug_mode(mode)
        for step in range(1, steps):
            stepper.take(step, step_sides.PHASE, [batch])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_waits_for_nothing() -> None:
    take(torch.device("cuda", 0), 3, "error")
