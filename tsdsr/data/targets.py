"""Tensors that belong to a photograph and not to the student, computed once by the first run that needs them.

Such are the teacher's predictions on a photograph's own trajectories. What a restoring teacher makes of a photograph is
in the latent cache.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed

from tsdsr import files

logger = logging.getLogger(__name__)
REPORT_SECONDS = 10.0
_TENSOR = "target"


class PhotographTargets:
    """A tensor a photograph, float32, one file each.

    Args:
        directory: of all runs; those of equal `key` share a folder of it.
        key: every value that the tensors depend on.
    """

    def __init__(self, directory: str | Path, key: Any) -> None:
        self.directory = Path(directory) / files.sha256_json(key)[:16]

    def prepare(self, names: Sequence[str], compute: Callable[[str], Tensor]) -> None:
        """Compute what is missing, shared among the workers; returns once everything is there.

        Args:
            names: the photographs.
            compute: name -> tensor; one photograph a call, so that no result depends on what else is computed.
        """
        world = distributed.get_world_size() if distributed.is_initialized() else 1
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        self._compute_missing(names[rank::world], compute)
        if world > 1:
            distributed.barrier()
        self._compute_missing(names, compute)  # what another worker wrote to a disk that this one does not see

    def read(self, names: Sequence[str]) -> Tensor:
        """Stacked, in the order of `names`."""
        return torch.stack([self._read(name, slice(None)) for name in names])

    def rows(self, names: Sequence[str], indices: Sequence[int]) -> Tensor:
        """Row `indices[b]` of photograph `names[b]`, stacked; the other rows are not read."""
        return torch.stack([self._read(name, index) for name, index in zip(names, indices, strict=True)])

    def _read(self, name: str, place: int | slice) -> Tensor:
        with safe_open(self._path(name), framework="pt") as file:
            tensor: Tensor = file.get_slice(_TENSOR)[place]
        return tensor

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}.safetensors"

    def _compute_missing(self, names: Sequence[str], compute: Callable[[str], Tensor]) -> None:
        missing = [name for name in names if not self._path(name).is_file()]
        started = reported = time.monotonic()
        for done, name in enumerate(missing, start=1):
            with files.atomic_file(self._path(name)) as path:
                save_file({_TENSOR: compute(name).float().cpu().contiguous()}, path)
            now = time.monotonic()
            if now - reported > REPORT_SECONDS or done == len(missing):
                reported, left = now, (now - started) / done * (len(missing) - done)
                logger.info("photographs' targets: %d of %d, %.0f s left", done, len(missing), left)
