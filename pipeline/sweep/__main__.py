"""Search params with Ray Tune: each trial a short distillation, scored on training photographs that it is not shown.

    python -m pipeline.sweep

Needs the outputs of the stages up to precompute. Stopped in whatever way, it continues when it is started again, and
runs nothing twice; with a larger `sweep.trials` a finished one is extended. Results: reports/sweep (table, plots, and
best.yaml, an overlay on params.yaml) and an MLflow run with a child for each trial.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.cluster import runtime, storage
from pipeline.process import exclusive
from pipeline.stages import lineage, stage
from pipeline.sweep import report as sweep_report
from pipeline.sweep.ledger import FAILED, FINISHED, STOPPED, Ledger, TrialRecord
from pipeline.sweep.space import Point, distributions, planned, point_key, shown_value
from pipeline.sweep.trial import Setup, run, run_name, split_pairs
from pipeline.tracking import provenance
from pipeline.tracking import runs as tracking
from tsdsr.config import Params
from tsdsr.errors import UserError

logger = logging.getLogger(__name__)

PAIRS = Path("data/pairs/train")
SWEEPS, REPORT, RAY = Path(".tsdsr/sweep"), Path("reports/sweep"), Path(".tsdsr/ray")
RETRIES = 2  # of a trial whose worker died
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # it would take Ctrl-C for the end of the sweep
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that diverges before its first rung has no score
    "RAY_AIR_NEW_OUTPUT": "0",
}


def sweep(params: Params) -> list[TrialRecord]:
    """Run what is left of the sweep and write its report.

    Returns:
        every trial, in the order in which they began.
    """
    _check_inputs(params)
    ledger = Ledger((SWEEPS / params.sweep.name).resolve())
    with exclusive.alone(ledger.directory / ".running", f"the sweep {params.sweep.name}"):
        storage.here(params).pull_each(ledger.directory)  # what ended in a session on another host
        identity = ledger.open(params)
        storage.here(params).push([ledger.about])
        if not (ledger.directory / "pairs").is_dir():
            split_pairs(params, PAIRS, ledger.directory / "pairs")
        key = f"sweep-{params.sweep.name}-{identity[:12]}"
        with tracking.parent(params, title=f"sweep {params.sweep.name}", key=key) as tracked:
            _run_what_is_left(params, ledger)
            for path in sweep_report.write(params, ledger.records(), REPORT):
                tracked.artifact(path, "sweep")
            _log_best(params, ledger, tracked)
    return ledger.records()


def direction(params: Params) -> str:
    """Tune's word for which way is better."""
    from tsdsr.metrics import select

    return "max" if select([params.sweep.metric])[0].direction == "higher" else "min"


def _run_what_is_left(params: Params, ledger: Ledger) -> None:
    points = planned(params)
    ended = {record.key for record in ledger.ended()}
    if points is None:
        unfinished = [record.values for record in ledger.unfinished()]
        left = max(params.sweep.trials - len(ended), len(unfinished))
        if left:
            _fit(params, ledger, _optuna(params, ledger, unfinished), {}, left)
    else:
        waiting = [point for point in points if point_key(point) not in ended]
        left = len(waiting)
        if left:
            from ray import tune

            _fit(params, ledger, None, {"point": tune.grid_search(waiting)}, 1)
    if not left:
        logger.info("all %d trials have ended; nothing is left to run", len(ended))


def _optuna(params: Params, ledger: Ledger, unfinished: list[Point]) -> Any:
    """A searcher that knows every ended trial, and begins with the unfinished ones."""
    from ray.tune.search.optuna import OptunaSearch

    ended = ledger.ended()
    search = OptunaSearch(
        space=distributions(params.sweep.space),
        metric=params.sweep.metric,
        mode=direction(params),
        points_to_evaluate=unfinished or None,
        seed=params.seed + len(ended) + len(unfinished),  # a later session must not suggest the first points again
    )
    for record in ended:
        if record.score is not None:
            search.add_evaluated_point(record.values, record.score)
    return search


def _asha(params: Params, ledger: Ledger) -> Any:
    """ASHA that remembers the scores of trials that ended in earlier sessions."""
    from ray.tune.schedulers import ASHAScheduler

    config = params.sweep
    scheduler = ASHAScheduler(
        time_attr="step",
        metric=config.metric,
        mode=direction(params),
        grace_period=config.early_stopping.grace_steps,
        reduction_factor=config.early_stopping.reduction,
        max_t=config.steps,
        stop_last_trials=False,  # one that has reached its end is worth keeping
    )
    for record in ledger.ended():
        past: Any = SimpleNamespace(trial_id=f"past-{record.key}")  # all that ASHA reads of a trial
        nobody: Any = None  # nor does it read its controller
        scheduler.on_trial_add(nobody, past)
        for step in sorted(record.scores):
            scheduler.on_trial_result(nobody, past, {"step": step, config.metric: record.scores[step][0]})
        scheduler.on_trial_remove(nobody, past)
    return scheduler


