"""Target Score Distillation with the Distribution-Aware Sampling Module: Eqs. (3)-(6), Algorithm 1.

    g = (psi(z^_t) - psi(z_t)) + lambda (psi(z_t) - phi(z^_t))                              Eq. (5)

with psi the teacher, phi the fake score, z^ the student's latent and z the photograph's, both with the same noise.
lambda = 1 is VSD, Eq. (3); lambda = 0 is TSM, Eq. (4). DASM adds the same term at N further, less noisy points of two
Euler trajectories, z^ driven by phi and z by psi.

The residual: Algorithm 1 and the released code subtract network outputs, i.e. velocities. VSD subtracts at one point,
where velocity and noise differences agree up to the factor 1 - sigma. TSM subtracts at two points, where they do not:
with e = z_t + (1 - sigma) v,  e^ - e = (1 - sigma) [(z^ - z) + (v^ - v)],  so the velocity form has an additional -(z^
- z). `residual="noise"` subtracts noise estimates instead.

Legend: B batch, C h w latent.

Source: TSD-SR, arXiv 2411.18263, Sec. 3.3-3.4 and Algorithm 1; weight w(t) = sigma^2 as in its released code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tsdsr.flow import FlowSchedule, add_noise, euler_step, expand, noise_from_velocity
from tsdsr.losses.surrogate import score_surrogate

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(z_t of shape (nB, C, h, w), timestep (nB,) = 1000 sigma) -> velocity, guidance inside."""

LAST_TIME = 1.0  # the lowest of the scheduler's table


@dataclass(frozen=True)
class TSDLoss:
    """The surrogate whose gradient is the TSD direction.

    Attributes:
        per_sample: (B,), 0.5 mean(direction^2) in value; differentiable in z_hat alone.
        direction: (B, C, h, w), the weighted sum of Algorithm 1, lines 11-23; no gradient.
        sigma: (B,), the first point's noise level.
        statistics: by name, (B,) of the first point. `tsd_norm`, `vsd_norm`, `tsm_norm`: root mean squares of the
            unweighted residuals of Eqs. (5), (3) and (4); vsd_norm by time is the paper's Fig. 5. `cosine_z_hat`,
            `cosine_z`: between the teacher's velocity at z_hat_t or z_t and the true one, the straight line from that
            point to the photograph's latent; their gap is the paper's Fig. 3.
    """

    per_sample: Tensor
    direction: Tensor
    sigma: Tensor
    statistics: dict[str, Tensor]

    @property
    def loss(self) -> Tensor:
        """Mean over the batch: d loss / d z_hat = direction / numel."""
        return self.per_sample.mean()


def tsd_loss(
    z_hat: Tensor,
    z: Tensor,
    *,
    noise: Tensor,
    t: Tensor,
    teacher: Velocity,
    fake: Velocity,
    schedule: FlowSchedule,
    lam: float,
    dasm_steps: int,
    dasm_step_size: float,
    dasm_weight: float,
    dasm_offset: Tensor | None = None,
    residual: Literal["velocity", "noise"] = "velocity",
    teacher_on_z: Sequence[Tensor] | None = None,
) -> TSDLoss:
    """TSD at `t` and, with DASM, at t - s, ..., t - N s. Computed in float32, or in the inputs' dtype if wider.

    Args:
        z_hat: (B, C, h, w), the student's latent; receives the gradient.
        z: (B, C, h, w), the photograph's latent.
        noise: (B, C, h, w), standard normal, shared by z_hat_t and z_t.
        t: (B,), linear time in (0, 1000], one per sample.
        teacher, fake: psi and phi; called without gradient, on one or several stacked blocks of B rows.
        schedule: sigma(t).
        lam: lambda of Eq. (5), >= 0.
        dasm_steps: N, the number of further points (i = 1..N); 0 = without DASM.
        dasm_step_size: s, in linear time; near t = 0 the points lie closer, see `trajectory_sigmas`.
        dasm_weight: weight of each further point; the first one's is 1.
        dasm_offset: (B,), spread over the trajectory (the released code draws it from [-s/2, s/2)); None = 0.
        residual: the quantity that is subtracted.
        teacher_on_z: precomputed velocities of psi on z's trajectory, one (B, C, h, w) for each of the dasm_steps + 1
            points (`photograph_trajectory`). `teacher` is then called for z_hat only.
    """
    wide = torch.promote_types(z_hat.dtype, torch.float32)
    with torch.no_grad():
        noise, t, z = noise.to(wide), t.to(wide), z.to(wide)
        sigmas = trajectory_sigmas(schedule, t, dasm_steps, dasm_step_size, dasm_offset)
        direction = torch.zeros_like(z)
        statistics: dict[str, Tensor] = {}
        # lambda = 1 cancels psi(z_t), and with it the whole trajectory of z; it is kept at the first point for its
        # norm.
        points = _trajectories(
            z_hat.detach().to(wide), z, noise, sigmas, teacher, fake, schedule, teacher_on_z, first_z_alone=lam == 1
        )
        for i, point in enumerate(points):
            psi_hat, psi_z, phi_hat = point.predictions(residual)
            g = tsd_direction(psi_hat, psi_z, phi_hat, lam)
            point_weight = 1.0 if i == 0 else dasm_weight
            direction += point_weight * expand(point.sigma**2, g) * g  # w(t) = sigma^2
            if i == 0:
                statistics = {
                    "tsd_norm": _rms(g),
                    "vsd_norm": _rms(psi_hat - phi_hat),
                    "tsm_norm": _rms(psi_hat - psi_z),
                    "cosine_z_hat": _cosine(point.psi_hat, (point.z_hat_t - z) / expand(point.sigma, z)),
                    "cosine_z": _cosine(point.psi_z, (point.z_t - z) / expand(point.sigma, z)),
                }
    return TSDLoss(score_surrogate(z_hat, direction), direction, sigmas[0], statistics)


