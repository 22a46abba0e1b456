"""Search params with Optuna on Ray: each trial is a short distillation, scored on held-out training photographs.

    python -m pipeline.sweep

It needs the outputs of the stages up to precompute. However it was stopped, it continues when started again and repeats
no trial; a larger `sweep.trials` extends a finished sweep. Results: reports/sweep (table, plots, and
best.yaml, an overlay on params.yaml) and an MLflow run with a child for each trial.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna

from pipeline.cluster import runtime, storage
from pipeline.process import locks
from pipeline.stages import lineage, stage
from pipeline.sweep import report, study
from pipeline.sweep.space import planned
from pipeline.sweep.study import TrialRecord
from pipeline.sweep.trial import Setup, run, run_name, split_pairs
from pipeline.tracking import provenance
from pipeline.tracking import runs as tracking
from pipeline.tracking.description import shown
from tsdsr.config import Params
from tsdsr.errors import UserError

logger = logging.getLogger(__name__)

PAIRS = Path("data/pairs/train")
SWEEPS, REPORT = Path(".tsdsr/sweep"), Path("reports/sweep")
RETRIES = 2  # restarts of a trial whose worker died
SENT = "sent.db"  # a consistent copy of the study


def sweep(params: Params) -> list[TrialRecord]:
    """Run the remaining trials of the sweep and write its report.

    Returns:
        every trial, in the order in which they began.
    """
    _check_inputs(params)
    directory = (SWEEPS / params.sweep.name).resolve()
    place = storage.here(params)
    with locks.exclusive_lock(directory / ".running", f"the sweep {params.sweep.name}"):
        _fetch(place, directory)
        trials = study.open_study(params, directory)
        if not (directory / "pairs").is_dir():
            split_pairs(params, PAIRS, directory / "pairs")
        key = f"sweep-{params.sweep.name}-{study.identity(params)[:12]}"
        with tracking.parent(params, title=f"sweep {params.sweep.name}", key=key) as tracked:
            _run_what_is_left(params, trials, directory, place)
            records = study.records(params, trials)
            for path in report.write(params, records, REPORT):
                tracked.artifact(path, "sweep")
            _log_best(params, records, tracked)
    return records


def _run_what_is_left(params: Params, trials: optuna.Study, directory: Path, place: storage.Place) -> None:
    waiting = _waiting(params, trials)
    begin = next(waiting, None)
    if begin is None:
        logger.info("all %d trials have ended; nothing is left to run", len(trials.trials))
        return
    runtime.start()
    resources = {"CPU": params.sweep.resources.cpus, "GPU": params.sweep.resources.gpus}
    _check_room(resources)
    if place.url:  # trials share the study, but every host has its own mirror
        resources |= _this_host()
    setup = Setup(params.to_dict(), str(place.root), str(directory), _environment(params))
    errors: list[Exception] = []
    running: dict[Any, int] = {}
    import ray

    # Retried if a worker died, not if the trial raised an error.
    trial = ray.remote(max_retries=RETRIES)(run).options(
        num_cpus=resources.pop("CPU"), num_gpus=resources.pop("GPU"), resources=resources or None
    )
    while begin is not None or running:
        while begin is not None and len(running) < _room(params):
            number = begin()
            running[trial.remote(number, setup)] = number
            _send(place, directory)
            begin = next(waiting, None)
        (done,), _ = ray.wait(list(running), num_returns=1)
        number = running.pop(done)
        try:
            ray.get(done)
        except Exception as error:
            errors.append(error)
        else:
            _say(study.records(params, trials)[number], params.sweep.metric)
        _send(place, directory, study.folder(directory, number))
    if errors:
        reason = _in_words(errors[0])
        raise UserError(f"trials that failed: {len(errors)}; the sweep, run again, continues them. {reason}")


def _waiting(params: Params, trials: optuna.Study) -> Iterator[Callable[[], int]]:
    """The remaining trials, as functions that begin one and return its number; interrupted trials come first."""
    for number in study.cut_off(trials):
        yield lambda number=number: number  # type: ignore[misc]
    points = planned(params)
    if points is None:
        while len(study.records(params, trials)) < params.sweep.trials:
            yield lambda: study.ask(params, trials, None)
    else:
        known = [record.values for record in study.records(params, trials)]
        for point in points:
            if point not in known:
                yield lambda point=point: study.ask(params, trials, point)  # type: ignore[misc]


def _room(params: Params) -> int:
    """The number of trials that can run at once."""
    import ray

    wanted = {"CPU": params.sweep.resources.cpus, "GPU": params.sweep.resources.gpus}
    hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min(int(host.get(name, 0) // amount) for name, amount in wanted.items() if amount) for host in hosts)


def _environment(params: Params) -> dict[str, str]:
    """The trial's device: Ray makes all GPUs visible to a task that requests none, and each would use the first."""
    hidden = {} if params.sweep.resources.gpus else {"CUDA_VISIBLE_DEVICES": ""}
    return {**tracking.environment(), **hidden}


