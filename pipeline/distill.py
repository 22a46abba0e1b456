"""Distill the one-step student from the teacher, under Ray Train.

    python -m pipeline.distill [--params params.yaml]

Writes data/students/full and reports/curves/full.csv. An interrupted run continues from its last checkpoint. On SIGTERM
and Ctrl-C it finishes the step and saves a checkpoint. A second run at the same time is refused.
"""

from __future__ import annotations

import csv
import logging
import shutil
from pathlib import Path
from typing import Any

from pipeline.cluster import storage
from pipeline.process import interruption, locks
from pipeline.process.interruption import Interrupted
from pipeline.stages import lineage, stage, training
from pipeline.stages.control import Control
from pipeline.tracking import runs as tracking
from tsdsr import files
from tsdsr.config import Params
from tsdsr.methods import METHODS
from tsdsr.training.distillation import DistillJob

logger = logging.getLogger(__name__)

PAIRS, LATENTS, TEACHER = Path("data/pairs/train"), Path("data/latents"), Path("data/teacher")
METRICS = Path("reports/metrics")
RUNNING = Path(".tsdsr/running")


def distill(params: Params, *, out: Path, name: str, seed: int, teacher: Path = TEACHER) -> None:
    """Train one variant into `out`; writes its curve and metrics under reports/ and its run in MLflow.

    With `distill.num_workers: 0` it runs in this process, without Ray.

    Raises:
        UserError: the input or the params are wrong, or another process distills the same name.
        Interrupted: after a checkpoint, on SIGTERM or Ctrl-C.
    """
    job = DistillJob(
        name=name,
        seed=seed,
        pairs=PAIRS.resolve(),
        latents=LATENTS.resolve(),
        teacher=teacher.resolve(),
        out=out.resolve(),
        curve=Path(f"reports/curves/{name}.csv").resolve(),
        checkpoints=Path(f".tsdsr/checkpoints/{name}").resolve(),
        diagnostics=Path(f"reports/diagnostics/{name}.csv").resolve(),
        validation=Path(f"reports/validation/{name}.csv").resolve(),
        targets=Path(".tsdsr/targets").resolve(),
        start=Path(params.distill.start).resolve() if params.distill.start else None,
    )
    control, place = Control((RUNNING / name).resolve()), storage.here(params)
    with locks.exclusive_lock(control.lock, f"the distillation of {name}"):
        control.clear()
        place.push_each(control.stop.parent)
        with interruption.deferred(control.ask_to_stop) as request:
            kept = training.run(params, job, control, place, request)
        if kept is None:
            place.pull(training.written(job))  # a worker on any host may have written it
            _report(params, job)
        if request.signum is not None:
            raise Interrupted(request.signum, kept or "the student is trained, and its last checkpoint is kept")
        # Last: if the stage does not finish, DVC removes the student and starts the stage again from these.
        shutil.rmtree(job.checkpoints, ignore_errors=True)
        place.push_each(job.checkpoints)


def _report(params: Params, job: DistillJob) -> None:
    """Write the run's last means as a metrics file, with the LPIPS loss of untrained features under its own name."""
    with job.curve.open(encoding="utf-8", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    values: dict[str, Any] = {name: float(value) for name, value in last.items() if value and name != "phase"}
    values["lpips_weights"] = params.distill.lpips.weights
    if params.distill.lpips.weights == "random" and "lpips" in values:
        values["lpips_untrained_features"] = values.pop("lpips")
    files.write_json(METRICS / f"{job.name}.json", values)
    with tracking.child(params, job.name) as run:
        run.tags({"lpips_weights": params.distill.lpips.weights, "stage": "distill"})
        run.dataset("training latents", job.latents / "manifest.json", "training")
        for record, folder in ((job.curve, "curves"), (job.diagnostics, "diagnostics"), (job.validation, "validation")):
            run.artifact(record, folder)
        _log_by_time(run, job, params.distill.method, list(params.distill.phases)[-1])
        run.artifact(job.out, "student")


def _log_by_time(run: tracking.Run, job: DistillJob, method: str, phase: str) -> None:
    """Log a phase's statistics as metrics whose step is the network's timestep, 1000 sigma, at the middle of the
    bin."""
    names = METHODS[method].statistics
    with job.diagnostics.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["phase"] == phase:
                middle = (float(row["sigma_low"]) + float(row["sigma_high"])) / 2
                values = {f"by_timestep/{name}": float(row[name]) for name in names if row[name]}
                run.metrics(values, step=round(1000 * middle))


def main() -> None:
    params = stage.load_params(__doc__)
    with lineage.making("data/students/full", params):
        distill(params, out=Path("data/students/full"), name="full", seed=params.seed)


if __name__ == "__main__":
    stage.run(main)
