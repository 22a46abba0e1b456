"""Training a teacher: a small one's autoencoder, and a transformer or its adapter by plain flow matching.

Legend: B batch, H W pixels, C h w a latent's channels and sides, L D P a prompt's tokens, width and pooled width.

Source: Esser et al., arXiv 2403.03206 (rectified flow with a shifted, uniformly sampled time; captions dropped for
guidance). The autoencoder's start is this project's own (`tsdsr.models.linear_start`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from tsdsr import seeding
from tsdsr.config import TeacherFlowConfig, TeacherVAEConfig
from tsdsr.data.cache import LatentCache
from tsdsr.flow import FlowSchedule, add_noise, velocity
from tsdsr.models.linear_start import linear_start
from tsdsr.models.prompt import Prompt

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SD3Transformer2DModel

OnStep = Callable[[int, dict[str, float]], None]

WARMUP_STEPS = 50
BETAS = (0.9, 0.99)
CLIP_NORM = 1.0
# Weights of the autoencoder's loss, per pixel: mean squared error decides what PSNR measures, the mean absolute error
# keeps edges from blurring, and a small KL divergence keeps latents of moderate size and smooth.
SQUARED, ABSOLUTE, DIVERGENCE = 3.0, 1.0, 1e-5


def train_vae(vae: AutoencoderKL, images: Tensor, config: TeacherVAEConfig, *, seed: int, on_step: OnStep) -> None:
    """Train an autoencoder in place on crops of `images`.

    Args:
        vae: freshly made.
        images: [N,3,H,W] in [-1, 1].
        config: steps, batch, crop side in pixels, learning rate.
        seed: every draw belongs to (seed, step).
        on_step: called with the step (from 1) and its losses.
    """
    linear_start(vae, images)
    vae.train()
    parameters = list(vae.parameters())
    optimizer, schedule = _optimizer(parameters, config.learning_rate, config.steps)
    for step in range(1, config.steps + 1):
        generator = seeding.generator(seed, "teacher", "vae", step)
        crops = _random_crops(images, config.batch_size, config.crop_size, generator)
        posterior = vae.encode(crops).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        restored = vae.decode(posterior.mean + posterior.std * noise).sample
        reconstruction = SQUARED * (restored - crops).pow(2).mean() + ABSOLUTE * (restored - crops).abs().mean()
        divergence = posterior.kl().sum() / crops.numel()
        _update(parameters, optimizer, schedule, reconstruction + DIVERGENCE * divergence, f"VAE step {step}")
        on_step(step, {"vae_reconstruction": reconstruction.item(), "vae_divergence": divergence.item()})
    vae.eval().requires_grad_(False)


def _random_crops(images: Tensor, count: int, side: int, generator: torch.Generator) -> Tensor:
    """`count` crops [count,3,side,side], each from a random image at a random place, mirrored half of the time."""
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
    """What flow matching trains on: numbered latents with their captions' embeddings."""

    @property
    def null(self) -> Prompt: ...

    def __len__(self) -> int: ...

    def rows(self, numbers: Sequence[int]) -> tuple[Tensor, list[Prompt]]:
        """Latents [B,C,h,w] in the transformer's space, float32, and each one's prompt."""
        ...


@dataclass(frozen=True)
class LatentsInMemory:
    """A data set that fits in memory; `captions` says which of `prompts` describes each latent."""

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
    """A `LatentCache`, read as it is needed."""

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


def train_flow(
    transformer: SD3Transformer2DModel,
    parameters: Sequence[nn.Parameter],
    data: FlowData,
    config: TeacherFlowConfig,
    schedule: FlowSchedule,
    *,
    seed: int,
    shift_positions: bool,
    on_step: OnStep,
) -> None:
    """Train in place: E || v(z_t, t, c) - (noise - z) ||^2, t uniform in (0, 1000].

    Args:
        transformer: on the device and in the dtype to train in; adapters that take part are active.
        parameters: those to train, of it; float32.
        data: latents and prompts; the null prompt takes a caption's place at `config.caption_dropout`.
        shift_positions: put the patches at random places of the model's sample size.
        on_step: called with the step (from 1) and its losses.
    """
    transformer.train()
    optimizer, rate = _optimizer(parameters, config.learning_rate, config.steps)
    for step in range(1, config.steps + 1):
        generator = seeding.generator(seed, "teacher", "flow", step)
        z, prompts = data.rows(torch.randint(len(data), (config.batch_size,), generator=generator).tolist())
        dropped = torch.rand(len(z), generator=generator) < config.caption_dropout
        prompts = [data.null if drop else prompt for prompt, drop in zip(prompts, dropped.tolist(), strict=True)]
        noise = torch.randn(z.shape, generator=generator)
        # Spread over the batch, one draw a stratum: uniform, with less variance than independent draws.
        u = (torch.arange(len(z)) + torch.rand(len(z), generator=generator)) / len(z)
        sigma = schedule.sigma(1000 * (1 - u))
        room = transformer.config.sample_size - z.shape[-1] if shift_positions else 0
        with _shifted_positions(transformer, room, generator):
            predicted = predict(transformer, add_noise(z, noise, sigma), schedule.timestep(sigma), prompts)
        loss = flow_losses(predicted, z.to(predicted.device), noise.to(predicted.device)).mean()
        _update(parameters, optimizer, rate, loss, f"flow step {step}")
        on_step(step, {"flow": loss.item()})
    transformer.eval().requires_grad_(False)


def predict(transformer: SD3Transformer2DModel, z_t: Tensor, timestep: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """The velocity [B,C,h,w] at `z_t` for a prompt a row, on the transformer's device and in its dtype."""
    place = {"device": transformer.device, "dtype": transformer.dtype}
    answer: Tensor = transformer(
        hidden_states=z_t.to(**place),
        timestep=timestep.to(transformer.device),
        encoder_hidden_states=torch.stack([prompt.embeds for prompt in prompts]).to(**place),
        pooled_projections=torch.stack([prompt.pooled for prompt in prompts]).to(**place),
        return_dict=False,
    )[0]
    return answer


def flow_losses(predicted: Tensor, z: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the velocity, a value a sample: (B,), in float32."""
    return (predicted.float() - velocity(z, noise).float()).pow(2).flatten(1).mean(1)


@contextmanager
def _shifted_positions(transformer: SD3Transformer2DModel, room: int, generator: torch.Generator) -> Iterator[None]:
    """Within the block the patches sit at a random place, up to `room` / 2 latents off the centre, instead of at it.

    The model takes positions from the centre of a table. Trained there alone, on crops smaller than its sample size, it
    would meet the outer positions of a larger image for the first time at inference.
    """
    embed = transformer.pos_embed
    patches = max(0, room) // (2 * transformer.config.patch_size)
    across, down = (_draw(2 * patches + 1, generator) - patches for _ in range(2))
    table = embed.pos_embed
    size = embed.pos_embed_max_size
    embed.pos_embed = table.reshape(size, size, -1).roll((-down, -across), (0, 1)).reshape(table.shape)
    try:
        yield
    finally:
        embed.pos_embed = table


def _optimizer(parameters: Sequence[nn.Parameter], rate: float, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW with a short warm-up and a cosine to (almost) zero."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=BETAS, weight_decay=0.0)
    warmup = min(WARMUP_STEPS, max(1, steps // 10))

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _update(
    parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, schedule: Any, loss: Tensor, where: str
) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(f"{where}: the loss is {loss.item()}")
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
    if not torch.isfinite(norm):
        raise FloatingPointError(f"{where}: the gradient's norm is {norm.item()}")
    optimizer.step()
    schedule.step()
