"""Training a teacher: a small one's autoencoder, and a transformer or its adapter by plain flow matching.

Legend: B batch, H W pixels, C h w a latent's channels and sides, L D P a prompt's tokens, width and pooled width.

Source: Esser et al., arXiv 2403.03206 (rectified flow with a shifted, uniformly sampled time; captions dropped for
guidance). The autoencoder's start is this project's own (`tsdsr.models.linear_start`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from tsdsr import seeding
from tsdsr.config import TeacherFlowConfig, TeacherVAEConfig
from tsdsr.data.cache import LatentCache
from tsdsr.flow import FlowSchedule, add_noise, velocity
from tsdsr.losses.texture import texture_loss
from tsdsr.models.linear_start import linear_start
from tsdsr.models.prompt import Prompt
from tsdsr.training.teacher_loop import Session, Values, descend

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SD3Transformer2DModel

# Weights of the autoencoder's loss, per pixel: mean squared error decides what PSNR measures, the mean absolute error
# keeps edges from blurring, and a small KL divergence keeps latents of moderate size and smooth.
SQUARED, ABSOLUTE, DIVERGENCE = 3.0, 1.0, 1e-5


def train_vae(
    vae: AutoencoderKL, images: Tensor, config: TeacherVAEConfig, *, seed: int, session: Session
) -> list[Values]:
    """Train an autoencoder in place on crops of `images`; returns the curve of its losses.

    Args:
        vae: freshly made.
        images: [N,3,H,W] in [-1, 1].
        config: steps, batch, crop side in pixels, learning rate.
        seed: every draw belongs to (seed, step).
        session: what is around it.

    Raises:
        Stopped: by the session.
    """
    linear_start(vae, images)
    vae.train()

    def losses(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = seeding.generator(seed, "teacher", "vae", step)
        crops = _random_crops(images, config.batch_size, config.crop_size, generator)
        posterior = vae.encode(crops).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        restored = vae.decode(posterior.mean + posterior.std * noise).sample
        reconstruction = SQUARED * (restored - crops).pow(2).mean() + ABSOLUTE * (restored - crops).abs().mean()
        divergence = posterior.kl().sum() / crops.numel()
        terms = {"vae_reconstruction": reconstruction, "vae_divergence": divergence}
        loss = reconstruction + DIVERGENCE * divergence
        if config.texture_weight > 0:
            terms["vae_texture"] = texture_loss(restored, crops).mean()
            loss = loss + config.texture_weight * terms["vae_texture"]
        return loss, terms

    curve = descend(
        dict(vae.named_parameters()), losses, learning_rate=config.learning_rate, steps=config.steps, session=session
    )
    vae.eval().requires_grad_(False)
    return curve


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
    parameters: Mapping[str, nn.Parameter],
    data: FlowData,
    config: TeacherFlowConfig,
    schedule: FlowSchedule,
    *,
    seed: int,
    shift_positions: bool,
    session: Session,
) -> list[Values]:
    """Train in place: E || v(z_t, t, c) - (noise - z) ||^2, t uniform in (0, 1000]; returns the curve of the loss.

    Args:
        transformer: on the device and in the dtype to train in; adapters that take part are active.
        parameters: those to train, of it; float32.
        data: latents and prompts; the null prompt takes a caption's place at `config.caption_dropout`.
        seed: every draw belongs to (seed, step).
        shift_positions: put the patches at random places of the model's sample size.
        session: what is around it.

    Raises:
        Stopped: by the session.
    """
    transformer.train()

    def losses(step: int) -> tuple[Tensor, dict[str, Tensor]]:
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
        return loss, {"flow": loss}

    curve = descend(parameters, losses, learning_rate=config.learning_rate, steps=config.steps, session=session)
    transformer.eval().requires_grad_(False)
    return curve


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
