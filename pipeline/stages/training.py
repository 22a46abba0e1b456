"""The workers of a distillation: in this process, or under Ray Train.

`tsdsr.training.distillation` has the computation; this module has the processes: signals, lost workers, memory, and the
reports of rank 0 to MLflow and the storage.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cluster import runtime, storage
from pipeline.process import interruption, locks
from pipeline.process.interruption import Interrupted
from pipeline.stages.control import Control
from pipeline.stages.progress import Progress
from pipeline.tracking import runs as tracking
from tsdsr.config import Params
from tsdsr.data.pairs import write_png
from tsdsr.device import out_of_memory, pick
from tsdsr.errors import UserError
from tsdsr.training.checkpoint import Stopped
from tsdsr.training.distillation import DistillJob
from tsdsr.training.distillation import distill as train
from tsdsr.training.trainer import Callbacks, NonFiniteError
from tsdsr.training.validation import Validation
from tsdsr.training.world import World

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

MAX_RESTARTS = 3
LOOK_AROUND = 10.0  # seconds
INIT_TIMEOUT_S = 7200  # workers wait for the first one, which checks the whole cache
WAITING = (
    "waiting: distill.num_workers: %d needs a %s for each, and the cluster has %g. It continues from its last "
    "checkpoint when a host joins (python -m pipeline.cluster --join), or when it is ended (Ctrl-C; ray job stop) and "
    "started again with fewer workers"
)
LOWER_MEMORY = (
    "These params lower it: distill.accumulation (more and smaller micro-batches), distill.batch_size, "
    "distill.vae_slice: 1, distill.gradient_checkpointing: true, distill.low_memory: true, distill.precision: bfloat16 "
    "(on a GPU), fewer distill.num_workers on one machine. `tsdsr doctor --memory` says what fits; the last "
    "checkpoint is kept"
)


def written(job: DistillJob) -> list[Path]:
    """The files that the first worker writes."""
    return [job.out, job.curve, job.diagnostics, job.validation, job.validation.with_suffix(".png")]


def run(
    params: Params, job: DistillJob, control: Control, place: storage.Place, request: interruption.Request
) -> str | None:
    """Train here or under Ray; returns the description of what is kept if it was stopped, else None."""
    if params.distill.num_workers == 0:
        return _work({**_loop_config(params, job, control, place), "stop": request.asked})
    try:
        kept = _beside_main_thread(lambda: _fit(params, job, control, place), params, control, place, request)
    except Exception as error:
        if request.signum is not None:  # the signal may have ended Ray's processes too
            raise Interrupted(request.signum, "the last checkpoint is kept") from error
        control.raise_failure()
        if text := runtime.shortage(error, LOWER_MEMORY):
            raise UserError(text) from error
        raise
    finally:
        sys.stderr.write("\n")  # Ray's progress bars do not end their line
    control.raise_failure()
    return kept


def _beside_main_thread(
    call: Callable[[], str | None],
    params: Params,
    control: Control,
    place: storage.Place,
    request: interruption.Request,
) -> str | None:
    """Run the call in a thread, since Ray Train in the main thread would handle Ctrl-C itself.

    The main thread forwards a request to stop to hosts that share only a URL, which a signal handler cannot do. It also
    warns when hosts were lost: Ray Train then waits silently for others.
    """
    result: Future[str | None] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)

    workers = params.distill.num_workers
    runtime.start(workers)  # in this thread: Ray's processes end with the thread that started them
    threading.Thread(target=run, daemon=True).start()
    resource = "GPU" if pick(params.distill.device).type == "cuda" else "CPU"
    waiting = told = False
    while not futures.wait([result], timeout=LOOK_AROUND).done:
        if request.signum is not None and not told:
            place.push_each(control.stop.parent)
            told = True
        have = runtime.total(resource)
        if have < workers and request.signum is not None:
            raise Interrupted(request.signum, "the last checkpoint is kept")
        if have < workers and not waiting:
            logger.warning(WAITING, workers, resource, have)
        waiting = have < workers
    return result.result()


def _fit(params: Params, job: DistillJob, control: Control, place: storage.Place) -> str | None:
    """Run Ray's TorchTrainer: a fixed number of workers, restarted from our checkpoints when one is lost."""
    config = params.distill
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    on_gpu = pick(config.device).type == "cuda"
    # Only Ray's own records are here; the checkpoints are ours, so a run may continue under any name.
    records = Path(".tsdsr/ray").resolve()
    loop_config = {**_loop_config(params, job, control, place), "environment": tracking.environment(), "ray": True}
    try:
        result: Any = TorchTrainer(
            _work,
            train_loop_config=loop_config,
            torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo", timeout_s=INIT_TIMEOUT_S),
            scaling_config=ScalingConfig(
                num_workers=config.num_workers, use_gpu=on_gpu, resources_per_worker=None if on_gpu else {"CPU": 1}
            ),
            run_config=RunConfig(
                name=f"{job.name}-{os.getpid()}",
                storage_path=str(records),
                failure_config=FailureConfig(max_failures=MAX_RESTARTS),
                logging_config=LoggingConfig(log_level="WARNING"),  # Ray Train's own lines
            ),
        ).fit()
    finally:
        shutil.rmtree(records / f"{job.name}-{os.getpid()}", ignore_errors=True)
    return result.return_value


