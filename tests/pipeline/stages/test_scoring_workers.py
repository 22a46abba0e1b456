"""Scoring on Ray's workers, with less room and fewer workers than it was given."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cluster import runtime
from pipeline.process import interruption
from pipeline.stages import scoring_workers
from tsdsr import metrics
from tsdsr.metrics import ImageBatch

STORE = 80 * 2**20  # bytes; Ray takes no less than 75 MiB
SIDE = 4000


@pytest.fixture(scope="module")
def small_store() -> Iterator[Any]:
    """Ray with an object store that no two batches fit into."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in runtime.ENVIRONMENT.items():
            patch.setenv(name, value)
        import ray

        with runtime._agents_told_their_ports():
            ray.init(address="local", num_cpus=2, object_store_memory=STORE, log_to_driver=False)
        yield ray
        ray.shutdown()


def batch(number: int) -> ImageBatch:
    """Two pictures in one, of one grey each: 92 MiB."""
    shape = (1, SIDE, SIDE, 3)
    images, references = (np.full(shape, grey, np.uint8) for grey in (100, 101 + 3 * number))
    assert images.nbytes + references.nbytes > STORE
    return ImageBatch((f"{number}.png",), ("psnr",), images, references)


@pytest.mark.repro
def test_a_full_object_store_and_a_killed_worker_cost_no_score(small_store: Any) -> None:
    local = metrics.LocalExecutor(torch.device("cpu"), [])
    spread = scoring_workers.Spread(local, workers=1, above_images=0, folders=[])
    found: dict[str, float] = {}
    for scores in spread(batch(number) for number in range(3)):
        found |= dict(zip(scores.names, scores.values["psnr"], strict=True))
        if len(found) == 1:
            (worker,) = spread._actors
            os.kill(small_store.get(worker.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)
    wanted = {f"{number}.png": 20 * np.log10(255 / (1 + 3 * number) * 255 / 219) for number in range(3)}  # of luma
    assert found == pytest.approx(wanted, abs=0.01)


@pytest.mark.repro
def test_sigterm_while_ray_waits_is_an_interruption(small_store: Any) -> None:
    def end_driver(pid: int) -> None:
        os.kill(pid, signal.SIGTERM)
        threading.Event().wait()

    with pytest.raises(interruption.Interrupted) as caught, interruption.raising():
        small_store.wait([small_store.remote(end_driver).remote(os.getpid())])
    assert caught.value.code == 75
