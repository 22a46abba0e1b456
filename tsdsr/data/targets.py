"""Tensors that depend on a photograph and not on the student, computed once by the first run that needs them.

For example, the teacher's predictions on a photograph's own trajectories. A restoring teacher's outputs are in the
latent cache.
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
    """One float32 tensor per photograph, one file each.

    Args:
        directory: shared by all runs; runs with equal `key` share a folder in it.
        key: all values that affect the tensors.
    """

    def __init__(self, directory: str | Path, key: Any) -> None:
        self.directory = Path(directory) / files.sha256_json(key)[:16]

    def prepare(self, names: Sequence[str], compute: Callable[[str], Tensor]) -> None:
        """Compute the missing tensors, shared among the workers, and return when all exist.

        Args:
            names: the photographs.
            compute: name -> tensor; called with one photograph, so that no result depends on others.
        """
        world = distributed.get_world_size() if distributed.is_initialized() else 1
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        self._compute_missing(names[rank::world], compute)
        if world > 1:
            distributed.barrier()
        self._compute_missing(names, compute)  # written by another worker to a disk that this one does not share

    def read(self, names: Sequence[str]) -> Tensor:
        """The tensors of `names`, stacked."""
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
