"""The progress of the stage teacher, kept for the next start after an interruption."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from pipeline.process import interruption
from pipeline.process.interruption import Interrupted
from pipeline.stages.progress import Progress
from tsdsr import files
from tsdsr.config import Params
from tsdsr.errors import UserError
from tsdsr.training.checkpoint import CheckpointStore, Stopped
from tsdsr.training.teacher import Session, Values
from tsdsr.training.trainer import NonFiniteError


class Work:
    """The results of this and earlier starts: checkpoints of each training, and the directory being written.

    Attributes:
        teacher: the teacher's directory. latents: the unfinished cache of the fine-tuning.
        curve: losses by step; the steps of consecutive trainings are numbered on.
    """

    def __init__(self, folder: Path, params: Params) -> None:
        self._folder, self._checkpoint = folder, params.teacher.checkpoint
        self.teacher, self.latents = folder / "teacher", folder / "latents"
        self.curve: list[Values] = []
        self._steps = 0
        shutil.rmtree(self.teacher, ignore_errors=True)
        self.teacher.mkdir(parents=True)

    def train(self, name: str, steps: int, key: object, training: Callable[[Session], list[Values]]) -> None:
        """Run a training, or the rest of it.

        Args:
            key: every value that affects the result.
            training: returns the curve.

        Raises:
            Interrupted: after a checkpoint.
            UserError: it diverged.
        """
        store = CheckpointStore(self._folder / name, files.sha256_json(key), self._checkpoint.keep)
        with Progress(f"teacher: {name}", steps) as progress, interruption.deferred() as request:
            try:
                curve = training(Session(store, self._checkpoint.every, progress.show, request.asked))
            except Stopped as stopped:
                raise Interrupted(request.signum or signal.SIGTERM, f"{name}: {stopped}") from stopped
            except NonFiniteError as error:
                raise UserError(f"{name}: {error}") from error
        if request.signum is not None:
            raise Interrupted(request.signum, "the last checkpoint is kept")
        self.curve += [{**row, "step": row["step"] + self._steps} for row in curve]
        self._steps += steps
