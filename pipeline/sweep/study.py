"""The state of a sweep: an Optuna study in SQLite, and a folder per trial.

    .tsdsr/sweep/<name>/study.db          values, scores by step, how each trial ended
    .tsdsr/sweep/<name>/pairs/            the training pairs, split by photograph into train and validation
    .tsdsr/sweep/<name>/trials/<number>/  checkpoints while it runs; then its student and curve

A finished trial is never run again; an interrupted one continues from its last checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.sweep.space import Point, distributions
from tsdsr import files
from tsdsr.config import Params
from tsdsr.errors import UserError

FINISHED, STOPPED, FAILED = "finished", "stopped early", "failed"
ENDS = {TrialState.COMPLETE: FINISHED, TrialState.PRUNED: STOPPED, TrialState.FAIL: FAILED}
VALUES, REASON, IDENTITY = "values", "reason", "identity"  # attributes of a trial and of the study
# Sections that do not affect a trial's score.
_IRRELEVANT = ("ablate", "sweep", "report", "tracking", "evaluate", "prepare", "cluster")


@dataclass(frozen=True)
class TrialRecord:
    """One trial, for tables and plots.

    Attributes:
        values: dotted key -> value.
        end: how it ended, or None if it has not.
        step, score, low, high: its last score, and the 95 % interval over the images where there is one.
        first: its score at the first rung.
    """

    number: int
    values: Point
    end: str | None
    reason: str | None = None
    step: int = 0
    score: float | None = None
    low: float | None = None
    high: float | None = None
    first: float | None = None

    @classmethod
    def of(cls, trial: FrozenTrial, grace_steps: int) -> TrialRecord:
        scores = trial.intermediate_values
        step = max(scores, default=0)
        low, high = trial.user_attrs.get(f"interval {step}", (None, None))
        return cls(
            number=trial.number + 1,
            values=trial.user_attrs[VALUES],
            end=ENDS.get(trial.state),
            reason=trial.user_attrs.get(REASON),
            step=step,
            score=scores.get(step),
            low=low,
            high=high,
            first=scores.get(grace_steps),
        )


def folder(directory: Path, number: int) -> Path:
    """The folder of a trial, by its number in the study."""
    return directory / "trials" / f"{number:04d}"


def database(directory: Path) -> Path:
    return directory / "study.db"


def open_study(params: Params, directory: Path) -> optuna.Study:
    """Begin or continue.

    Raises:
        UserError: the study has trials of another configuration.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=_storage(directory),
        study_name=params.sweep.name,
        direction=direction(params),
        load_if_exists=True,
    )
    if study.user_attrs.get(IDENTITY, identity(params)) != identity(params):
        raise UserError(
            f"{directory} holds a sweep over other params, whose scores are not comparable; "
            "set another sweep.name, or remove that folder"
        )
    study.set_user_attr(IDENTITY, identity(params))
    return study


def load_trial(params: Params, directory: Path, number: int) -> optuna.Trial:
    """A running trial, loaded in any process, with ASHA as its pruner.

    Source: Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, as Optuna implements it.
    """
    early = params.sweep.early_stopping
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=early.grace_steps, reduction_factor=early.reduction)
    study = optuna.load_study(study_name=params.sweep.name, storage=_storage(directory), pruner=pruner)
    return optuna.Trial(study, study.trials[number]._trial_id)


def ask(params: Params, study: optuna.Study, point: Point | None) -> int:
    """Begin a trial with these values, or with Optuna's suggestion; returns its number."""
    if point is None:
        # Seeded by the number, so that a later session does not repeat the first suggestions.
        study.sampler = optuna.samplers.TPESampler(seed=params.seed + len(study.trials))
        try:
            trial = study.ask(distributions(params.sweep.space))
        except ValueError as error:  # choices that have changed
            raise UserError(f"sweep.space: {error}; give this sweep another sweep.name") from error
        point = trial.params
    else:
        trial = study.ask()
    trial.set_user_attr(VALUES, point)
    return trial.number


def cut_off(study: optuna.Study) -> list[int]:
    """The numbers of trials that an earlier session began and did not finish."""
    return [trial.number for trial in study.trials if trial.state == TrialState.RUNNING and VALUES in trial.user_attrs]


def records(params: Params, study: optuna.Study) -> list[TrialRecord]:
    """Every trial, in the order in which they began."""
    trials = [trial for trial in study.trials if VALUES in trial.user_attrs]
    return [TrialRecord.of(trial, params.sweep.early_stopping.grace_steps) for trial in trials]


def direction(params: Params) -> str:
    """Optuna's direction of optimisation."""
    from tsdsr.metrics import select

    return "maximize" if select([params.sweep.metric])[0].direction == "higher" else "minimize"


def identity(params: Params) -> str:
    """A hash of the values that all trials of a sweep share."""
    values: dict[str, Any] = {key: value for key, value in params.to_dict().items() if key not in _IRRELEVANT}
    sweep = params.sweep
    values["sweep"] = [sweep.metric, sweep.steps, sweep.validation_fraction, sweep.early_stopping.model_dump()]
    values["color_alignment"] = params.evaluate.color_alignment
    return files.sha256_json(values)


def _storage(directory: Path) -> optuna.storages.RDBStorage:
    directory.mkdir(parents=True, exist_ok=True)
    return optuna.storages.RDBStorage(
        f"sqlite:///{database(directory)}", engine_kwargs={"connect_args": {"timeout": 60}}
    )
