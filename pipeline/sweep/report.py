"""A sweep's report: a table, the best values as an overlay, and three plots."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml

from pipeline.sweep.space import distributions, nested
from pipeline.sweep.study import FINISHED, TrialRecord, direction
from pipeline.tracking.description import shown
from tsdsr import files, metrics
from tsdsr.config import Params

MIN_FOR_IMPORTANCE = 4  # fewer trials give no estimate


def write(params: Params, records: Sequence[TrialRecord], out: Path) -> list[Path]:
    """Write all files and return them."""
    written = {"trials.csv": to_csv(params, records), "trials.md": to_markdown(params, records)}
    if (winner := best(records, direction(params))) is not None:
        written["best.yaml"] = best_overlay(params, winner)
    for name, text in written.items():
        files.write_text(out / name, text)
    return [*(out / name for name in written), *draw(params, records, out)]


def draw(params: Params, records: Sequence[TrialRecord], out: Path) -> list[Path]:
    """Optuna's plots of the trials that trained to the end, and of the keys' importance after the same number of
    steps."""
    import matplotlib

    matplotlib.use("Agg")
    import optuna.visualization.matplotlib as plots
    from matplotlib import pyplot

    label = metrics.select([params.sweep.metric])[0].label
    finished = as_study(params, [(record, record.score) for record in records if record.end == FINISHED])
    figures: dict[str, Callable[[], Any]] = {}
    if finished.trials:
        figures["parallel.png"] = lambda: plots.plot_parallel_coordinate(finished, target_name=label)
        figures["slices.png"] = lambda: plots.plot_slice(finished, target_name=label)
    if importance(params, records):
        figures["importance.png"] = lambda: plots.plot_param_importances(
            as_study(params, [(record, record.first) for record in records]),
            evaluator=_evaluator(params),
            target_name=f"{label} after {params.sweep.early_stopping.grace_steps} steps",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for name, plot in figures.items():
            figure = np.ravel(plot())[0].figure
            with files.atomic_file(out / name) as aside:
                figure.savefig(aside, dpi=130, format="png", bbox_inches="tight")
            pyplot.close(figure)
    return [out / name for name in figures]


def as_study(params: Params, scored: Sequence[tuple[TrialRecord, float | None]]) -> optuna.Study:
    """An in-memory study of the trials that have a score and lie in the present space."""
    study, space = optuna.create_study(direction=direction(params)), distributions(params.sweep.space)
    for record, score in scored:
        if score is not None and all(key in record.values and _within(space[key], record.values[key]) for key in space):
            values = {key: record.values[key] for key in space}
            study.add_trial(optuna.create_trial(params=values, distributions=space, value=score))
    return study


def importance(params: Params, records: Sequence[TrialRecord]) -> dict[str, float]:
    """The share of the score's variance that each key explains, by functional ANOVA over a random forest.

    It uses the score at the first rung, the only one that every trial has after the same number of steps.

    Source: Hutter, Hoos and Leyton-Brown, ICML 2014, as Optuna implements it.
    """
    study = as_study(params, [(record, record.first) for record in records])
    if len(study.trials) < MIN_FOR_IMPORTANCE or len({trial.value for trial in study.trials}) < 2:
        return {}
    return dict(optuna.importance.get_param_importances(study, evaluator=_evaluator(params)))


def _evaluator(params: Params) -> optuna.importance.FanovaImportanceEvaluator:
    return optuna.importance.FanovaImportanceEvaluator(seed=params.seed)


def best(records: Sequence[TrialRecord], towards: str) -> TrialRecord | None:
    """The best of the trials that trained to the end; `towards` as of `study.direction`."""
    scored = [(record.score, record) for record in records if record.end == FINISHED and record.score is not None]
    if not scored:
        return None
    sign = 1 if towards == "maximize" else -1
    return max(scored, key=lambda pair: (sign * pair[0], -pair[1].number))[1]


def best_overlay(params: Params, record: TrialRecord) -> str:
    """An overlay on params.yaml, checked against it."""
    overlay = nested(record.values)
    params.overlay(overlay, origin="best.yaml")
    about = [
        f"The best of sweep `{params.sweep.name}`: {params.sweep.metric} {record.score:.6g} on held-out training",
        f"photographs after {record.step} steps. To train with these values to the end:",
        "    python -m pipeline.params flags reports/sweep/best.yaml | xargs dvc exp run",
    ]
    return "".join(f"# {line}\n" for line in about) + yaml.safe_dump(overlay, sort_keys=True)


def to_csv(params: Params, records: Sequence[TrialRecord]) -> str:
    """One line per trial."""
    keys = [entry.key for entry in params.sweep.space]
    metric = params.sweep.metric
    rows: list[list[Any]] = [["trial", *keys, "end", "steps", metric, f"{metric}_low", f"{metric}_high", "reason"]]
    for record in records:
        shown = [None if score is None else f"{score:.6g}" for score in (record.score, record.low, record.high)]
        values = [record.values.get(key) for key in keys]
        rows.append([record.number, *values, record.end or "unfinished", record.step, *shown, record.reason])
    return files.csv_text(rows)


def to_markdown(params: Params, records: Sequence[TrialRecord]) -> str:
    """Best first; trials that were stopped early show the score and the step they were stopped at."""
    metric = metrics.select([params.sweep.metric])[0]
    keys = [entry.key for entry in params.sweep.space]
    sign = -1 if metric.direction == "higher" else 1
    order = sorted(records, key=lambda record: (record.end != FINISHED, sign * (record.score or 0), record.number))
    head = [
        "Trial",
        *(key.removeprefix("distill.") for key in keys),
        "Ended",
        "Steps",
        f"{metric.label} {metric.arrow}",
    ]
    lines = [_line(head), _line(["---"] * len(head))]
    for record in order:
        values = [shown(record.values.get(key, "")) for key in keys]
        lines.append(
            _line([str(record.number), *values, record.end or "unfinished", str(record.step), _score(record, metric)])
        )
    note = (
        f"{metric.label} on held-out training photographs, mean [95 % bootstrap interval]. The test photographs were "
        "not used. Scores after different numbers of steps are not comparable."
    )
    return "\n".join([*lines, "", note]) + "\n"


def _score(record: TrialRecord, metric: metrics.Metric) -> str:
    if record.score is None:
        return "-"
    shown = f"{record.score:.{metric.decimals}f}"
    if record.low is None:
        return shown
    return f"{shown} [{record.low:.{metric.decimals}f}, {record.high:.{metric.decimals}f}]"


def _within(distribution: Any, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:
        return False


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
