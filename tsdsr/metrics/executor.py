"""Executors compute the scores of batches of images: in this process, or with the same interface in Ray's workers.

Legend: B images of a batch, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tsdsr.device import pick, require
from tsdsr.errors import UserError
from tsdsr.metrics import backend
from tsdsr.metrics.registry import select


@dataclass(frozen=True)
class ImageBatch:
    """A worker's input: images of one size that lack the same scores.

    Attributes:
        names: (B,).
        metrics: names of the metrics to compute.
        images: uint8 (B, H, W, 3).
        references: likewise, or None.
    """

    names: tuple[str, ...]
    metrics: tuple[str, ...]
    images: np.ndarray
    references: np.ndarray | None


@dataclass(frozen=True)
class BatchScores:
    """A worker's output.

    Attributes:
        names: (B,), of the batch.
        values: metric -> (B,) scores.
        failures: metric -> the reason why it could not be loaded.
    """

    names: tuple[str, ...]
    values: dict[str, list[float]]
    failures: dict[str, str]


Executor = Callable[[Iterable[ImageBatch]], Iterator[BatchScores]]


class LocalExecutor:
    """Computes batches one after another in this process; models are built at their first use and kept.

    A GPU processes a batch at once. A CPU processes its images one by one, which is faster, since they stay in its
    caches, and makes a score independent of the other images.
    """

    def __init__(self, device: torch.device, folders: Sequence[str | Path] = ()) -> None:
        self._device, self._folders = device, tuple(folders)
        self._scorers: dict[str, backend.Score] = {}

    def __call__(self, batches: Iterable[ImageBatch]) -> Iterator[BatchScores]:
        return map(self.score, batches)

    def score(self, batch: ImageBatch) -> BatchScores:
        """Every score of one batch."""
        rows = len(batch.names)
        step = rows if self._device.type == "cuda" else 1
        result = BatchScores(batch.names, {name: [] for name in batch.metrics}, {})
        for start in range(0, rows, step):
            images = self._tensor(batch.images[start : start + step])
            references = None if batch.references is None else self._tensor(batch.references[start : start + step])
            for name, values in list(result.values.items()):
                try:
                    values += self._scorer(name)(images, references).tolist()
                except UserError as error:
                    result.failures[name] = str(error)
                    del result.values[name]
        return result

    def _scorer(self, name: str) -> backend.Score:
        if name not in self._scorers:
            self._scorers[name] = backend.scorer(select([name])[0], self._device, self._folders)
        return self._scorers[name]

    def _tensor(self, images: np.ndarray) -> Tensor:
        return torch.tensor(images).to(self._device).permute(0, 3, 1, 2).float().div(255)


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is a CUDA device if there is one, otherwise the CPU.

    Raises:
        UserError: `cuda` was requested and there is none.
    """
    device = pick(name)
    require(device, "--device")
    return device
