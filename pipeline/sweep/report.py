"""A sweep's results for people: a table, the best values as an overlay, and three plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.sweep import plots as sweep_plots
from pipeline.sweep.ledger import FINISHED, TrialRecord
from pipeline.sweep.space import distributions, nested, shown_value
from tsdsr import files, metrics
from tsdsr.config import Params

MIN_FOR_IMPORTANCE = 4  # fewer trials say nothing about it


def write(params: Params, records: Sequence[TrialRecord], folder: Path) -> list[Path]:
    """Write everything; returns the files."""
    metric = metrics.select([params.sweep.metric])[0]
    written = {
        "trials.csv": to_csv(params, records),
        "trials.md": to_markdown(params, records),
    }
    mode = "max" if metric.direction == "higher" else "min"
    winner = best(records, mode)
    if winner is not None:
        written["best.yaml"] = best_overlay(params, winner)
    for name, text in written.items():
        files.write_text(folder / name, text)
    scored = [record for record in records if record.score is not None]
    keys = [entry.key for entry in params.sweep.space]
    logarithmic = {entry.key for entry in params.sweep.space if entry.loguniform is not None}
    label = f"{metric.label} {metric.arrow}"
    plots: list[Path] = []
    if scored:
        plots.append(sweep_plots.parallel(scored, keys, logarithmic, label, mode, folder / "parallel.png"))
        plots.append(sweep_plots.slices(scored, keys, logarithmic, label, folder / "slices.png"))
    shares = importance(params, scored)
    if shares:
        step = params.sweep.early_stopping.grace_steps
        plots.append(sweep_plots.importance(shares, f"{metric.label} after {step} steps", folder / "importance.png"))
    return [*(folder / name for name in written), *plots]


def best(records: Sequence[TrialRecord], mode: str) -> TrialRecord | None:
    """The best of the trials that trained to the end."""
    scored = [(record.score, record) for record in records if record.end == FINISHED and record.score is not None]
    if not scored:
        return None
    sign = 1 if mode == "max" else -1
    return max(scored, key=lambda pair: (sign * pair[0], -pair[1].number))[1]


def best_overlay(params: Params, record: TrialRecord) -> str:
    """An overlay on params.yaml, checked against it."""
    overlay = nested(record.values)
    params.overlay(overlay, origin="best.yaml")
    about = [
        f"The best of sweep `{params.sweep.name}`: {params.sweep.metric} {record.score:.6g} on held-out training",
        f"photographs after {record.last_step} steps. To train with these values to the end:",
        "    python -m pipeline.params flags reports/sweep/best.yaml | xargs dvc exp run",
    ]
    return "".join(f"# {line}\n" for line in about) + yaml.safe_dump(overlay, sort_keys=True)


def importance(params: Params, records: Sequence[TrialRecord]) -> dict[str, float]:
    """Share of the score's variance that each key explains, by functional ANOVA over a random forest.

    On the score at the first rung, the only one that every trial has after equally many steps.

    Source: Hutter, Hoos and Leyton-Brown, ICML 2014, as Optuna implements it.
    """
    step = params.sweep.early_stopping.grace_steps
    values = [(record, record.scores[step][0]) for record in records if step in record.scores]
    if len(values) < MIN_FOR_IMPORTANCE or len({score for _, score in values}) < 2:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    space = distributions(params.sweep.space)
    for record, score in values:
        if all(key in record.values and _within(space[key], record.values[key]) for key in space):
            study.add_trial(optuna.create_trial(params=record.values, distributions=space, value=score))
    if len(study.trials) < MIN_FOR_IMPORTANCE:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=params.seed)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def to_csv(params: Params, records: Sequence[TrialRecord]) -> str:
    """One line a trial."""
    keys = [entry.key for entry in params.sweep.space]
    metric = params.sweep.metric
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "key", *keys, "end", "steps", metric, f"{metric}_low", f"{metric}_high", "reason"])
    for record in records:
        scores = record.scores.get(record.last_step, (None, None, None))
        shown = ["" if score is None else f"{score:.6g}" for score in scores]
        values = [record.values.get(key, "") for key in keys]
        row = [record.number, record.key, *values, record.end or "unfinished", record.last_step, *shown]
        writer.writerow([*row, record.reason or ""])
    return text.getvalue()


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
        values = [shown_value(record.values.get(key, "")) for key in keys]
        lines.append(
            _line(
                [str(record.number), *values, record.end or "unfinished", str(record.last_step), _score(record, metric)]
            )
        )
    note = (
        f"{metric.label} on held-out training photographs, mean [95 % bootstrap interval]. The test photographs took "
        "no part. Scores after different numbers of steps do not compare."
    )
    return "\n".join([*lines, "", note]) + "\n"


def _score(record: TrialRecord, metric: metrics.Metric) -> str:
    if not record.scores:
        return "-"
    mean, low, high = record.scores[record.last_step]
    interval = "" if low is None else f" [{low:.{metric.decimals}f}, {high:.{metric.decimals}f}]"
    return f"{mean:.{metric.decimals}f}{interval}"


def _within(distribution: Any, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:
        return False


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
