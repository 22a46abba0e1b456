"""One trial of a sweep: distill with its values, score its student on pairs that it does not train on, report."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.sweep.ledger import FAILED, FINISHED, Ledger, TrialRecord
from pipeline.sweep.space import Point, nested
from pipeline.tracking import runs as tracking
from pipeline.tracking.outbox import locked
from tsdsr import seeding
from tsdsr.config import Params
from tsdsr.device import pick
from tsdsr.errors import UserError

if TYPE_CHECKING:
    from tsdsr.training.checkpoint import Checkpoint
    from tsdsr.training.distillation import DistillJob

logger = logging.getLogger(__name__)
Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Setup:
    """What every trial of a sweep needs, in a form that travels to Ray's workers.

    Attributes:
        params: the params that the values are laid over, as `Params.to_dict` gives them.
        directory: where `data` is. sweep: the ledger's folder.
        environment: variables that lead MLflow to the sweep's run.
    """

    params: dict[str, Any]
    directory: str
    sweep: str
    environment: dict[str, str]


def trial_params(params: Params, values: Point) -> Params:
    """The params a trial distills with: its values, the sweep's steps, and a checkpoint at every rung."""
    config = params.sweep
    budget = {
        "steps": config.steps,
        "checkpoint": {"every": config.early_stopping.grace_steps},
        "num_workers": 0,
        "threads_per_worker": max(1, math.floor(config.resources.cpus)),
    }
    return params.overlay({"distill": budget}).overlay(nested(values), origin="the sweep's values")


def run(values: Point, setup: Setup, report: Report) -> None:
    """Train and score one point; continues one that was interrupted, and runs none that has ended.

    Args:
        report: takes {"step": ..., <metric>: ...} at every rung and at the end; what was reported before comes again.
    """
    os.environ.update(setup.environment)
    os.chdir(setup.directory)
    params = Params.parse(setup.params)
    ledger = Ledger(Path(setup.sweep))
    record = ledger.begin(values)
    with locked(ledger.folder(record.key)):  # a searcher may suggest the same point twice
        record = ledger.begin(values)
        for step in sorted(record.scores):
            report({"step": step, params.sweep.metric: record.scores[step][0]})
        if record.end is None:
            _train(params, ledger, record, report)
    if record.score is not None:
        # Only now: a scheduler may kill the process that reports its last step.
        report({"step": record.last_step, params.sweep.metric: record.score})


def _train(base: Params, ledger: Ledger, record: TrialRecord, report: Report) -> None:
    from tsdsr.training.trainer import NonFiniteError

    try:
        params = trial_params(base, record.values)
    except UserError as error:  # values that each are in their space, and together are not valid
        ledger.close(record.key, FAILED, str(error))
        return
    try:
        with tracking.child(params, run_name(record)) as tracked:
            tracked.tags({"trial": record.number})
            Trial(params, ledger, record, tracked, report).train()
    except NonFiniteError as error:  # an answer too: these values diverge
        logger.warning("trial %s: %s", record.key, error)
        ledger.close(record.key, FAILED, str(error))
    else:
        ledger.close(record.key, FINISHED)


def run_name(record: TrialRecord) -> str:
    """What the trial is called in MLflow."""
    return f"trial-{record.number:02d}-{record.key}"


