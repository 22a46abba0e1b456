"""psi on the photographs' own trajectories, computed once for K draws of time and noise a photograph.

In Eqs. (4)-(6) the teacher's predictions on z do not depend on the student. With fresh noise at every step they are new
all the same; with K fixed draws a photograph (`distill.tsd.trajectory_draws`) they can be taken before training: a
third of the TSD term's network rows less, for K noises a photograph instead of endlessly many.

Legend: K draws, N + 1 points, C h w latent.
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
_TENSOR = "velocities"


class HQTrajectories:
    """The velocities on disk: one file a photograph, [K,N+1,C,h,w] float32.

    Args:
        directory: of all such runs; this one's files are in a folder of it named by `key`.
        key: every value that the velocities depend on.
        draws: K.
    """

    def __init__(self, directory: str | Path, key: Any, draws: int) -> None:
        self.directory, self.draws = Path(directory) / files.sha256_json(key)[:16], draws

    def prepare(self, names: Sequence[str], compute: Callable[[str], Tensor]) -> None:
        """Compute what is missing, shared among the workers; returns once everything is there.

        Args:
            names: the photographs. compute: name -> [K,N+1,C,h,w]; one photograph a call, so that the result does not
                depend on what else is computed.
        """
        world = distributed.get_world_size() if distributed.is_initialized() else 1
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        self._compute_missing(names[rank::world], compute)
        if world > 1:
            distributed.barrier()
        self._compute_missing(names, compute)  # what another worker wrote to a disk that this one does not see

    def read(self, names: Sequence[str], draws: Sequence[int]) -> list[Tensor]:
        """Draw `draws[b]` of photograph `names[b]`: N + 1 tensors [B,C,h,w]."""
        rows = []
        for name, draw in zip(names, draws, strict=True):
            with safe_open(self._path(name), framework="pt") as file:
                rows.append(file.get_slice(_TENSOR)[draw])
        return list(torch.stack(rows, dim=1))

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
                logger.info("photographs' trajectories: %d of %d, %.0f s left", done, len(missing), left)
