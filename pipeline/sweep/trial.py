"""One trial of a sweep: distill with its values, score its student on held-out pairs, report."""

from __future__ import annotations

import logging
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from pipeline.sweep.space import Point, nested
from pipeline.sweep.study import REASON, VALUES, folder, load_trial
from pipeline.tracking import runs as tracking
from tsdsr import seeding
from tsdsr.config import Params
from tsdsr.device import pick
from tsdsr.errors import UserError

if TYPE_CHECKING:
    from tsdsr.training.checkpoint import Checkpoint
    from tsdsr.training.distillation import DistillJob

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """The input that every trial of a sweep needs, serialisable for Ray's workers.

    Attributes:
        params: the base params, from `Params.to_dict`.
        directory: where `data` is. sweep: the study's folder.
        environment: variables that identify the sweep's MLflow run.
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


def run(number: int, setup: Setup) -> None:
    """Train and score a trial, from its last checkpoint if there is one, and record how it ended."""
    os.environ.update(setup.environment)
    os.chdir(setup.directory)
    base, sweep = Params.parse(setup.params), Path(setup.sweep)
    trial = load_trial(base, sweep, number)
    if trial.study.trials[number].state.is_finished():
        return  # the worker died after the trial had ended, and Ray started another
    end, reason = _end_of(base, trial, sweep)
    if reason:
        trial.set_user_attr(REASON, reason)
    final = scores(trial)[base.sweep.steps] if end == TrialState.COMPLETE else None
    trial.study.tell(number, final, state=end)
    for name in ("checkpoints", "rung", "restored"):
        shutil.rmtree(folder(sweep, number) / name, ignore_errors=True)


def _end_of(base: Params, trial: optuna.Trial, sweep: Path) -> tuple[TrialState, str | None]:
    from tsdsr.training.trainer import NonFiniteError

    values = trial.user_attrs[VALUES]
    try:
        params = trial_params(base, values)
    except UserError as error:  # each value is valid, but their combination is not
        return TrialState.FAIL, str(error)
    with tracking.child(params, run_name(trial.number)) as tracked:
        tracked.tags({"trial": trial.number + 1})
        try:
            Trial(params, trial, sweep, tracked).train()
        except optuna.TrialPruned:
            tracked.tags({"stopped_early_at_step": max(scores(trial))})
            return TrialState.PRUNED, None
        except NonFiniteError as error:  # a result too: these values diverge
            logger.warning("trial %d: %s", trial.number + 1, error)
            return TrialState.FAIL, str(error)
    return TrialState.COMPLETE, None


def run_name(number: int) -> str:
    """The trial's name in MLflow."""
    return f"trial-{number + 1:02d}"


def scores(trial: optuna.Trial) -> dict[int, float]:
    """step -> score, from the study."""
    return trial.study.trials[trial.number].intermediate_values


class Trial:
    """The training of one trial and its scores."""

    def __init__(self, params: Params, trial: optuna.Trial, sweep: Path, tracked: tracking.Run) -> None:
        from tsdsr.training.distillation import DistillJob

        self.params, self.trial, self.tracked = params, trial, tracked
        self.pairs = sweep / "pairs/validation"
        self.folder = folder(sweep, trial.number).resolve()
        self.job = DistillJob(
            name=run_name(trial.number),
            seed=params.seed,
            pairs=(sweep / "pairs/train").resolve(),
            latents=Path("data/latents").resolve(),
            teacher=Path("data/teacher").resolve(),
            out=self.folder / "student",
            curve=self.folder / "curve.csv",
            checkpoints=self.folder / "checkpoints",
            diagnostics=self.folder / "diagnostics.csv",
            validation=self.folder / "validation.csv",
            guarded=False,  # a trial is scored on photographs that the sweep holds out
            targets=Path(".tsdsr/targets").resolve(),
            start=Path(params.distill.start).resolve() if params.distill.start else None,
        )

    def train(self) -> None:
        """Train to the end.

        Raises:
            optuna.TrialPruned: at a rung where others were better.
            NonFiniteError: these values diverge.
        """
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
        self._score(self.params.distill.steps, self.job.out)

    def _catch_up(self) -> None:
        """Score the newest checkpoint if it is a rung's and the trial was killed before scoring it."""
        checkpoint = latest_checkpoint(self.params, self.job)
        if checkpoint is not None and checkpoint.step not in scores(self.trial):
            self._at_rung(checkpoint.step)

    def _at_rung(self, step: int) -> None:
        """Score the checkpoint just written if this step is a rung; the last step is scored separately."""
        from tsdsr.training.distillation import export_checkpoint

        if step == self.params.distill.steps:
            return
        early = self.params.sweep.early_stopping
        rung = early.grace_steps
        while rung < step:
            rung *= early.reduction
        if rung == step:
            student = self.folder / "rung"
            export_checkpoint(self.params, self.job, student)
            self._score(step, student)
            if self.trial.should_prune():
                raise optuna.TrialPruned

    def _score(self, step: int, student: Path) -> None:
        from pipeline.evaluate import restore
        from pipeline.stages.restorers import student as restorer_of
        from tsdsr import metrics
        from tsdsr.data.pairs import PairFolder

        params, restored = self.params, self.folder / "restored"
        pairs = PairFolder(self.pairs)
        color = params.evaluate.color_alignment
        restore(pairs, restorer_of(self.job.teacher, student, params.data.scale, color), restored)
        metric = params.sweep.metric
        scored = metrics.score_folder(restored, pairs.root / "hq", [metric], cache=None)
        interval = metrics.mean_over_images(scored.values[metric])
        self.trial.set_user_attr(f"interval {step}", (interval.low, interval.high))
        self.trial.report(interval.mean, step)
        self.tracked.metrics({f"validation/{metric}": interval.mean}, step=step)
        self.tracked.flush()


def latest_checkpoint(params: Params, job: DistillJob) -> Checkpoint | None:
    """The newest valid checkpoint of a trial."""
    from tsdsr.data.cache import LatentCache
    from tsdsr.training.checkpoint import CheckpointStore
    from tsdsr.training.distillation import run_key

    key = run_key(params, job, LatentCache.open(job.latents, verify=False).manifest)
    return CheckpointStore(job.checkpoints, key, params.distill.checkpoint.keep).latest()


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
