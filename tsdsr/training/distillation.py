"""A whole distillation as one worker runs it: from the directories on disk to a student directory."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tsdsr import files, seeding
from tsdsr.config import Params
from tsdsr.data.cache import LatentCache
from tsdsr.data.dataset import Degrade, DistillationData
from tsdsr.data.pairs import PairFolder
from tsdsr.data.synthesis import degrade_again
from tsdsr.errors import UserError
from tsdsr.flow import FlowSchedule
from tsdsr.losses.reconstruction import PerceptualLoss
from tsdsr.models.prompt import Prompt
from tsdsr.models.student import Student
from tsdsr.models.teacher import load_teacher
from tsdsr.training.checkpoint import CheckpointStore
from tsdsr.training.loop import Trainer, World, wrap
from tsdsr.training.networks import assemble
from tsdsr.training.step import DistillationModel, Distiller
from tsdsr.training.trajectories import HQTrajectories
from tsdsr.training.validation import PATTERN, SCORES, ArtefactGuard, Validation, held_out

logger = logging.getLogger(__name__)
CHECKPOINT_FORMAT = 2  # raise it when what a checkpoint holds changes: older ones are then left alone


@dataclass(frozen=True)
class Job:
    """What to distill from and where to write: everything a worker needs beside the params.

    Attributes:
        name: the variant (`full`, `wo_tsm-seed0` ...).
        pairs: the training pairs. latents: their cache. teacher: an SD3-format directory.
        out: the student directory. curve: the CSV of logged means. checkpoints: this run's own directory.
        diagnostics: the CSV of TSD's statistics by noise level. validation: the CSV of the artefact guard's scores.
        guarded: whether to hold out a validation set and look at it.
        trajectories: what `tsd.trajectory_draws` precomputes; a directory that runs share.
    """

    name: str
    seed: int
    pairs: Path
    latents: Path
    teacher: Path
    out: Path
    curve: Path
    checkpoints: Path
    diagnostics: Path
    validation: Path
    trajectories: Path
    guarded: bool = True


def pick_device(wanted: str) -> torch.device:
    """`auto` takes CUDA where there is one."""
    if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()):
        return torch.device("cuda", 0)
    return torch.device("cpu")


def run_key(params: Params, job: Job, latents: dict[str, Any]) -> str:
    """What a checkpoint belongs to: every value that decides the trained bytes."""
    distill = params.to_dict()["distill"]
    for harmless in ("checkpoint", "log_every", "num_workers"):
        distill.pop(harmless)
    values = {
        "format": CHECKPOINT_FORMAT,
        "name": job.name,
        "seed": job.seed,
        "data": [params.seed, params.data.scale, params.to_dict()["degradation"]],
        "distill": distill,
        "latents": latents,
    }
    return files.sha256_json(values)


def distill(
    params: Params,
    job: Job,
    *,
    device: torch.device,
    on_metrics: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    on_checkpoint: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    on_validation: Callable[[int, Validation], None] = lambda step, validation: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train one student to its end and (rank 0) write its directory and records; resumes by itself.

    The checkpoints are kept, the one of the last step too: whoever calls removes them once nothing can be lost.

    Raises:
        UserError: for missing or mismatched inputs. NonFiniteError: when training diverges.
        Stopped: when `stop` asked for it; a checkpoint was saved.
    """
    config, world = params.distill, World.current()
    if device.type == "cpu":
        torch.set_num_threads(config.threads_per_worker)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError("distill.device: cuda, and torch finds no GPU here; set it to auto or cpu")
        torch.cuda.set_device(device)  # what NCCL and kernels take that are told of none
    cache = LatentCache.open(job.latents, verify=world.rank == 0)  # one worker reads it all for its checksums
    student, null, default, schedule = _models(params, job, cache, device)
    perceptual = PerceptualLoss(
        config.lpips.net, config.lpips.weights, config.lpips.path, download=config.lpips.download
    ).to(device)
    seed = seeding.derive(job.seed, "distill")
    trajectories = _trajectories(params, job, cache, schedule, seed)
    distiller = Distiller(
        wrap(DistillationModel(student, default), world),
        student,
        null=null,
        schedule=schedule,
        perceptual=perceptual,
        config=config,
        scale=params.data.scale,
        seed=seed,
        trajectories=trajectories,
    )
    store = CheckpointStore(job.checkpoints, run_key(params, job, cache.manifest), config.checkpoint.keep)
    pairs = PairFolder(job.pairs)
    kept = held_out(pairs.ids, config.validation) if job.guarded else []
    augment = config.augment.model_dump()
    data = DistillationData(pairs, cache, seed=job.seed, degrade=_degrade(params), held_out=kept, **augment)
    if trajectories:
        rows = {name: row for row, name in enumerate(cache.ids)}
        trajectories.prepare(
            data.names,
            lambda name: distiller.photograph_trajectories(name, cache.latent(rows[name]), cache.prompt(rows[name])),
        )
    guard = None
    if kept and world.rank == 0:
        guard = ArtefactGuard(
            student, default, pairs, kept, scale=params.data.scale, config=config.validation, device=device
        )
    trainer = Trainer(
        distiller,
        data,
        store,
        config=config,
        device=device,
        world=world,
        on_metrics=on_metrics,
        on_step=on_step,
        on_checkpoint=on_checkpoint,
        on_validation=on_validation,
        stop=stop,
        guard=guard,
    )
    trainer.run()
    diagnostics = trainer.diagnostics.rows()
    if world.rank == 0:
        files.write_text(job.curve, _csv(trainer.history, ["step", "phase"]))
        files.write_text(job.diagnostics, _csv(diagnostics, ["phase", "sigma_low", "sigma_high", "samples"]))
        if job.guarded:
            files.write_text(job.validation, _csv(trainer.validations, ["step", *SCORES, PATTERN]))
        student.save(job.out, student_config(params, job), default)