def _check_room(resources: Mapping[str, float]) -> None:
    """Refuse a trial that fits on no host, for which Ray would wait for ever."""
    import ray

    for name, wanted in resources.items():
        most = max(node["Resources"].get(name, 0.0) for node in ray.nodes() if node["Alive"])
        if wanted > most:
            raise UserError(
                f"sweep.resources.{name.lower()}s: {wanted:g} for a trial, and no host has more than {most:g}"
            )


def _this_host() -> dict[str, float]:
    """A resource that only this host has."""
    import ray

    return {f"node:{ray.util.get_node_ip_address()}": 0.001}


def _fetch(place: storage.Place, directory: Path) -> None:
    """Fetch the results of a session on another host, if the storage is a URL."""
    place.pull_each(directory)
    if place.url and (directory / SENT).is_file():
        _copy_database(directory / SENT, study.database(directory))


def _send(place: storage.Place, directory: Path, *folders: Path) -> None:
    if place.url:
        _copy_database(study.database(directory), directory / SENT)
        place.push([directory / SENT, *folders])


def _copy_database(source: Path, target: Path) -> None:
    """Copy the study consistently while trials write to it."""
    with closing(sqlite3.connect(source)) as before, closing(sqlite3.connect(target)) as after:
        before.backup(after)


def _in_words(error: Exception) -> str:
    """The error of a trial: one line for a known error, otherwise the traceback."""
    mistakes = (str(cause) for cause in runtime.causes(error) if type(cause) is UserError)
    return next(mistakes, None) or runtime.shortage(error) or f"The first:\n{error}"


def _say(record: TrialRecord, metric: str) -> None:
    values = ", ".join(f"{key} {shown(value)}" for key, value in record.values.items())
    score = "" if record.score is None else f" at step {record.step} with {metric} {record.score:.6g}"
    logger.info("trial %d %s%s: %s", record.number, record.end, score, values)


def _log_best(params: Params, records: list[TrialRecord], tracked: tracking.Run) -> None:
    best, metric = report.best(records, study.direction(params)), params.sweep.metric
    counts = ", ".join(f"{count} {end}" for end, count in Counter(record.end for record in records).items())
    if best is None:
        logger.info("%d trials: %s; none has a %s at its end", len(records), counts, metric)
        return
    tracked.metrics({f"best/{metric}": best.score or 0.0})
    tracked.tags({"best.trial": run_name(best.number - 1), **{f"best.{k}": v for k, v in best.values.items()}})
    logger.info("%d trials: %s; best %s %.6g, of trial %d", len(records), counts, metric, best.score, best.number)


def _check_inputs(params: Params) -> None:
    """Check that the shared pairs, teacher and latents fit the params, and that no key of the search changes them."""
    shared = (lineage.PAIRS, lineage.TEACHER, lineage.LATENTS)
    lineage.check(params, *shared)
    for draw in params.sweep.space:
        for path in shared:
            if lineage.decides(draw.key, path):
                raise UserError(f"sweep.space: {draw.key} decides {path}, which all trials share; leave it out")


def main() -> None:
    params = stage.load_params(__doc__)
    os.environ.setdefault(provenance.COMMIT_VARIABLE, provenance.git_commit())
    sweep(params)
    logger.info("see %s", REPORT)


if __name__ == "__main__":
    stage.run(main)
