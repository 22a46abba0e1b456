"""Training a teacher: a small one's autoencoder, and a transformer or its adapter by plain flow matching.

Legend: B batch, H W pixels, C h w a latent's channels and sides, L D P a prompt's tokens, width and pooled width.

Source: Esser et al., arXiv 2403.03206 (rectified flow with a shifted, uniformly sampled time; captions dropped for
guidance).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from tsdsr import seeding
from tsdsr.config import (
    AdamWConfig,
    ScheduleConfig,
    TeacherCropsConfig,
    TeacherFlowConfig,
    TeacherRestorerConfig,
    TeacherVAEConfig,
)
from tsdsr.data.cache import LatentCache
from tsdsr.device import send
from tsdsr.flow import FlowSchedule, add_noise
from tsdsr.losses.flow_matching import flow_matching_loss
from tsdsr.losses.texture import texture_loss
from tsdsr.methods.base import Group, Method, Moment, Turn, TurnOutput
from tsdsr.models.prompt import Prompt
from tsdsr.models.velocity import moved_positions, predict_velocity, room_beside

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SD3Transformer2DModel

ADAMW = AdamWConfig(weight_decay=0.0, betas=(0.9, 0.99), clip_norm=1.0)
WARMUP_STEPS = 50
# Weights of the autoencoder's loss, per pixel: the mean squared error determines PSNR, the mean absolute error keeps
# edges sharp, and a small KL divergence keeps latents moderate and smooth.
SQUARED, ABSOLUTE, DIVERGENCE = 3.0, 1.0, 1e-5


def training_group(
    name: str,
    parameters: Mapping[str, nn.Parameter],
    config: TeacherVAEConfig | TeacherFlowConfig | TeacherRestorerConfig,
) -> Group:
    """A group with the optimiser of all of a teacher's trainings."""
    warmup = min(WARMUP_STEPS, max(1, config.steps // 10))
    schedule = ScheduleConfig(name="cosine_with_restarts", warmup_steps=warmup, cycles=1)
    return Group(name, parameters, config.learning_rate, ADAMW, schedule)


class StepDraws:
    """Training data from a function `draw` of the step (from 1), with all random numbers of the step."""

    def __init__(self, draw: Callable[[int], Any], batch_size: int) -> None:
        self._draw, self._batch_size = draw, batch_size

    def prefetched(self, wanted: Iterable[Sequence[int]]) -> Iterator[Any]:
        for positions in wanted:
            yield self._draw(positions[0] // self._batch_size + 1)


@dataclass(frozen=True)
class CropBatch:
    """Crops [B,3,H,W] in [-1, 1], and where the posterior's noise is drawn from."""

    crops: Tensor
    generator: torch.Generator

    def to(self, device: torch.device) -> CropBatch:
        return replace(self, crops=send(self.crops, device))


def reconstruction_loss(restored: Tensor, crops: Tensor) -> Tensor:
    """The reconstruction loss of images [B,3,H,W], a scalar."""
    return SQUARED * (restored - crops).pow(2).mean() + ABSOLUTE * (restored - crops).abs().mean()


class AutoencoderTurn(Turn):
    """Reconstruction, divergence and, with a weight in the config, texture of an autoencoder."""

    name = "autoencoder"

    def __init__(self, vae: AutoencoderKL, config: TeacherVAEConfig) -> None:
        self.network, self.config = vae, config
        self.groups = [training_group(self.name, dict(vae.named_parameters()), config)]

    def run(self, batch: CropBatch, moment: Moment) -> TurnOutput:
        crops = batch.crops
        posterior = self.network.encode(crops).latent_dist
        noise = send(torch.randn(posterior.mean.shape, generator=batch.generator), crops.device)
        restored = self.network.decode(posterior.mean + posterior.std * noise).sample
        reconstruction = reconstruction_loss(restored, crops)
        divergence = posterior.kl().sum() / crops.numel()
        terms = {"vae_reconstruction": reconstruction, "vae_divergence": divergence}
        loss = reconstruction + DIVERGENCE * divergence
        if self.config.texture_weight > 0:
            terms["vae_texture"] = texture_loss(restored, crops).mean()
            loss = loss + self.config.texture_weight * terms["vae_texture"]
        (moment.share * loss).backward()
        return TurnOutput({name: term.detach() for name, term in terms.items()})


class AutoencoderTraining(Method):
    """Train an autoencoder on random crops.

    Args:
        vae: in training mode, on the device.
    """

    def __init__(self, vae: AutoencoderKL, config: TeacherVAEConfig) -> None:
        self.turns = (AutoencoderTurn(vae, config),)


def crop_data(images: Tensor, config: TeacherCropsConfig, *, seed: int, purpose: str) -> StepDraws:
    """Random crops of `images` [N,3,H,W] in [-1, 1]; every draw depends on (seed, purpose, step)."""

    def draw(step: int) -> CropBatch:
        generator = seeding.generator(seed, "teacher", purpose, step)
        return CropBatch(_random_crops(images, config.batch_size, config.crop_size, generator), generator)

    return StepDraws(draw, config.batch_size)


def _random_crops(images: Tensor, count: int, side: int, generator: torch.Generator) -> Tensor:
    """`count` crops [count,3,side,side], each from a random image at a random position, mirrored with probability
    1/2."""
    height, width = images.shape[-2:]
    side = min(side, height, width)
    crops = []
    for _ in range(count):
        image = images[_draw(len(images), generator)]
        top, left = _draw(height - side + 1, generator), _draw(width - side + 1, generator)
        crop = image[:, top : top + side, left : left + side]
        crops.append(crop.flip(-1) if _draw(2, generator) else crop)
    return torch.stack(crops)


def _draw(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (), generator=generator))


class FlowData(Protocol):
    """The data of flow matching: numbered latents with their captions' embeddings."""

    @property
    def null(self) -> Prompt: ...

    def __len__(self) -> int: ...

    def rows(self, numbers: Sequence[int]) -> tuple[Tensor, list[Prompt]]:
        """Latents [B,C,h,w] in the transformer's space, float32, with their prompts."""
        ...


@dataclass(frozen=True)
class LatentsInMemory:
    """A data set in memory; `captions` has the index in `prompts` of each latent's caption."""

    latents: Tensor
    captions: Sequence[int]
    prompts: Sequence[Prompt]
    null: Prompt

    def __len__(self) -> int:
        return len(self.latents)

    def rows(self, numbers: Sequence[int]) -> tuple[Tensor, list[Prompt]]:
        return self.latents[list(numbers)], [self.prompts[self.captions[number]] for number in numbers]


@dataclass(frozen=True)
class CachedLatents:
    """A `LatentCache`, read on demand."""

    cache: LatentCache

    @property
    def null(self) -> Prompt:
        return self.cache.null

    def __len__(self) -> int:
        return len(self.cache)

    def rows(self, numbers: Sequence[int]) -> tuple[Tensor, list[Prompt]]:
        return (
            torch.stack([self.cache.latent(number) for number in numbers]),
            [self.cache.prompt(number) for number in numbers],
        )


@dataclass(frozen=True)
class FlowBatch:
    """Latents and noise [B,C,h,w], their noise levels [B] and prompts [B,L,D], [B,P]; `offset`: patches that the
    positions are moved by, down and across."""

    z: Tensor
    noise: Tensor
    sigma: Tensor
    embeds: Tensor
    pooled: Tensor
    offset: tuple[int, int]

    def to(self, device: torch.device) -> FlowBatch:
        names = ("z", "noise", "sigma", "embeds", "pooled")
        return replace(self, **{name: send(getattr(self, name), device) for name in names})


def flow_data(
    data: FlowData, config: TeacherFlowConfig, schedule: FlowSchedule, *, seed: int, grid: tuple[int, int] | None
) -> StepDraws:
    """Batches for flow matching; every draw depends on (seed, step).

    Args:
        data: latents and prompts; the null prompt replaces a caption with probability `config.caption_dropout`.
        grid: the transformer's sample and patch size, to put the patches at random places of its sample; None leaves
            them in the middle.
    """

    def draw(step: int) -> FlowBatch:
        generator = seeding.generator(seed, "teacher", "flow", step)
        z, prompts = data.rows(torch.randint(len(data), (config.batch_size,), generator=generator).tolist())
        dropped = torch.rand(len(z), generator=generator) < config.caption_dropout
        prompts = [data.null if drop else prompt for prompt, drop in zip(prompts, dropped.tolist(), strict=True)]
        noise = torch.randn(z.shape, generator=generator)
        # Stratified over the batch: uniform, with less variance than independent draws.
        u = (torch.arange(len(z)) + torch.rand(len(z), generator=generator)) / len(z)
        room = 0 if grid is None else room_beside(z.shape[-1], *grid)
        across, down = (_draw(2 * room + 1, generator) - room for _ in range(2))
        return FlowBatch(
            z,
            noise,
            schedule.sigma(1000 * (1 - u)),
            torch.stack([prompt.embeds for prompt in prompts]),
            torch.stack([prompt.pooled for prompt in prompts]),
            (down, across),
        )

    return StepDraws(draw, config.batch_size)


class FlowTurn(Turn):
    """E || v(z_t, t, c) - (noise - z) ||^2, t uniform in (0, 1000]."""

    name = "flow"

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        parameters: Mapping[str, nn.Parameter],
        config: TeacherFlowConfig,
        schedule: FlowSchedule,
    ) -> None:
        self.network, self.schedule = transformer, schedule
        self.groups = [training_group("transformer", parameters, config)]

    def run(self, batch: FlowBatch, moment: Moment) -> TurnOutput:
        z_t = add_noise(batch.z, batch.noise, batch.sigma)
        with moved_positions(self.network, batch.offset):
            timestep = self.schedule.timestep(batch.sigma)
            v = predict_velocity(self.network, z_t, timestep, batch.embeds, batch.pooled)
            loss = flow_matching_loss(v, batch.z, batch.noise).mean()
            (moment.share * loss).backward()
        return TurnOutput({"flow": loss.detach()})


class FlowTraining(Method):
    """Train a transformer, or an adapter of it, by flow matching.

    Args:
        transformer: in training mode, on the device, in the dtype to train in; adapters that take part are active.
        parameters: the trained ones, in float32.
    """

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        parameters: Mapping[str, nn.Parameter],
        config: TeacherFlowConfig,
        schedule: FlowSchedule,
    ) -> None:
        self.turns = (FlowTurn(transformer, parameters, config, schedule),)
