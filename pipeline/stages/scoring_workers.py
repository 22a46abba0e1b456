"""Scoring spread over Ray workers, for many images on a machine without a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from pipeline.cluster import runtime
from tsdsr import metrics
from tsdsr.config import Params
from tsdsr.metrics import BatchScores, ImageBatch

AHEAD = 2  # decoded batches that wait, per worker
RESTARTS = 3  # restarts of a worker that died


def executor(params: Params) -> metrics.Executor:
    """By `evaluate.fan_out`: in this process for few images or with a GPU, otherwise on Ray's workers."""
    folders = weights_folders(params)
    device = metrics.choose_device()
    local = metrics.LocalExecutor(device, folders)
    config = params.evaluate.fan_out
    if config.workers == 0 or device.type == "cuda":
        return local
    return Spread(local, config.workers, config.above_images, folders)


def weights_folders(params: Params) -> list[str]:
    """The params' folders of metric weights."""
    return [params.evaluate.weights_dir] if params.evaluate.weights_dir else []


class Spread:
    """Counts the images without scores; above the threshold, starts workers for them."""

    def __init__(self, local: metrics.LocalExecutor, workers: int, above_images: int, folders: list[str]) -> None:
        self._local, self._workers, self._above, self._folders = local, workers, above_images, folders
        self._actors: list[Any] = []

    def __call__(self, batches: Iterable[ImageBatch]) -> Iterator[BatchScores]:
        stream = iter(batches)
        held: list[ImageBatch] = []
        while sum(len(batch.names) for batch in held) <= self._above:
            batch = next(stream, None)
            if batch is None:
                return self._local(held)
            held.append(batch)
        return self._spread(chain(held, stream))

    def _spread(self, stream: Iterator[ImageBatch]) -> Iterator[BatchScores]:
        ray = self._start()
        idle = list(self._actors) * AHEAD
        running = {actor.score.remote(batch): actor for actor, batch in zip(idle, islice(stream, len(idle)))}
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            actor = running.pop(done)
            batch = next(stream, None)
            if batch is not None:
                running[actor.score.remote(batch)] = actor
            yield ray.get(done)

    def _start(self) -> Any:
        runtime.start(num_cpus=self._workers)
        import ray

        if not self._actors:
            # A worker that is killed for its memory is restarted, and its batches are repeated.
            remote = ray.remote(num_cpus=1, max_restarts=RESTARTS, max_task_retries=RESTARTS)(Worker)
            self._actors = [remote.remote(self._folders) for _ in range(self._workers)]
        return ray


class Worker:
    """A Ray actor: one process, one thread, one copy of every model."""

    def __init__(self, folders: list[str]) -> None:
        import torch

        torch.set_num_threads(1)
        self._executor = metrics.LocalExecutor(torch.device("cpu"), folders)

    def score(self, batch: ImageBatch) -> BatchScores:
        return self._executor.score(batch)