def student_config(params: Params, job: Job) -> dict[str, Any]:
    """What `student.json` records beside the weights."""
    return {
        "method": "tsdsr",
        "variant": job.name,
        "seed": job.seed,
        "scale": params.data.scale,
        "use_shift": params.teacher.use_shift,
        "lora": params.distill.lora.model_dump(),
        "default_prompt": params.prompts.default,
        "teacher": {"preset": params.teacher.preset, "source": params.teacher.source},
        "distill": params.to_dict()["distill"],
    }


def _degrade(params: Params) -> Degrade | None:
    """`distill.degradation: online` - the function that made the pairs, with the epoch in its draw."""
    if params.distill.degradation == "offline":
        return None
    return lambda hq, pair, epoch: degrade_again(hq, pair, epoch, params.seed, params)


def _trajectories(
    params: Params, job: Job, cache: LatentCache, schedule: FlowSchedule, seed: int
) -> HQTrajectories | None:
    config, tsd = params.distill, params.distill.tsd
    if not tsd.trajectory_draws:
        return None
    key = {
        "latents": cache.manifest,
        "seed": seed,
        "tsd": tsd.model_dump(mode="json", include={"t_range", "trajectory_draws"}),
        "dasm": tsd.dasm.model_dump(mode="json", exclude={"weight"}),
        "guidance": config.guidance_scale.teacher,
        "network": [config.precision, config.low_memory],  # guidance in one batch or two rounds differently
        "shift": schedule.shift,
    }
    return HQTrajectories(job.trajectories, key, tsd.trajectory_draws)


def _models(
    params: Params, job: Job, cache: LatentCache, device: torch.device
) -> tuple[Student, Prompt, Prompt, FlowSchedule]:
    config = params.distill
    dtype = getattr(torch, config.precision)
    teacher = load_teacher(job.teacher, text_encoders=False, dtype=dtype, device=device)
    student = assemble(teacher.vae, teacher.transformer, config, use_shift=params.teacher.use_shift, seed=job.seed)
    null, default = (
        Prompt(prompt.embeds.to(device), prompt.pooled.to(device)) for prompt in (cache.null, cache.default)
    )
    return student, null, default, teacher.schedule


def _csv(rows: Sequence[Mapping[str, float | str]], first: Sequence[str]) -> str:
    """Records as CSV, one column a name, `first` ahead; what a row lacks is an empty cell."""
    columns = [*first, *sorted({name for row in rows for name in row} - set(first))]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: value if isinstance(value, str) else f"{value:.6g}" for name, value in row.items()})
    return text.getvalue()