def _loop_config(params: Params, job: DistillJob, control: Control, place: storage.Place) -> dict[str, Any]:
    return {
        "params": params.to_dict(),
        "job": asdict(job),
        "control": control,
        "place": asdict(place),
        # Chosen once, on this host: Ray was asked for workers of this kind, and another host may have a different
        # device.
        "device": pick(params.distill.device).type,
        "environment": {},
        "ray": False,
    }


def _work(config: dict[str, Any]) -> str | None:
    """The work of each worker; returns the description of what is kept if it was asked to stop.

    An error that a restart cannot fix is written to a file: Ray restarts the workers, and they end at once.
    """
    os.environ.update(config["environment"])
    if config["ray"]:
        runtime.quiet_reports()
    place, root = storage.Place.at(**config["place"]), config["place"]["root"]
    control = Control(place.moved(config["control"].directory, root))
    values: dict[str, Any] = {k: place.moved(v, root) if isinstance(v, Path) else v for k, v in config["job"].items()}
    job = DistillJob(**values)
    if control.has_failed():
        return None
    # A worker of a killed run may still be ending; wait for it before reading its checkpoints.
    in_charge = World.current().rank == 0
    turn = locks.in_turn(control.writer, f"the distillation of {job.name}") if in_charge else nullcontext()
    try:
        with turn, _memory_in_words():
            _train(job, place, config, stop=config.get("stop") or _asked_to_stop(place, control))
    except Interrupted as interrupted:
        return interrupted.kept
    except (UserError, NonFiniteError) as error:
        control.fail(str(error))
        raise UserError(str(error)) from error
    return None


def _asked_to_stop(place: storage.Place, control: Control) -> Callable[[], bool]:
    """A check for the request: on this host at each call, and at the URL, if any, every `LOOK_AROUND` seconds."""
    looked = time.monotonic()

    def asked() -> bool:
        nonlocal looked
        if control.stop.exists():
            return True
        if not place.url or time.monotonic() - looked < LOOK_AROUND:
            return False
        looked = time.monotonic()
        with suppress(OSError):  # an unreachable storage is no reason to stop
            return place.holds_any(control.stop.parent)
        return False

    return asked


def _train(job: DistillJob, place: storage.Place, config: dict[str, Any], *, stop: Callable[[], bool]) -> None:
    """Train; rank 0 logs to MLflow and shows progress, and every rank reports to Ray at a checkpoint."""
    params = Params.parse(config["params"])
    place.pull([job.pairs, job.latents, job.teacher, job.checkpoints, *([job.start] if job.start else [])])
    progress = Progress(f"distill {job.name}", params.distill.steps, in_ray=config["ray"])
    in_charge = World.current().rank == 0
    with tracking.child(params, job.name) if in_charge else nullcontext() as run, progress:

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
            sheet = job.validation.with_suffix(".png")
            write_png(sheet, validation.sheet)
            if run:
                run.metrics({f"validation/{name}": value for name, value in validation.values.items()}, step=step)
                run.image("validation", validation.sheet, step)

        callbacks = Callbacks(on_metrics, on_checkpoint=on_checkpoint, on_validation=on_validation, stop=stop)
        if in_charge:
            callbacks.on_step = progress.show
        try:
            train(params, job, device=_device(config["device"], in_ray=config["ray"]), callbacks=callbacks)
        except Stopped as stopped:
            raise Interrupted(signal.SIGTERM, str(stopped)) from stopped
    if in_charge:
        place.push(written(job))


def _device(wanted: str, *, in_ray: bool) -> torch.device:
    """This worker's device: Ray makes all GPUs of a node visible to each of its workers."""
    device = pick(wanted)
    if in_ray and device.type == "cuda":
        from ray.train.torch import get_device

        return get_device()
    return device


@contextmanager
def _memory_in_words() -> Iterator[None]:
    """Turn a failed allocation into a `UserError` that names the settings which need less memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not out_of_memory(error):
            raise
        raise UserError(f"out of memory ({text.splitlines()[0] if text else 'MemoryError'}). {LOWER_MEMORY}") from error
