"""TSD-SR: target score distillation with the distribution-aware sampling module.

Order of a step, as Algorithm 1: student forward; the TSD target without gradient; the losses outside it; the student's
update; then the fake score's update on stopgrad(z_hat).

Legend: B batch, C h w latent, L prompt tokens, D their width, P pooled width, K draws, N + 1 points.

Source: TSD-SR, arXiv 2411.18263, Sec. 3 and Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tsdsr import seeding
from tsdsr.config import TSDSRConfig
from tsdsr.config.methods.tsdsr import TSDPhaseConfig
from tsdsr.data.dataset import Batch, DistillationData
from tsdsr.data.targets import PhotographTargets
from tsdsr.device import send
from tsdsr.flow import uniform
from tsdsr.losses import TSDLoss, tsd_loss
from tsdsr.losses.tsd import photograph_trajectory, trajectory_sigmas
from tsdsr.methods.score_distillation import ScoreDistillation, fake_velocity, teacher_velocity
from tsdsr.methods.student import StudentOutput, Term
from tsdsr.methods.teacher_features import TeacherFeatures
from tsdsr.models.prompt import Prompt


class TSDSR(ScoreDistillation):
    """Attributes: trajectories: psi on the photographs' trajectories, if `tsd.trajectory_draws` is above 0."""

    title = "TSD-SR"
    score = "tsd"
    statistics = ("tsd_norm", "vsd_norm", "tsm_norm", "cosine_z_hat", "cosine_z")
    trajectories: PhotographTargets | None = None

    @property
    def config(self) -> TSDSRConfig:
        config: TSDSRConfig = self.inputs.config
        return config

    @classmethod
    def for_counting(cls, config: TSDSRConfig) -> TSDSRConfig:
        dasm = config.tsd.dasm.model_copy(update={"steps": min(1, config.tsd.dasm.steps)})  # further ones repeat it
        return config.model_copy(update={"tsd": config.tsd.model_copy(update={"dasm": dasm})})

    def terms(self) -> Mapping[str, Term]:
        return {"tsd": self._tsd_term, "teacher_features": TeacherFeatures(self.inputs)}  # Eqs. (5)-(6); (7)

    def _tsd_term(self, output: StudentOutput) -> Tensor:
        phase: TSDPhaseConfig = output.moment.phase
        loss = self.tsd(output.z_hat, output.batch, dasm=phase.dasm)
        output.note(loss.sigma, loss.statistics)
        return loss.per_sample

    def tsd(self, z_hat: Tensor, batch: Batch, *, dasm: bool) -> TSDLoss:
        """Algorithm 1 at each sample's own time and noise."""
        tsd = self.config.tsd
        steps = tsd.dasm.steps if dasm and tsd.dasm.weight else 0
        generators = [seeding.generator(self.inputs.seed, "tsd", position) for position in batch.positions]
        on_z = None
        if self.trajectories is not None:  # the noise is one of the photograph's fixed draws
            draws = [int(torch.randint(tsd.trajectory_draws, (), generator=generator)) for generator in generators]
            generators = self._draw_generators(zip(batch.names, draws, strict=True))
            rows = self.trajectories.rows(batch.names, draws)  # [B,N+1,C,h,w]
            on_z = list(send(rows[:, : steps + 1], z_hat.device).unbind(1))
            offsets = generators
        else:  # one draw per batch, independent of the worker
            step = (position // self.config.batch_size for position in batch.positions)
            offsets = [seeding.generator(self.inputs.seed, "dasm", number) for number in step]
        t, offset, noise = self._noise(batch.z, generators, offsets)
        return tsd_loss(
            z_hat,
            batch.z,
            noise=noise,
            t=t,
            teacher=teacher_velocity(self.inputs, batch.embeds, batch.pooled),
            fake=fake_velocity(self.inputs, batch.embeds, batch.pooled),
            schedule=self.inputs.schedule,
            lam=tsd.lam,
            dasm_steps=steps,
            dasm_step_size=tsd.dasm.step_size,
            dasm_weight=tsd.dasm.weight,
            dasm_offset=offset,
            residual=tsd.residual,
            teacher_on_z=on_z,
        )

    def prepare(self, data: DistillationData, directory: Path) -> None:
        """psi on the photographs' own trajectories for K draws of time and noise each.

        In Eqs. (4)-(6) the teacher's predictions on z do not depend on the student. With fresh noise they are still
        computed in every step; with K fixed draws per photograph they are computed once, which saves a third of the TSD
        term's network rows, with K noises per photograph instead of fresh ones.
        """
        config, tsd = self.config, self.config.tsd
        if not tsd.trajectory_draws:
            return
        key = {
            "latents": data.cache.manifest,
            "seed": self.inputs.seed,
            "tsd": tsd.model_dump(mode="json", include={"t_range", "trajectory_draws"}),
            "dasm": tsd.dasm.model_dump(mode="json", exclude={"weight"}),
            "guidance": config.guidance_scale.teacher,
            "network": [config.precision, config.low_memory, config.fp8_scores],  # all three affect the rounding
            "shift": self.inputs.schedule.shift,
        }
        self.trajectories = PhotographTargets(directory, key)
        self.trajectories.prepare(
            data.names, lambda name: self.photograph_trajectories(name, data.latent(name), data.caption(name))
        )

    def photograph_trajectories(self, name: str, z: Tensor, caption: Prompt) -> Tensor:
        """psi on one photograph's trajectories for each of its draws, [K,N+1,C,h,w].

        Args:
            name: its id in the cache. z: [C,h,w]. caption: [L,D] and [P].
        """
        tsd, null = self.config.tsd, self.inputs.null
        rows = tsd.trajectory_draws
        generators = self._draw_generators((name, draw) for draw in range(rows))
        z, embeds, pooled = (
            part.expand(rows, *part.shape).to(null.embeds.device) for part in (z, caption.embeds, caption.pooled)
        )
        t, offset, noise = self._noise(z, generators, generators)
        sigmas = trajectory_sigmas(self.inputs.schedule, t, tsd.dasm.steps, tsd.dasm.step_size, offset)
        teacher = teacher_velocity(self.inputs, embeds, pooled)
        return torch.stack(photograph_trajectory(z, noise, sigmas, teacher, self.inputs.schedule), dim=1)

    def _draw_generators(self, draws: Iterable[tuple[str, int]]) -> list[torch.Generator]:
        return [seeding.generator(self.inputs.seed, "trajectory", name, draw) for name, draw in draws]

    def _noise(
        self, z: Tensor, generators: list[torch.Generator], offsets: list[torch.Generator]
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Each sample's time (B,), offset of DASM's points (B,), and noise like z, from its generators."""
        tsd = self.config.tsd
        t, offset = uniform(generators, tsd.t_range, z.device), None
        if tsd.dasm.random_offset:
            offset = uniform(offsets, (-tsd.dasm.step_size / 2, tsd.dasm.step_size / 2), z.device)
        return t, offset, self.inputs.noise_like(z, generators)
