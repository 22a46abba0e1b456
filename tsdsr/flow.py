"""The rectified-flow schedule of Stable Diffusion 3: the definitions of z_t, v and sigma(t).

    z_t = (1 - sigma) z_0 + sigma noise          sigma = sigma(t), t linear time in (0, 1000]
    v   = noise - z_0                            what the network predicts
    z_0 = z_t - sigma v                          the clean estimate
    e   = z_t + (1 - sigma) v                    the noise estimate

Along a trajectory sigma falls from 1 (pure noise) to 0 (an image), while a scheduler's *index* rises. Everything here
takes linear time t or sigma, never an index. The network is conditioned on `timestep = 1000 sigma`, not on t.

Source: Esser et al., arXiv 2403.03206 (rectified flow, timestep shift); TSD-SR, arXiv 2411.18263, Sec. 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tsdsr.device import send

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler

NUM_TRAIN_TIMESTEPS = 1000


@dataclass(frozen=True)
class FlowSchedule:
    """sigma(t) of a flow-matching Euler scheduler with a constant timestep shift k (3 in SD3)."""

    shift: float

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"shift must be positive, found {self.shift}")

    @classmethod
    def from_scheduler(cls, scheduler: FlowMatchEulerDiscreteScheduler) -> FlowSchedule:
        """Take the shift of a diffusers scheduler.

        Raises:
            ValueError: the scheduler's sigmas are not this map (dynamic shifting, Karras, exponential or beta sigmas,
                or another number of training timesteps).
        """
        config = scheduler.config
        if config.num_train_timesteps != NUM_TRAIN_TIMESTEPS:
            raise ValueError(f"num_train_timesteps must be {NUM_TRAIN_TIMESTEPS}, found {config.num_train_timesteps}")
        for switch in ("use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
            if config.get(switch):
                raise ValueError(f"the scheduler sets {switch}; only a constant shift is supported")
        return cls(shift=float(config.shift))

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level of linear time: sigma = k u / (1 + (k - 1) u) with u = t / 1000.

        Args:
            t: (B,), linear time in (0, 1000], any float dtype. 0 maps to 0.

        Returns:
            (B,), in the dtype of `t`.
        """
        u = t / NUM_TRAIN_TIMESTEPS
        return self.shift * u / (1 + (self.shift - 1) * u)

    def timestep(self, sigma: Tensor) -> Tensor:
        """The network's conditioning: 1000 sigma."""
        return NUM_TRAIN_TIMESTEPS * sigma


def expand(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1), to broadcast one value per sample over `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def add_noise(z: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """z_t = (1 - sigma) z + sigma noise; `sigma` is (B,)."""
    sigma = expand(sigma, z)
    return (1 - sigma) * z + sigma * noise


def velocity(z: Tensor, noise: Tensor) -> Tensor:
    """The regression target v = noise - z."""
    return noise - z


def noise_from_velocity(z_t: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
    """e = z_t + (1 - sigma) v; `sigma` is (B,)."""
    return z_t + (1 - expand(sigma, z_t)) * v


def euler_step(z_t: Tensor, v: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """One Euler step of dz = v dsigma from `sigma` to `sigma_next`, each (B,). Exact if v is constant."""
    return z_t + expand(sigma_next - sigma, z_t) * v


def euler_sample(
    velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, schedule: FlowSchedule, steps: int
) -> Tensor:
    """`steps` Euler steps over evenly spaced linear times from 1000 to 0, from `noise` (B,C,h,w).

    Args:
        velocity: (z_t, timestep (B,) = 1000 sigma) -> v, like z_t.
    """
    t = torch.linspace(NUM_TRAIN_TIMESTEPS, 0, steps + 1, device=noise.device)
    sigmas = schedule.sigma(t)[:, None].expand(-1, len(noise))
    z_t = noise
    for sigma, following in pairwise(sigmas):
        z_t = euler_step(z_t, velocity(z_t, schedule.timestep(sigma)), sigma, following)
    return z_t


def gaussian_like(z: Tensor, generators: list[torch.Generator], *, on_device: bool = False) -> Tensor:
    """Standard normal noise shaped like `z`, row i from `generators[i]` (CPU), so that a row's noise is independent of
    its batch and worker; does not wait for z's device.

    Args:
        on_device: a GPU draws the rows itself, from the generators' seeds, instead of taking the CPU's draws; equal
            seeds give equal rows on it, and others than on a CPU.
    """
    place = z.device if on_device and z.device.type == "cuda" else torch.device("cpu")
    if place.type == "cuda":
        generators = [torch.Generator(place).manual_seed(generator.initial_seed()) for generator in generators]
    rows = [
        torch.randn(z.shape[1:], generator=generator, dtype=torch.float32, device=place) for generator in generators
    ]
    return send(torch.stack(rows), z.device).to(z.dtype)


def uniform(generators: list[torch.Generator], bounds: tuple[float, float], device: torch.device) -> Tensor:
    """(B,), one draw from each sample's generator (CPU), such as its time; does not wait for the device."""
    low, high = bounds
    draws = torch.stack([torch.rand((), generator=generator) for generator in generators]) * (high - low) + low
    return draws.to(device, non_blocking=True)
