"""One training step of TSD-SR: the student's turn, Eqs. (7)-(8), then the fake score's, Eq. (9).

Order, as Algorithm 1: student forward; the TSD target without gradient; the losses outside it; the student's update;
then the fake score's update on stopgrad(z_hat). Every trainable parameter is reached through
`DistillationModel.forward`, the one call that DDP wraps.

Legend: B batch, H W pixels, C h w latent, L prompt tokens, D their width, P pooled width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tsdsr import seeding
from tsdsr.config import DistillConfig, PhaseConfig
from tsdsr.data.dataset import Batch
from tsdsr.errors import UserError
from tsdsr.flow import FlowSchedule, add_noise, gaussian_like
from tsdsr.losses import TSDLoss, fake_score_loss, tsd_loss
from tsdsr.losses.registry import LOSSES, StudentOutput
from tsdsr.losses.tsd import photograph_trajectory, trajectory_sigmas
from tsdsr.models import adapters
from tsdsr.models.guidance import GuidedVelocity, predict_velocity
from tsdsr.models.prompt import Prompt
from tsdsr.models.student import Student, upsample
from tsdsr.training.trajectories import HQTrajectories


class DistillationModel(nn.Module):
    """Student and fake score behind one `forward`, on one shared transformer."""

    def __init__(self, student: Student, default: Prompt) -> None:
        super().__init__()
        # Convolutions take channels-last weights without reordering their input: the VAE costs a third less on a CPU.
        self.vae, self.transformer = student.vae.to(memory_format=torch.channels_last), student.transformer
        self._student, self._default = student, default
        self._turns: dict[str, Callable[..., Tensor]] = {"student": self._student_turn, "fake_score": self._fake_turn}

    def forward(self, turn: str, *inputs: Tensor) -> Tensor:
        """`student`: (x_lq [B,3,H,W]) -> z_hat. `fake_score`: (z_t, timestep, embeds, pooled) -> velocity."""
        return self._turns[turn](*inputs)

    def _student_turn(self, x_lq: Tensor) -> Tensor:
        return self._student(x_lq, self._default)

    def _fake_turn(self, z_t: Tensor, timestep: Tensor, embeds: Tensor, pooled: Tensor) -> Tensor:
        with adapters.active(self.transformer, *fake_score_names(self.transformer)):
            return predict_velocity(self.transformer, z_t, timestep, embeds, pooled)


def teacher_names(transformer: nn.Module) -> tuple[str, ...]:
    """psi: the base, with its fine-tuning where there is one."""
    return (adapters.TEACHER,) if adapters.has_adapter(transformer, adapters.TEACHER) else ()


def fake_score_names(transformer: nn.Module) -> tuple[str, ...]:
    """phi: the teacher plus its own adapter, so that it starts as the teacher."""
    return (*teacher_names(transformer), adapters.FAKE_SCORE)


@dataclass
class StepOutput:
    """What one micro-batch gave.

    Attributes:
        z_hat: the student's latents, detached.
        losses: batch means by term, detached.
        sigma: (B,), the noise level of TSD's first point; None without that term.
        statistics: TSD's, by name, (B,) each.
    """

    z_hat: Tensor
    losses: dict[str, Tensor]
    sigma: Tensor | None = None
    statistics: dict[str, Tensor] = field(default_factory=dict)


class Distiller:
    """The two turns. Holds no optimiser: `backward` leaves gradients, the loop steps.

    Args:
        model: `DistillationModel`, or DDP around it.
        student: the same student; its decoder is used directly, having nothing to train.
        null: the empty prompt, for guidance.
        perceptual: (x_hat, hq) -> (B,).
        seed: every draw belongs to (seed, purpose, position).
        trajectories: psi on the photographs' trajectories, where `tsd.trajectory_draws` asks for them.
    """

    def __init__(
        self,
        model: nn.Module,
        student: Student,
        *,
        null: Prompt,
        schedule: FlowSchedule,
        perceptual: Callable[[Tensor, Tensor], Tensor],
        config: DistillConfig,
        scale: int,
        seed: int,
        trajectories: HQTrajectories | None = None,
    ) -> None:
        unknown = {name for phase in config.phases.values() for name in phase.losses} - LOSSES.keys()
        if unknown:
            raise UserError(f"distill.phases: unknown losses {sorted(unknown)}; known are {sorted(LOSSES)}")
        self.model, self.student, self.null, self.schedule = model, student, null, schedule
        self.perceptual, self.config, self.scale, self.seed = perceptual, config, scale, seed
        self.trajectories = trajectories

    def student_turn(self, batch: Batch, phase: PhaseConfig, share: float = 1.0) -> StepOutput:
        """Forward and backward of the student's objective, Eq. (8), times `share` (of an accumulated batch)."""
        transformer = self.student.transformer
        # Active throughout, since gradient checkpointing repeats the forward during backward.
        with adapters.active(transformer, adapters.STUDENT), adapters.active(self.student.vae, adapters.STUDENT):
            z_hat = self.model("student", upsample(batch.lq, self.scale))
            output = StudentOutput(
                z_hat,
                batch.z,
                batch.hq,
                decode=self.student.decode,
                perceptual=self.perceptual,
                tsd=lambda: self.tsd(z_hat, batch, phase),
            )
            terms = {name: LOSSES[name](output) for name, weight in phase.losses.items() if weight > 0}
            per_sample = torch.stack([phase.losses[name] * term for name, term in terms.items()]).sum(0)
            (share * per_sample.mean()).backward()
        result = StepOutput(z_hat.detach(), {name: term.detach().mean() for name, term in terms.items()})
        if "tsd" in terms:
            result.sigma, result.statistics = output.tsd.sigma, output.tsd.statistics
        return result

    def tsd(self, z_hat: Tensor, batch: Batch, phase: PhaseConfig) -> TSDLoss:
        """Algorithm 1 at each sample's own time and noise."""
        tsd, guidance, transformer = self.config.tsd, self.config.guidance_scale, self.student.transformer
        steps = tsd.dasm.steps if phase.dasm else 0
        generators = [seeding.generator(self.seed, "tsd", position) for position in batch.positions]
        on_z = None
        if self.trajectories is not None:  # the noise is one of the photograph's own draws
            draws = [int(torch.randint(tsd.trajectory_draws, (), generator=generator)) for generator in generators]
            generators = self._draw_generators(zip(batch.names, draws, strict=True))
            on_z = [v.to(z_hat.device) for v in self.trajectories.read(batch.names, draws)[: steps + 1]]
        t, offset, noise = self._noise(batch.z, generators)
        return tsd_loss(
            z_hat,
            batch.z,
            noise=noise,
            t=t,
            teacher=self._guided(teacher_names(transformer), batch.embeds, batch.pooled, guidance.teacher),
            fake=self._guided(fake_score_names(transformer), batch.embeds, batch.pooled, guidance.fake_score),
            schedule=self.schedule,
            lam=tsd.lam,
            dasm_steps=steps,
            dasm_step_size=tsd.dasm.step_size,
            dasm_weight=tsd.dasm.weight,
            dasm_offset=offset,
            residual=tsd.residual,
            teacher_on_z=on_z,
        )

    def photograph_trajectories(self, name: str, z: Tensor, caption: Prompt) -> Tensor:
        """psi on one photograph's trajectories for each of its draws, [K,N+1,C,h,w]: what `HQTrajectories` keeps.

        Args:
            name: its id in the cache. z: [C,h,w]. caption: its own, [L,D] and [P].
        """
        tsd = self.config.tsd
        rows = tsd.trajectory_draws
        generators = self._draw_generators((name, draw) for draw in range(rows))
        z, embeds, pooled = (
            part.expand(rows, *part.shape).to(self.null.embeds) for part in (z, caption.embeds, caption.pooled)
        )
        t, offset, noise = self._noise(z, generators)
        sigmas = trajectory_sigmas(self.schedule, t, tsd.dasm.steps, tsd.dasm.step_size, offset)
        names = teacher_names(self.student.transformer)
        teacher = self._guided(names, embeds, pooled, self.config.guidance_scale.teacher)
        return torch.stack(photograph_trajectory(z, noise, sigmas, teacher, self.schedule), dim=1)

    def _draw_generators(self, draws: Iterable[tuple[str, int]]) -> list[torch.Generator]:
        return [seeding.generator(self.seed, "trajectory", name, draw) for name, draw in draws]

    def _noise(self, z: Tensor, generators: list[torch.Generator]) -> tuple[Tensor, Tensor | None, Tensor]:
        """Each sample's time (B,), offset of DASM's last time (B,), and noise like z, from its own generator."""
        tsd = self.config.tsd
        t, offset = _uniform(generators, tsd.t_range, z.device), None
        if tsd.dasm.random_offset:
            offset = _uniform(generators, (-tsd.dasm.step_size / 2, tsd.dasm.step_size / 2), z.device)
        return t, offset, gaussian_like(z, generators)

    def fake_score_turn(self, batch: Batch, z_hat: Tensor, update: int, share: float = 1.0) -> Tensor:
        """Forward and backward of Eq. (9) on the student's latents; returns the batch mean, detached.

        A share `caption_dropout` of the samples takes the empty prompt, so that the branch guidance uses is trained.
        """
        config = self.config.fake_score
        generators = [seeding.generator(self.seed, "fake_score", position, update) for position in batch.positions]
        t = _uniform(generators, config.t_range, z_hat.device)
        dropped = _uniform(generators, (0.0, 1.0), z_hat.device) < config.caption_dropout
        noise = gaussian_like(z_hat, generators)
        sigma = self.schedule.sigma(t)
        embeds = torch.where(dropped[:, None, None], self.null.embeds, batch.embeds)
        pooled = torch.where(dropped[:, None], self.null.pooled, batch.pooled)
        with adapters.active(self.student.transformer, *fake_score_names(self.student.transformer)):
            z_t = add_noise(z_hat, noise, sigma)
            v_fake = self.model("fake_score", z_t, self.schedule.timestep(sigma), embeds, pooled)
            loss = fake_score_loss(v_fake, z_hat, noise).mean()
            (share * loss).backward()
        return loss.detach()

    def _guided(self, names: tuple[str, ...], embeds: Tensor, pooled: Tensor, scale: float) -> GuidedVelocity:
        return GuidedVelocity(self.student.transformer, names, embeds, pooled, self.null, scale, self.config.low_memory)


def _uniform(generators: list[torch.Generator], bounds: tuple[float, float], device: torch.device) -> Tensor:
    """(B,), one draw from each sample's generator; the device is not waited for."""
    low, high = bounds
    draws = torch.stack([torch.rand((), generator=generator) for generator in generators]) * (high - low) + low
    return draws.to(device, non_blocking=True)
