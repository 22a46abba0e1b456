"""Atomic, verified checkpoints, of which the newest are kept.

A checkpoint is a directory `step-00000120` with `state.safetensors` and `state.json`, written aside and renamed; the
JSON holds the tensors' sha256. The newest valid one is used; a damaged one is skipped with a warning. The `key`
identifies the run of a checkpoint: those of another configuration are never resumed.
"""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tsdsr import files

logger = logging.getLogger(__name__)

TENSORS, META = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """The state after a step: tensors and plain values."""

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]


class Stopped(Exception):
    """The run stopped on request, with a checkpoint of its last step."""

    def __init__(self, step: int, steps: int) -> None:
        super().__init__(f"stopped after step {step} of {steps}; its checkpoint is saved")
        self.step, self.steps = step, steps

    def __reduce__(self) -> tuple[type[Stopped], tuple[int, int]]:
        return type(self), (self.step, self.steps)


class CheckpointStore:
    """Checkpoints of one run under one directory.

    Args:
        directory: created with the first checkpoint.
        key: identifies the run's configuration.
        keep: how many of the newest to keep.
    """

    def __init__(self, directory: str | Path, key: str, keep: int) -> None:
        self.directory, self.key, self.keep = Path(directory), key, keep

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write it completely or not at all, then remove all but the newest `keep` of those up to it.

        Later ones are damaged or another configuration's, and are removed too.

        Raises:
            UserError: the disk is full; earlier checkpoints are intact.
        """
        for unfinished in self.directory.glob(".step-*"):  # of a writer that was killed
            shutil.rmtree(unfinished, ignore_errors=True)
        path = self.directory / f"step-{checkpoint.step:08d}"
        with files.atomic_directory(path) as aside:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()},
                aside / TENSORS,
            )
            meta = {
                "key": self.key,
                "step": checkpoint.step,
                "sha256": files.sha256_file(aside / TENSORS),
                "values": checkpoint.values,
            }
            files.write_json(aside / META, meta)
        paths = self._paths()
        kept = [each for each in paths if each.name <= path.name][-self.keep :]
        for old in set(paths) - set(kept):
            shutil.rmtree(old, ignore_errors=True)
        return path

    def latest(self) -> Checkpoint | None:
        """The newest valid checkpoint of this run, or None."""
        for path in reversed(self._paths()):
            try:
                meta = files.read_json(path / META)
                if meta["key"] != self.key:
                    logger.warning("%s belongs to another configuration; not resumed", path)
                    continue
                if files.sha256_file(path / TENSORS) != meta["sha256"]:
                    raise ValueError("its checksum does not match")
                return Checkpoint(meta["step"], load_file(path / TENSORS), meta["values"])
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                logger.warning("%s is damaged (%s); trying the one before it", path, error)
        return None

    def _paths(self) -> list[Path]:
        found = self.directory.glob("step-*") if self.directory.is_dir() else []
        return sorted(path for path in found if re.fullmatch(r"step-\d{8}", path.name))
