"""The quality of a trained teacher: on test photographs its autoencoder's PSNR and its flow loss per noise bin, beside
two simple predictors; and samples from noise.

`mean` always predicts the mean velocity, -E[z]: its loss is 1 + Var[z] in every bin. `gaussian` predicts the
conditional expectation for a Gaussian with each channel's mean and variance: it uses z_t, but no correlations of pixels
or channels. A trained network is below the first in every bin; one that has learnt the structure of photographs is
below the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tsdsr import seeding
from tsdsr.data.images import denormalized
from tsdsr.flow import FlowSchedule, add_noise, euler_sample, expand
from tsdsr.losses.flow_matching import flow_matching_loss
from tsdsr.models.codec import LatentCodec
from tsdsr.models.prompt import Prompt
from tsdsr.models.velocity import GuidedVelocity, predict_velocity

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel

BIN_EDGES = (0.0, 200.0, 400.0, 600.0, 800.0, 1000.0)  # linear time
DRAWS = 4  # times and noises a bin and latent
SAMPLE_STEPS = 28  # as SD3's pipeline has it
SAMPLE_GUIDANCE = (1.0, 3.0)


@torch.no_grad()
def round_trip_psnr(codec: LatentCodec, images: Sequence[Tensor]) -> float:
    """Mean PSNR in dB of decode(encode(x)) over images [3,H,W] in [-1, 1]; over RGB, peak 255."""
    values = []
    for image in images:
        restored = codec.round_trip(image[None])[0].clamp(-1, 1)
        error = ((restored - image) / 2).pow(2).mean()
        values.append(float(-10 * torch.log10(error)))
    return sum(values) / len(values)


@torch.no_grad()
def flow_by_bin(
    transformer: SD3Transformer2DModel,
    schedule: FlowSchedule,
    *,
    latents: Sequence[Tensor],
    prompts: Sequence[Prompt],
    statistics: tuple[Tensor, Tensor],
    seed: int,
) -> dict[str, dict[str, float]]:
    """Flow-matching loss per bin of linear time, of the transformer and of the two simple predictors.

    Args:
        latents: each [C,h,w].
        prompts: the caption of each.
        statistics: mean and variance of the training latents' channels, each [C].
        seed: for times and noise.

    Returns:
        per bin `t0000_0200` ...: `teacher`, `mean`, `gaussian`.
    """
    report = {}
    for low, high in pairwise(BIN_EDGES):
        losses = {"teacher": 0.0, "mean": 0.0, "gaussian": 0.0}
        for number, (latent, prompt) in enumerate(zip(latents, prompts, strict=True)):
            generator = seeding.generator(seed, "teacher", "report", int(low), number)
            z = latent.expand(DRAWS, *latent.shape)
            noise = torch.randn(z.shape, generator=generator)
            sigma = schedule.sigma(low + (high - low) * (1 - torch.rand(DRAWS, generator=generator)))
            z_t = add_noise(z, noise, sigma)
            place = transformer.device
            embeds, pooled = prompt.embeds.to(place), prompt.pooled.to(place)
            timestep = schedule.timestep(sigma).to(place)
            v = predict_velocity(transformer, z_t.to(place), timestep, embeds, pooled).cpu()
            mean, variance = (values.reshape(1, -1, 1, 1) for values in statistics)
            answers = {
                "teacher": v,
                "mean": -mean.expand_as(z),
                "gaussian": _gaussian_velocity(z_t, sigma, mean, variance),
            }
            for name, answer in answers.items():
                losses[name] += flow_matching_loss(answer, z, noise).mean().item() / len(latents)
        report[f"t{int(low):04d}_{int(high):04d}"] = losses
    return report


@torch.no_grad()
def samples(
    transformer: SD3Transformer2DModel,
    codec: LatentCodec,
    schedule: FlowSchedule,
    *,
    prompts: Sequence[Prompt],
    null: Prompt,
    side: int,
    seed: int,
) -> np.ndarray:
    """A sheet of the teacher's samples: a column per caption, a row without guidance and one with it.

    Args:
        prompts: of the captions. null: the empty one.
        side: in pixels, of each picture. seed: of the noise, the same in both rows of a column.

    Returns:
        uint8 (2 side, n side, 3).
    """
    place, count = transformer.device, len(prompts)
    latent = (count, int(transformer.config.in_channels), side // codec.factor, side // codec.factor)
    noise = torch.randn(latent, generator=seeding.generator(seed, "teacher", "samples")).to(place)
    embeds, pooled = (torch.stack([getattr(p, part) for p in prompts]).to(place) for part in ("embeds", "pooled"))
    null = Prompt(null.embeds.to(place), null.pooled.to(place))
    rows = []
    for scale in SAMPLE_GUIDANCE:
        velocity = GuidedVelocity(transformer, (), embeds, pooled, null, scale)
        z = euler_sample(velocity, noise, schedule, SAMPLE_STEPS)
        rows.append(np.concatenate([denormalized(image) for image in codec.decode(z).float().cpu()], axis=1))
    return np.concatenate(rows)


def _gaussian_velocity(z_t: Tensor, sigma: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """E[noise - z | z_t] for z ~ N(mean, variance): linear in the deviation of z_t from its mean."""
    sigma = expand(sigma, z_t)
    deviation = z_t - (1 - sigma) * mean
    gain = (sigma - (1 - sigma) * variance) / (sigma**2 + (1 - sigma) ** 2 * variance)
    return gain * deviation - mean
