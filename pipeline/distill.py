"""Distill the one-step student from the teacher, under Ray Train.

    python -m pipeline.distill [--params params.yaml]

Writes data/students/full and reports/curves/full.csv. An interrupted run continues from its last checkpoint.
"""

from __future__ import annotations

import csv
import logging
import os
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline import runtime, stage, storage, tracking
from tsdsr import files
from tsdsr.config import Params
from tsdsr.losses.registry import LOSSES
from tsdsr.training.diagnostics import STATISTICS
from tsdsr.training.distillation import Job

logger = logging.getLogger(__name__)

PAIRS, LATENTS, TEACHER = Path("data/pairs/train"), Path("data/latents"), Path("data/teacher")
METRICS = Path("reports/metrics")
MAX_RESTARTS = 3


def distill(params: Params, *, out: Path, name: str, seed: int) -> None:
    """Train one variant into `out`; writes its curve and metrics under reports/ and its run in MLflow.

    With `distill.num_workers: 0` it runs in this process, without Ray.
    """
    job = Job(
        name=name,
        seed=seed,
        pairs=PAIRS.resolve(),
        latents=LATENTS.resolve(),
        teacher=TEACHER.resolve(),
        out=out.resolve(),
        curve=Path(f"reports/curves/{name}.csv").resolve(),
        checkpoints=Path(f".tsdsr/checkpoints/{name}").resolve(),
        diagnostics=Path(f"reports/diagnostics/{name}.csv").resolve(),
        validation=Path(f"reports/validation/{name}.csv").resolve(),
        trajectories=Path(".tsdsr/trajectories").resolve(),
    )
    if params.distill.num_workers == 0:
        _work(_loop_config(params, job, ray=False))
    else:
        _fit(params, job)
    storage.here(params).pull(_written(job))  # by a worker on whatever host
    _report(params, job)


def _written(job: Job) -> list[Path]:
    """What the first worker writes."""
    return [job.out, job.curve, job.diagnostics, job.validation, job.validation.with_suffix(".png")]


def _fit(params: Params, job: Job) -> None:
    """The TorchTrainer: fixed workers, restarted from our own checkpoints when one is lost."""
    config = params.distill
    runtime.start(num_cpus=config.num_workers)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from tsdsr.training.distillation import pick_device

    on_gpu = pick_device(config.device).type == "cuda"
    # Ray keeps only its own records here: checkpoints are ours, so a run may start again under any name.
    storage = Path(".tsdsr/ray").resolve()
    try:
        TorchTrainer(
            _work,
            train_loop_config=_loop_config(params, job, ray=True),
            torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=config.num_workers, use_gpu=on_gpu, resources_per_worker=None if on_gpu else {"CPU": 1}
            ),
            run_config=RunConfig(
                name=f"{job.name}-{os.getpid()}",
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=MAX_RESTARTS),
            ),
        ).fit()
    finally:
        shutil.rmtree(storage / f"{job.name}-{os.getpid()}", ignore_errors=True)


def _loop_config(params: Params, job: Job, *, ray: bool) -> dict[str, Any]:
    environment = tracking.environment() if ray else {}
    place = asdict(storage.here(params))
    return {"params": params.to_dict(), "job": asdict(job), "ray": ray, "environment": environment, "place": place}


def _work(config: dict[str, Any]) -> None:
    """What each worker runs. Rank 0 speaks to MLflow and shows progress; every rank reports to Ray at a checkpoint."""
    os.environ.update(config["environment"])
    from tsdsr.training.distillation import distill as train
    from tsdsr.training.distillation import pick_device
    from tsdsr.training.loop import World
    from tsdsr.training.validation import Validation, write_sheet

    params, place = Params.parse(config["params"]), storage.Place.at(**config["place"])
    root = config["place"]["root"]
    job = Job(**{k: place.moved(v, root) if isinstance(v, Path) else v for k, v in config["job"].items()})
    place.pull([job.pairs, job.latents, job.teacher, job.checkpoints])
    progress = Progress(job.name, params.distill.steps, in_ray=config["ray"])
    in_charge = World.current().rank == 0
    with tracking.child(params, job.name) if in_charge else nullcontext() as run:

        def on_metrics(step: int, values: dict[str, float]) -> None:
            if run:
                run.metrics(values, step=step)

        def on_checkpoint(step: int, values: dict[str, float]) -> None:
            if run:
                run.flush()
                place.push_each(job.checkpoints)
            if config["ray"]:
                import ray.train

                ray.train.report({"step": step, **values})

        def on_validation(step: int, validation: Validation) -> None:
            write_sheet(job.validation.with_suffix(".png"), validation.sheet)
            if run:
                run.metrics({f"validation/{name}": value for name, value in validation.values.items()}, step=step)
                sheet = job.checkpoints.parents[1] / f"validation/{job.name}/step-{step:08d}.png"
                write_sheet(sheet, validation.sheet)
                run.artifact(sheet, "validation")

        train(
            params,
            job,
            device=pick_device(params.distill.device),
            on_metrics=on_metrics,
            on_step=progress.show if in_charge else lambda step, values: None,
            on_checkpoint=on_checkpoint,
            on_validation=on_validation,
        )
    if in_charge:
        place.push(_written(job))
        place.push_each(job.checkpoints)  # there are none any more
    progress.close()


class Progress:
    """A bar with the loss terms and the time left; in a Ray worker it is drawn by the driver."""

    def __init__(self, name: str, total: int, *, in_ray: bool) -> None:
        self._name, self._total, self._in_ray, self._bar = name, total, in_ray, None

    def show(self, step: int, values: dict[str, float]) -> None:
        if self._bar is None:
            if self._in_ray:
                from ray.experimental.tqdm_ray import tqdm
            else:
                from tqdm import tqdm
            self._bar = tqdm(total=self._total)
            self._bar.update(step - 1)
        terms = " ".join(f"{name} {values[name]:.4g}" for name in (*LOSSES, "fake_score") if name in values)
        self._bar.set_description(f"distill {self._name} {terms}".rstrip())
        self._bar.update(1)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _report(params: Params, job: Job) -> None:
    """The run's last means as a metrics file, with what they must not be taken for."""
    with job.curve.open(encoding="utf-8", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    values: dict[str, Any] = {name: float(value) for name, value in last.items() if value and name != "phase"}
    values["lpips_weights"] = params.distill.lpips.weights
    files.write_json(METRICS / f"{job.name}.json", values)
    with tracking.child(params, job.name) as run:
        run.tags({"lpips_weights": params.distill.lpips.weights, "stage": "distill"})
        for record, folder in ((job.curve, "curves"), (job.diagnostics, "diagnostics"), (job.validation, "validation")):
            run.artifact(record, folder)
        _log_by_time(run, job, list(params.distill.phases)[-1])
        run.artifact(job.out, "student")


def _log_by_time(run: tracking.Run, job: Job, phase: str) -> None:
    """TSD's statistics of a phase as metrics whose step is the network's timestep, 1000 sigma, at the bin's middle."""
    with job.diagnostics.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["phase"] == phase:
                middle = (float(row["sigma_low"]) + float(row["sigma_high"])) / 2
                values = {f"by_timestep/{name}": float(row[name]) for name in STATISTICS if row[name]}
                run.metrics(values, step=round(1000 * middle))


def main() -> None:
    params = stage.load_params(__doc__)
    distill(params, out=Path("data/students/full"), name="full", seed=params.seed)


if __name__ == "__main__":
    stage.run(main)
