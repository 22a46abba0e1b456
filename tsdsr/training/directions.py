"""The cosine of each part of the TSD direction with z_hat - z, by time and by form of the residual.

Gradient descent steps against the direction, so with a positive cosine z_hat approaches the photograph's z.

Legend: B samples, C h w latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tsdsr import seeding
from tsdsr.config import Params, TSDSRConfig
from tsdsr.data.cache import LatentCache
from tsdsr.data.dataset import Batch, DistillationData
from tsdsr.data.pairs import PairFolder
from tsdsr.errors import UserError
from tsdsr.losses import tsd_loss
from tsdsr.methods.base import Moment
from tsdsr.methods.score_distillation import ScoreDistillation, fake_velocity, teacher_velocity
from tsdsr.models.student import upsample
from tsdsr.training.distillation import build_method, online_degradation
from tsdsr.training.optim import GroupOptimizer

Residual = Literal["velocity", "noise"]


@dataclass(frozen=True)
class Directions:
    """Mean cosines at one time: of TSM, Eq. (4), VSD, Eq. (3), and TSD, Eq. (5), without DASM."""

    residual: Residual
    t: float
    tsm: float
    vsd: float
    tsd: float


def measure(
    params: Params,
    *,
    pairs: Path,
    latents: Path,
    teacher: Path,
    student: Path,
    times: Sequence[float],
    samples: int,
    fake_score_steps: int,
) -> list[Directions]:
    """The cosines for a student's latents, one row per form and time.

    Args:
        params: sections data, degradation and distill are read: guidance, lambda, batch size.
        times: linear, each used for all samples. samples: rounded up to whole batches.
        fake_score_steps: updates that first fit phi to the student, Eq. (9); at 0 phi is psi and VSD is 0.

    Raises:
        UserError: the method has no fake score, or inputs are missing or do not fit.
    """
    config, cpu = params.distill, torch.device("cpu")
    cache = LatentCache.open(latents, verify=False)
    method = build_method(params, teacher, cache, cpu, seed=params.seed)
    if not isinstance(method, ScoreDistillation):
        raise UserError(f"distill.method: {config.method} has no fake score; the directions are those of tsdsr and vsd")
    method.go_on_from(student)
    degrade = online_degradation(params)
    data = DistillationData(PairFolder(pairs), cache, seed=params.seed, degrade=degrade, **config.augment.model_dump())
    outputs = _student_outputs(method, data, config.batch_size, params.data.scale)
    _fit_fake_score(method, outputs, fake_score_steps)
    given = [next(outputs) for _ in range(-(-samples // config.batch_size))]
    lam = config.tsd.lam if isinstance(config, TSDSRConfig) else 1.0
    return [
        Directions(residual, time, *(_mean_cosine(method, given, residual, time, value) for value in (0.0, 1.0, lam)))
        for residual in get_args(Residual)
        for time in times
    ]


def _student_outputs(
    method: ScoreDistillation, data: DistillationData, size: int, scale: int
) -> Iterator[tuple[Batch, Tensor]]:
    """An endless sequence of batches, each with the student's latents."""
    first = 0
    while True:
        batch = data.batch(range(first, first + size))
        with torch.no_grad():
            z_hat = method.student(upsample(batch.lq, scale), method.inputs.default)
        yield batch, z_hat
        first += size


def _fit_fake_score(method: ScoreDistillation, outputs: Iterator[tuple[Batch, Tensor]], steps: int) -> None:
    turn = method.fake_score
    optimizer = GroupOptimizer(turn.groups[0], [range(max(1, steps))])
    for step in range(steps):
        batch, z_hat = next(outputs)
        optimizer.zero_grad()
        turn.run(batch, Moment(step, steps, phase=None, carried={"z_hat": z_hat}))
        optimizer.clip()
        optimizer.step(step)


@torch.no_grad()
def _mean_cosine(
    method: ScoreDistillation, given: Sequence[tuple[Batch, Tensor]], residual: Residual, time: float, lam: float
) -> float:
    cosines = []
    for batch, z_hat in given:
        generators = [seeding.generator(method.inputs.seed, "directions", position) for position in batch.positions]
        options: dict[str, Any] = {"dasm_steps": 0, "dasm_step_size": 1.0, "dasm_weight": 0.0}
        direction = tsd_loss(
            z_hat,
            batch.z,
            noise=method.inputs.noise_like(batch.z, generators),
            t=torch.full((len(z_hat),), time),
            teacher=teacher_velocity(method.inputs, batch.embeds, batch.pooled),
            fake=fake_velocity(method.inputs, batch.embeds, batch.pooled),
            schedule=method.inputs.schedule,
            lam=lam,
            residual=residual,
            **options,
        ).direction
        cosines.append(torch.cosine_similarity(direction.flatten(1), (z_hat - batch.z).flatten(1)))
    return float(torch.cat(cosines).mean())
