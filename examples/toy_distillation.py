"""What TSD, VSD and TSM do to a student, on latents whose scores are known in closed form. Runs in seconds on a CPU.

The photographs' latents follow N(MEAN, STD^2). The "student" is a batch of free latents that starts too low and too
sharp. psi is the exact velocity of the photographs' distribution, phi that of the student's batch as it is now, and
`tsdsr.losses.tsd_loss` gives the direction: lambda = 1 is VSD, Eq. (3); 0 is TSM, Eq. (4); between them TSD, Eq. (5).
TSM pairs each latent with its own photograph and VSD matches distributions, so compare both columns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tsdsr.flow import FlowSchedule
from tsdsr.losses import tsd_loss

MEAN, STD = 1.0, 1.0
SHAPE = (512, 1, 2, 2)
STEPS, LEARNING_RATE = 400, 0.02


def gaussian_velocity(mean: float, std: float) -> Callable[[Tensor, Tensor], Tensor]:
    """E[noise - z | z_t] where z ~ N(mean, std^2), elementwise, and z_t = (1 - sigma) z + sigma noise."""

    def velocity(z_t: Tensor, timestep: Tensor) -> Tensor:
        sigma = (timestep / 1000).reshape(-1, 1, 1, 1)
        variance = ((1 - sigma) * std) ** 2 + sigma**2
        deviation = (z_t - (1 - sigma) * mean) / variance
        return sigma * deviation - (mean + (1 - sigma) * std**2 * deviation)

    return velocity


def distill(lam: float) -> tuple[float, float, float]:
    """Train with one lambda; returns the student's mean and spread, and its distance to its own photographs."""
    torch.manual_seed(0)
    schedule = FlowSchedule(shift=3.0)
    z = MEAN + STD * torch.randn(SHAPE)
    z_hat = (0.3 * torch.randn(SHAPE) - 1.0).requires_grad_()
    optimizer = torch.optim.Adam([z_hat], lr=LEARNING_RATE)
    teacher = gaussian_velocity(MEAN, STD)
    for _ in range(STEPS):
        fake = gaussian_velocity(float(z_hat.detach().mean()), float(z_hat.detach().std()))
        loss = tsd_loss(
            z_hat,
            z,
            noise=torch.randn(SHAPE),
            t=torch.empty(SHAPE[0]).uniform_(50, 950),
            teacher=teacher,
            fake=fake,
            schedule=schedule,
            lam=lam,
            dasm_steps=0,
            dasm_step_size=50,
            dasm_weight=0.3,
            residual="noise",  # no extra term that pushes away from the photograph, see tsdsr/losses/tsd.py
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    z_hat = z_hat.detach()
    return float(z_hat.mean()), float(z_hat.std()), float((z_hat - z).square().mean().sqrt())


def main() -> None:
    print(f"photographs: mean {MEAN:.2f}, spread {STD:.2f}; the student starts at mean -1.00, spread 0.30")
    print("method  lambda   mean  spread  distance to its photograph")
    for name, lam in (("TSM", 0.0), ("TSD", 0.7), ("VSD", 1.0)):
        mean, spread, distance = distill(lam)
        print(f"{name:6} {lam:7.1f} {mean:6.2f} {spread:7.2f} {distance:9.2f}")


if __name__ == "__main__":
    main()
