"""The workers of a distillation: in this process, or under Ray Train.

What a training computes is in `tsdsr.training.distillation`; here are processes: signals, lost workers, memory, and
what rank 0 sends to MLflow and to the storage.
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
INIT_TIMEOUT_S = 7200  # seconds that workers wait for the first one, which reads the whole cache to check it
WAITING = (
    "waiting: distill.num_workers: %d wants a %s for each, and the cluster has %g. It goes on from its last checkpoint "
    "when a host joins (python -m pipeline.cluster --join), or when it is ended (Ctrl-C; ray job stop) and started "
    "again with fewer workers"
)
LOWER_MEMORY = (
    "What lowers it, in params: distill.accumulation (more and smaller micro-batches), distill.batch_size, "
    "distill.vae_slice: 1, distill.gradient_checkpointing: true, distill.low_memory: true, distill.precision: bfloat16 "
    "(on a GPU), fewer distill.num_workers on one machine. `tsdsr doctor --memory` says what fits; the last "
    "checkpoint is kept"
)


def written(job: DistillJob) -> list[Path]:
    """What the first worker writes."""
    return [job.out, job.curve, job.diagnostics, job.validation, job.validation.with_suffix(".png")]


def run(
    params: Params, job: DistillJob, control: Control, place: storage.Place, request: interruption.Request
) -> str | None:
    """Train here or under Ray; returns what is kept where it was stopped."""
    if params.distill.num_workers == 0:
        return _work({**_loop_config(params, job, control, place), "stop": request.asked})
    try:
        kept = _beside_main_thread(lambda: _fit(params, job, control, place), params, control, place, request)
    except Exception as error:
        if request.signum is not None:  # what sent the signal to us may have ended Ray's processes too
            raise Interrupted(request.signum, "the last checkpoint is kept") from error
        control.raise_failure()
        if text := runtime.shortage(error, LOWER_MEMORY):
            raise UserError(text) from error
        raise
    finally:
        sys.stderr.write("\n")  # Ray leaves the line of its bars open
    control.raise_failure()
    return kept


def _beside_main_thread(
    call: Callable[[], str | None],
    params: Params,
    control: Control,
    place: storage.Place,
    request: interruption.Request,
) -> str | None:
    """Call it in a thread: the main one takes the signals, and there Ray Train would take Ctrl-C for itself.

    A request to stop is sent on to hosts that share only a URL: a signal's handler could not. Where hosts were lost,
    Ray Train waits for others, without a word and without workers that could be asked to stop.
    """
    result: Future[str | None] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)

    workers = params.distill.num_workers
    runtime.start(workers)  # here: Ray's processes live as long as the thread that starts them
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
    """The TorchTrainer: fixed workers, restarted from our own checkpoints when one is lost."""
    config = params.distill
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    on_gpu = pick(config.device).type == "cuda"
    # Ray keeps only its own records here: checkpoints are ours, so a run may start again under any name.
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
        # Chosen once: a worker's host may have what this one has not, and Ray was asked for workers of one kind.
        "device": pick(params.distill.device).type,
        "environment": {},
        "ray": False,
    }


def _work(config: dict[str, Any]) -> str | None:
    """What each worker runs; returns what is kept where it was asked to stop.

    An error that no restart mends is written down: Ray starts the workers again, and they leave at once.
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
    # A worker of a run that was killed may live on for a moment: it must have ended before its checkpoints are read.
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
    """Looks for the request on this host each time, and at the URL, where there is one, every `LOOK_AROUND` seconds."""
    looked = time.monotonic()

    def asked() -> bool:
        nonlocal looked
        if control.stop.exists():
            return True
        if not place.url or time.monotonic() - looked < LOOK_AROUND:
            return False
        looked = time.monotonic()
        with suppress(OSError):  # a storage that is away for a moment is no reason to end
            return place.holds_any(control.stop.parent)
        return False

    return asked


def _train(job: DistillJob, place: storage.Place, config: dict[str, Any], *, stop: Callable[[], bool]) -> None:
    """Rank 0 speaks to MLflow and shows progress; every rank reports to Ray at a checkpoint."""
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
    """This worker's: Ray shows all of a node's cards to each of its workers."""
    device = pick(wanted)
    if in_ray and device.type == "cuda":
        from ray.train.torch import get_device

        return get_device()
    return device


@contextmanager
def _memory_in_words() -> Iterator[None]:
    """An allocation that failed becomes a `UserError` with the settings that lower the need."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not out_of_memory(error):
            raise
        raise UserError(f"out of memory ({text.splitlines()[0] if text else 'MemoryError'}). {LOWER_MEMORY}") from error