class Trial:
    """The training of one trial and its scores."""

    def __init__(
        self, params: Params, ledger: Ledger, record: TrialRecord, tracked: tracking.Run, report: Report
    ) -> None:
        from tsdsr.training.distillation import DistillJob

        self.params, self.ledger, self.record = params, ledger, record
        self.tracked, self.report = tracked, report
        self.folder = ledger.folder(record.key).resolve()
        self.job = DistillJob(
            name=run_name(record),
            seed=params.seed,
            pairs=(ledger.directory / "pairs/train").resolve(),
            latents=Path("data/latents").resolve(),
            teacher=Path("data/teacher").resolve(),
            out=self.folder / "student",
            curve=self.folder / "curve.csv",
            checkpoints=self.folder / "checkpoints",
            diagnostics=self.folder / "diagnostics.csv",
            validation=self.folder / "validation.csv",
            guarded=False,  # a trial is scored on photographs that the sweep holds out
            targets=Path(".tsdsr/targets").resolve(),
        )

    def train(self) -> None:
        from tsdsr.training.distillation import distill
        from tsdsr.training.trainer import Callbacks

        self._catch_up()
        distill(
            self.params,
            self.job,
            device=pick(self.params.distill.device),
            callbacks=Callbacks(
                on_metrics=lambda step, values: self.tracked.metrics(values, step=step),
                on_checkpoint=lambda step, values: self._at_rung(step),
            ),
        )
        self._score(self.params.distill.steps, self.job.out, report=False)

    def _catch_up(self) -> None:
        """Score the newest checkpoint if it is a rung's, and the trial was killed before it had its score."""
        checkpoint = latest_checkpoint(self.params, self.job)
        if checkpoint is not None and checkpoint.step not in self.record.scores:
            self._at_rung(checkpoint.step)

    def _at_rung(self, step: int) -> None:
        """Score the student of the checkpoint just written, if a decision falls at this step; the last has its own."""
        if step == self.params.distill.steps:
            return
        early = self.params.sweep.early_stopping
        rung = early.grace_steps
        while rung < step:
            rung *= early.reduction
        if rung == step:
            student = self.folder / "rung"
            write_student(self.params, self.job, student)
            self._score(step, student)

    def _score(self, step: int, student: Path, *, report: bool = True) -> None:
        from pipeline.evaluate import restore
        from pipeline.stages.restorers import student as restorer_of
        from tsdsr import metrics
        from tsdsr.data.pairs import PairFolder

        params, restored = self.params, self.folder / "restored"
        pairs = PairFolder(self.ledger.directory / "pairs/validation")
        color = params.evaluate.color_alignment
        restore(pairs, restorer_of(self.job.teacher, student, params.data.scale, color), restored)
        metric = params.sweep.metric
        scores = metrics.score_folder(restored, pairs.root / "hq", [metric], cache=None)
        interval = metrics.mean_over_images(scores.values[metric])
        self.record.scores[step] = (interval.mean, interval.low, interval.high)
        self.ledger.write(self.record)
        self.tracked.metrics({f"validation/{metric}": interval.mean}, step=step)
        self.tracked.flush()
        if report:
            self.report({"step": step, metric: interval.mean})


def latest_checkpoint(params: Params, job: DistillJob) -> Checkpoint | None:
    """The newest good checkpoint of a trial's run."""
    from tsdsr.data.cache import LatentCache
    from tsdsr.training.checkpoint import CheckpointStore
    from tsdsr.training.distillation import run_key

    key = run_key(params, job, LatentCache.open(job.latents, verify=False).manifest)
    return CheckpointStore(job.checkpoints, key, params.distill.checkpoint.keep).latest()


def write_student(params: Params, job: DistillJob, directory: Path) -> None:
    """A student directory from the newest checkpoint of an unfinished run."""
    from tsdsr.training.distillation import export_checkpoint

    export_checkpoint(params, job, directory)


def split_pairs(params: Params, source: Path, target: Path) -> None:
    """Link the training pairs into `target`/train and `target`/validation, whole photographs to one side.

    The test pairs take no part in a sweep: the students that are compared on them must not have been chosen by them.
    """
    from tsdsr import files
    from tsdsr.data.pairs import PairFolder

    pairs = PairFolder(source)
    manifest = files.read_json(source.parent / "manifest.json")
    photograph_of = {entry["id"]: entry["photograph"] for entry in manifest["pairs"]}
    photographs = sorted({photograph_of[pair] for pair in pairs.ids})
    if len(photographs) < 2:
        raise UserError(f"{source}: a sweep holds out training photographs and needs at least 2, found 1")
    order = seeding.numpy_generator(params.seed, "sweep validation").permutation(len(photographs))
    count = min(len(photographs) - 1, max(1, round(params.sweep.validation_fraction * len(photographs))))
    held_out = {photographs[index] for index in order[:count]}
    with files.atomic_directory(target) as aside:
        for pair in pairs.ids:
            side = aside / ("validation" if photograph_of[pair] in held_out else "train")
            for half, path in (("hq", pairs.hq_path(pair)), ("lq", pairs.lq_path(pair))):
                (side / half).mkdir(parents=True, exist_ok=True)
                (side / half / path.name).symlink_to(path.resolve())
