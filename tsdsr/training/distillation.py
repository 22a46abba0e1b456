"""A whole distillation in one worker: from the directories on disk to a student directory."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
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
from tsdsr.device import make_deterministic, require, use_tensor_cores
from tsdsr.errors import UserError
from tsdsr.losses.reconstruction import PerceptualLoss
from tsdsr.methods import METHODS, Distillation
from tsdsr.methods.base import MethodInputs
from tsdsr.models import restoring
from tsdsr.models.prompt import Prompt
from tsdsr.models.restoring import RestoringTeacher
from tsdsr.models.teacher import load_teacher
from tsdsr.training.checkpoint import CheckpointStore
from tsdsr.training.statistics import faint_terms
from tsdsr.training.trainer import Callbacks, Plan, Trainer
from tsdsr.training.validation import PATTERN, SCORES, ArtefactGuard, broken_steps, held_out
from tsdsr.training.world import World

logger = logging.getLogger(__name__)
CHECKPOINT_FORMAT = 3  # raise it when the content of checkpoints changes: older ones are then ignored


@dataclass(frozen=True)
class DistillJob:
    """The inputs and outputs of a distillation: everything that a worker needs besides the params.

    Attributes:
        name: the variant (`full`, `wo_tsm-seed0` ...).
        pairs: the training pairs. latents: their cache. teacher: an SD3-format directory.
        out: the student directory. curve: the CSV of logged means. checkpoints: this run's own directory.
        diagnostics: the CSV of the method's statistics by noise level. validation: that of the artefact guard's scores.
        start: the directory that `distill.start` names.
        guarded: whether to hold out and score a validation set.
        targets: the shared directory of a method's precomputed tensors per photograph.
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
    targets: Path
    start: Path | None = None
    guarded: bool = True


def run_key(params: Params, job: DistillJob, latents: dict[str, Any]) -> str:
    """The key of a checkpoint: every value that affects the trained bytes."""
    distill = params.to_dict()["distill"]
    for harmless in ("checkpoint", "log_every", "max_skipped", "num_workers", "readers"):
        distill.pop(harmless)
    values = {
        "format": CHECKPOINT_FORMAT,
        "name": job.name,
        "seed": job.seed,
        "data": [params.seed, params.data.scale, params.to_dict()["degradation"]],
        "distill": distill,
        "latents": latents,
        "start": [files.sha256_file(path) for path in sorted(job.start.glob("*.safetensors"))] if job.start else [],
    }
    return files.sha256_json(values)


def distill(params: Params, job: DistillJob, *, device: torch.device, callbacks: Callbacks | None = None) -> None:
    """Train one student and (rank 0) write its directory and records; it resumes from a checkpoint.

    The checkpoints, including that of the last step, are kept; the caller removes them.

    Raises:
        UserError: inputs are missing or do not fit. NonFiniteError: training diverges.
        Stopped: `callbacks.stop` returned True; a checkpoint was saved.
    """
    config, world = params.distill, World.current()
    if device.type == "cpu":
        torch.set_num_threads(config.threads_per_worker)
    require(device, "distill.device")
    if config.precision == "float32":
        use_tensor_cores(device)
    if config.deterministic:
        make_deterministic()
    cache = LatentCache.open(job.latents, verify=world.rank == 0)  # one worker reads everything to verify the checksums
    method = build_method(params, job.teacher, cache, device, seed=job.seed)
    if job.start is not None:
        method.go_on_from(job.start)
    store = CheckpointStore(job.checkpoints, run_key(params, job, cache.manifest), config.checkpoint.keep)
    pairs = PairFolder(job.pairs)
    kept = held_out(pairs.ids, config.validation) if job.guarded else []
    augment = config.augment.model_dump()
    degrade = online_degradation(params)
    data = DistillationData(
        pairs, cache, seed=job.seed, degrade=degrade, held_out=kept, readers=config.readers, **augment
    )
    method.prepare(data, job.targets)
    guard = None
    if kept and world.rank == 0:
        guard = ArtefactGuard(method, pairs, kept, scale=params.data.scale, config=config.validation, device=device)
    trainer = Trainer(
        method, data, store, plan=Plan.of(config), device=device, world=world, callbacks=callbacks, guard=guard
    )
    trainer.run()
    by_noise = trainer.by_noise.rows(world)
    if world.rank == 0:
        files.write_text(job.curve, _csv(trainer.history, ["step", "phase"]))
        files.write_text(job.diagnostics, _csv(by_noise, ["phase", "sigma_low", "sigma_high", "samples"]))
        if job.guarded:
            files.write_text(job.validation, _csv(trainer.validations, ["step", *SCORES, PATTERN]))
        method.export(job.out, student_record(params, job))
        if broken := broken_steps(trainer.validations, config.validation.max_pattern_rise_db):
            logger.warning(
                "the restored validation images held a periodic pattern after steps %s, more than %g dB above the best "
                "before (distill.validation.max_pattern_rise_db); after the last step it is at %.1f dB. See %s",
                ", ".join(map(str, broken)),
                config.validation.max_pattern_rise_db,
                trainer.validations[-1][PATTERN],
                job.validation.with_suffix(".png"),
            )
        for (phase, term), share in faint_terms(trainer.history, list(config.phases)).items():
            logger.warning(
                "phase %s: %s has %.1f %% of the gradient at z_hat, so it has hardly any effect: raise "
                "distill.phases.%s.losses.%s or set it to 0",
                phase,
                term,
                100 * share,
                phase,
                term,
            )