def tsd_direction(psi_hat: Tensor, psi_z: Tensor, phi_hat: Tensor, lam: float) -> Tensor:
    """Eq. (5): g = (psi(z^_t) - psi(z_t)) + lambda (psi(z_t) - phi(z^_t)); lambda = 1 is VSD, 0 is TSM.

    Args:
        psi_hat, psi_z: the teacher's predictions at z^_t and at z_t. phi_hat: the fake score's at z^_t.
        lam: lambda, >= 0.
    """
    if lam == 1:
        return psi_hat - phi_hat  # Eq. (3): psi(z_t) cancels
    return (psi_hat - psi_z) + lam * (psi_z - phi_hat)


@dataclass(frozen=True)
class _Point:
    """One point of both trajectories, and its velocities."""

    sigma: Tensor
    z_hat_t: Tensor
    z_t: Tensor
    psi_hat: Tensor
    psi_z: Tensor
    phi_hat: Tensor

    def predictions(self, residual: Literal["velocity", "noise"]) -> tuple[Tensor, Tensor, Tensor]:
        """psi(z^_t), psi(z_t) and phi(z^_t) in the form of the residual."""
        if residual == "velocity":
            return self.psi_hat, self.psi_z, self.phi_hat
        return (
            noise_from_velocity(self.z_hat_t, self.psi_hat, self.sigma),
            noise_from_velocity(self.z_t, self.psi_z, self.sigma),
            noise_from_velocity(self.z_hat_t, self.phi_hat, self.sigma),
        )


def _trajectories(
    z_hat: Tensor,
    z: Tensor,
    noise: Tensor,
    sigmas: Sequence[Tensor],
    teacher: Velocity,
    fake: Velocity,
    schedule: FlowSchedule,
    on_z: Sequence[Tensor] | None,
    *,
    first_z_alone: bool,
) -> Iterator[_Point]:
    """Algorithm 1's points: z^ is driven by the fake score, z by the teacher, Eq. (6).

    Args:
        on_z: precomputed psi on z's trajectory. first_z_alone: compute it at the first point only; at others psi_z is
            psi_hat.
    """
    z_hat_t, z_t = add_noise(z_hat, noise, sigmas[0]), add_noise(z, noise, sigmas[0])  # lines 9 and 10: one noise
    for i, sigma in enumerate(sigmas):
        timestep = schedule.timestep(sigma)
        blocks = [z_hat_t, z_t] if on_z is None and (i == 0 or not first_z_alone) else [z_hat_t]
        answers = teacher(torch.cat(blocks), torch.cat([timestep] * len(blocks))).to(z.dtype).chunk(len(blocks))
        psi_z = answers[-1] if on_z is None else on_z[i].to(z.dtype)
        point = _Point(sigma, z_hat_t, z_t, answers[0], psi_z, fake(z_hat_t, timestep).to(z.dtype))
        yield point
        if i + 1 < len(sigmas):  # no update is needed after the last point
            z_hat_t = euler_step(z_hat_t, point.phi_hat, sigma, sigmas[i + 1])
            z_t = euler_step(z_t, point.psi_z, sigma, sigmas[i + 1])


def trajectory_sigmas(
    schedule: FlowSchedule, t: Tensor, steps: int, step_size: float, offset: Tensor | None = None
) -> list[Tensor]:
    """The noise levels of Algorithm 1's points: sigma(t - i s), i = 0..N, each (B,).

    N + 1 steps reach (N + 1) s + offset below t, but not below 1, the last time of the scheduler's table: near t = 0
    the points are evenly closer. So no point is without noise, where its weight sigma^2 would be 0.

    Args:
        t: (B,), linear time, at least 1. steps: N. step_size: s. offset: (B,), in linear time.

    Source: the released training script, `linspace(i, min(i + 200 + bias, 999), 5)` on scheduler indices i = 1000 - t,
    for N = 3 and s = 50. Algorithm 1 does not define times below 0.
    """
    reach = torch.full_like(t, (steps + 1) * step_size) if offset is None else (steps + 1) * step_size + offset.to(t)
    stride = torch.minimum(reach, t - LAST_TIME).clamp(min=0) / (steps + 1)
    return [schedule.sigma(t - i * stride) for i in range(steps + 1)]


@torch.no_grad()
def photograph_trajectory(
    z: Tensor, noise: Tensor, sigmas: Sequence[Tensor], teacher: Velocity, schedule: FlowSchedule
) -> list[Tensor]:
    """psi's velocities on the photograph's own trajectory of Eq. (6), which does not depend on the student.

    Args:
        z, noise: (B, C, h, w). sigmas: `trajectory_sigmas`. teacher: psi. schedule: sigma's own.

    Returns:
        one (B, C, h, w) per point, for `tsd_loss`'s `teacher_on_z`.
    """
    z_t, velocities = add_noise(z, noise, sigmas[0]), []
    for i, sigma in enumerate(sigmas):
        velocities.append(teacher(z_t, schedule.timestep(sigma)).to(z_t.dtype))
        if i + 1 < len(sigmas):
            z_t = euler_step(z_t, velocities[-1], sigma, sigmas[i + 1])
    return velocities


def _rms(x: Tensor) -> Tensor:
    return x.flatten(1).pow(2).mean(1).sqrt()


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.cosine_similarity(a.flatten(1), b.flatten(1))