def _fit(params: Params, ledger: Ledger, search: Any, space: dict[str, Any], samples: int) -> None:
    for name, value in TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    runtime.start()
    resources = {"CPU": params.sweep.resources.cpus, "GPU": params.sweep.resources.gpus}
    _check_room(resources)
    # It misses the loggers' files; what Tune knew is in the ledger.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    from ray import tune

    place = storage.here(params)
    setup = Setup(params.to_dict(), str(place.root), str(ledger.directory), _environment(params))
    if place.url:  # trials share the ledger, and a mirror is of one host
        resources |= _this_host()
    name = f"sweep-{params.sweep.name}"
    shutil.rmtree(RAY / name, ignore_errors=True)  # of one that was killed
    try:
        results = tune.Tuner(
            tune.with_resources(_trainable(setup), resources),
            param_space=space,
            tune_config=tune.TuneConfig(search_alg=search, scheduler=_asha(params, ledger), num_samples=samples),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(RAY.resolve()),
                callbacks=[_callback(ledger, place)],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                verbose=0,
            ),
        ).fit()
    finally:
        shutil.rmtree(RAY / name, ignore_errors=True)
    if results.errors:
        reason = _in_words(results.errors[0])
        raise UserError(f"trials that failed: {len(results.errors)}; the sweep, run again, continues them. {reason}")


def _environment(params: Params) -> dict[str, str]:
    """A trial's: Ray shows all GPUs to what asks for none, and each trial would take the first of them."""
    hidden = {} if params.sweep.resources.gpus else {"CUDA_VISIBLE_DEVICES": ""}
    return {**tracking.environment(), **hidden}


def _check_room(resources: Mapping[str, float]) -> None:
    """Ray would wait for ever for a host that a trial fits on."""
    import ray

    for name, wanted in resources.items():
        most = max(node["Resources"].get(name, 0.0) for node in ray.nodes() if node["Alive"])
        if wanted > most:
            raise UserError(
                f"sweep.resources.{name.lower()}s: {wanted:g} for a trial, and no host has more than {most:g}"
            )


def _in_words(error: Exception) -> str:
    """What went wrong in a trial: a line where that is known, else its traceback."""
    mistakes = (str(cause) for cause in runtime.causes(error) if type(cause) is UserError)
    return next(mistakes, None) or runtime.shortage(error) or f"The first:\n{error}"


def _trainable(setup: Setup) -> Any:
    def trial(config: dict[str, Any]) -> None:
        from ray import tune

        # A grid hands over whole points; Optuna's configuration is the point.
        run(config.get("point", config), setup, tune.report)

    return trial


def _this_host() -> dict[str, float]:
    """A resource that this host alone has."""
    import ray

    return {f"node:{ray.util.get_node_ip_address()}": 0.001}


def _callback(ledger: Ledger, place: storage.Place) -> Any:
    """Writes the end of trials that the scheduler stopped: their process is killed and cannot."""
    from ray.tune import Callback

    class CloseStopped(Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            key = point_key(trial.config.get("point", trial.config))
            record = ledger.read(key)
            if record.end is None:
                ledger.close(key, STOPPED)
                tracking.end_child(run_name(record), {"stopped_early_at_step": record.last_step})
            place.push([ledger.folder(key)])
            _say(ledger.read(key))

    return CloseStopped()


def _say(record: TrialRecord) -> None:
    values = ", ".join(f"{key} {shown_value(value)}" for key, value in record.values.items())
    score = "" if record.score is None else f" at step {record.last_step} with {record.score:.6g}"
    logger.info("trial %d %s%s: %s", record.number, record.end, score, values)


def _log_best(params: Params, ledger: Ledger, tracked: tracking.Run) -> None:
    best = sweep_report.best(ledger.records(), direction(params))
    if best is not None and best.score is not None:
        tracked.metrics({f"best/{params.sweep.metric}": best.score})
        tracked.tags({"best.trial": run_name(best), **{f"best.{key}": value for key, value in best.values.items()}})
    ends = [record.end for record in ledger.records()]
    counts = ", ".join(f"{ends.count(end)} {end}" for end in (FINISHED, STOPPED, FAILED) if end in ends)
    logger.info("%d trials: %s", len(ends), counts)


def _check_inputs(params: Params) -> None:
    """Trials share pairs, teacher and latents: these fit the params, and no key of the search changes them."""
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