def export_checkpoint(params: Params, job: DistillJob, directory: Path) -> None:
    """Write the student of an unfinished run's newest checkpoint; raises as `trained_method`."""
    trained_method(params, job, torch.device("cpu")).export(directory, student_record(params, job))


def trained_method(params: Params, job: DistillJob, device: torch.device) -> Distillation:
    """The method with the networks of a run's newest checkpoint.

    Raises:
        UserError: there is none.
    """
    cache = LatentCache.open(job.latents, verify=False)
    method = build_method(params, job.teacher, cache, device, seed=job.seed)
    store = CheckpointStore(job.checkpoints, run_key(params, job, cache.manifest), params.distill.checkpoint.keep)
    trainer = Trainer(method, None, store, plan=Plan.of(params.distill), device=device)
    if not trainer.resume():
        raise UserError(f"{job.checkpoints}: no checkpoint of this run to write a student from")
    trainer.finish()
    return method


def student_record(params: Params, job: DistillJob) -> dict[str, Any]:
    """The run's entries in `student.json`; the method adds its own."""
    return {
        "method": params.distill.method,
        "variant": job.name,
        "seed": job.seed,
        "scale": params.data.scale,
        "use_shift": params.teacher.use_shift,
        "default_prompt": params.prompts.default,
        "teacher": {"preset": params.teacher.preset, "source": params.teacher.source},
        "distill": params.to_dict()["distill"],
    }


def online_degradation(params: Params) -> Degrade | None:
    """`distill.degradation: online` - the degradation of the pairs, with draws that depend on the epoch."""
    if params.distill.degradation == "offline":
        return None
    return lambda hq, pair, epoch: degrade_again(hq, pair, epoch, params.seed, params)


def build_method(
    params: Params, teacher_directory: Path, cache: LatentCache, device: torch.device, *, seed: int
) -> Distillation:
    """The recipe's method on a teacher's networks, its student untrained.

    Args:
        cache: the latents, for the prompts. seed: of the run.
    """
    config = params.distill
    lpips = config.lpips
    teacher = load_teacher(
        teacher_directory, text_encoders=False, dtype=getattr(torch, config.precision), device=device
    )

    @functools.cache
    def perceptual() -> PerceptualLoss:  # created at a term's first use: most recipes without weights have none
        return PerceptualLoss(lpips.net, lpips.weights, lpips.path, download=lpips.download).to(device)

    null, default = (
        Prompt(prompt.embeds.to(device), prompt.pooled.to(device)) for prompt in (cache.null, cache.default)
    )
    method, restorer = METHODS[config.method], None
    if method.restores:
        restoring.load(teacher.transformer, teacher_directory)
        restorer = RestoringTeacher(teacher.transformer, default)
    inputs = MethodInputs(
        config,
        teacher.vae,
        teacher.transformer,
        teacher.schedule,
        null,
        default,
        lambda x_hat, hq: perceptual()(x_hat, hq),
        scale=params.data.scale,
        use_shift=params.teacher.use_shift,
        seed=seeding.derive(seed, "distill"),
        adapter_seed=seed,
        restorer=restorer,
    )
    return method(inputs)


def _csv(rows: Sequence[Mapping[str, float | str]], first: Sequence[str]) -> str:
    """Records as CSV, one column per name, `first` first; a missing value is an empty cell."""
    columns = [*first, *sorted({name for row in rows for name in row} - set(first))]
    shown = [{name: value if isinstance(value, str) else f"{value:.6g}" for name, value in row.items()} for row in rows]
    return files.csv_text([columns, *([row.get(name) for name in columns] for row in shown)])
