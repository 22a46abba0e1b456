"""Training a decoder against a patch discriminator; the encoder, and so every latent, is unchanged.

A step has two turns: the decoder's, on reconstruction, texture and the discriminator's output, then the
discriminator's, on the same pictures. The terms' weights are in units of the reconstruction's gradient norm at the
decoded picture, so that they say what share each has (the adaptive weight of Esser et al., arXiv 2012.09841).

The latents are an autoencoder's own (`DecoderTraining`, of a teacher) or a student's (`TSDSRDecoder`).

Legend: B batch, H W pixels, C h w latent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tsdsr import seeding
from tsdsr.config import AdamWConfig, DecoderTermsConfig, ScheduleConfig, TeacherDecoderConfig
from tsdsr.device import send
from tsdsr.losses.adversarial import discriminator_hinge, generator_hinge
from tsdsr.losses.pattern import pattern_loss
from tsdsr.losses.texture import texture_loss
from tsdsr.methods.base import Group, Method, Moment, Turn, TurnOutput
from tsdsr.methods.teacher import CropBatch, reconstruction_loss
from tsdsr.models.patch_discriminator import PatchDiscriminator

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

Shift = Callable[[Tensor, int], Tensor]
"""Pictures and the step -> a crop of them, at a place of the step's own."""
SHIFT = 16  # pixels: the longest period of the texture's windows and of the discriminator's strides

ADAMW = AdamWConfig(weight_decay=0.0, betas=(0.5, 0.99), clip_norm=1.0)
WARMUP_STEPS = 50
RAMP_STEPS = 150  # in which the discriminator's share grows to its weight, since it is untrained at first


class DecoderNetwork(nn.Module):
    """(B, C, h, w) latents -> (B, 3, H, W), through a VAE's decoder alone.

    Args:
        decode: the function that calls it.
    """

    def __init__(self, vae: AutoencoderKL, decode: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.decoder, self._decode = vae.decoder, decode

    def forward(self, z: Tensor) -> Tensor:
        return self._decode(z)


class DecoderTurn(Turn):
    """The decoder's update.

    Args:
        latents: the batch and the moment -> latents, without gradient, and the images (B, 3, H, W) to make of them.
        shift: of the pictures that the texture terms and the discriminator see.
    """

    name = "decoder"

    def __init__(
        self,
        network: DecoderNetwork,
        discriminator: PatchDiscriminator,
        config: DecoderTermsConfig,
        groups: Sequence[Group],
        latents: Callable[[Any, Moment], tuple[Tensor, Tensor]],
        shift: Shift,
    ) -> None:
        self.network, self.discriminator, self.config = network, discriminator, config
        self.groups, self.latents, self.shift = groups, latents, shift

    def run(self, batch: Any, moment: Moment) -> TurnOutput:
        z, images = self.latents(batch, moment)
        restored = self.network(z)
        leaf = restored.detach().requires_grad_()
        shifted, wanted = (self.shift(pictures, moment.step) for pictures in (leaf, images))
        terms = {
            "decoder_reconstruction": reconstruction_loss(leaf, images),
            "decoder_texture": texture_loss(shifted, wanted).mean(),
            "decoder_adversarial": generator_hinge(self.discriminator.eval()(shifted)).mean(),
        }
        weights = [self.config.texture_weight, self._ramp(moment) * self.config.adversarial_weight]
        if self.config.pattern_weight:
            terms["decoder_pattern"] = pattern_loss(leaf, images).mean()
            weights.append(self.config.pattern_weight)
        gradient, *others = (torch.autograd.grad(term, leaf)[0] for term in terms.values())
        unit = gradient.norm()
        for weight, other in zip(weights, others, strict=True):
            gradient = gradient + weight * _scaled(other, unit)
        restored.backward(moment.share * gradient)
        pictures = {"images": images, "restored": restored.detach()}
        return TurnOutput({name: term.detach() for name, term in terms.items()}, pictures)

    @staticmethod
    def _ramp(moment: Moment) -> float:
        return min(1.0, (moment.step + 1) / RAMP_STEPS)


class PatchDiscriminatorTurn(Turn):
    """The discriminator's update, on the images and what the decoder made of them."""

    name = "discriminator"

    def __init__(self, discriminator: PatchDiscriminator, learning_rate: float, shift: Shift) -> None:
        self.network, self.shift = discriminator, shift
        schedule = ScheduleConfig(name="constant", warmup_steps=0, cycles=1)
        parameters, buffers = dict(discriminator.named_parameters()), dict(discriminator.named_buffers())
        self.groups = [Group(self.name, parameters, learning_rate, ADAMW, schedule, buffers=buffers)]

    def run(self, batch: Any, moment: Moment) -> TurnOutput:
        self.network.train()
        pictures = (self.shift(moment.carried[name], moment.step) for name in ("images", "restored"))
        real, restored = (self.network(picture) for picture in pictures)
        loss = discriminator_hinge(real, restored).mean()
        (moment.share * loss).backward()
        return TurnOutput({"discriminator": loss.detach()})


class DecoderTraining(Method):
    """Refine a decoder on random crops.

    Args:
        vae: on the device, its decoder alone trainable.
        seed: of the discriminator's start.
    """

    def __init__(self, vae: AutoencoderKL, config: TeacherDecoderConfig, *, seed: int) -> None:
        self.vae, discriminator = vae, patch_discriminator(seeding.derive(seed, "teacher", "discriminator"), vae.device)
        network = DecoderNetwork(vae, lambda z: vae.decode(z).sample)
        schedule = ScheduleConfig(name="cosine_with_restarts", warmup_steps=min(WARMUP_STEPS, config.steps), cycles=1)
        group = Group("decoder", dict(vae.decoder.named_parameters()), config.learning_rate, ADAMW, schedule)
        shift = random_shift(seeding.derive(seed, "teacher", "decoder shift"))
        self.turns = (
            DecoderTurn(network, discriminator, config, [group], self._latents, shift),
            PatchDiscriminatorTurn(discriminator, config.discriminator_learning_rate, shift),
        )

    @torch.no_grad()
    def _latents(self, batch: CropBatch, moment: Moment) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(batch.crops).latent_dist
        noise = send(torch.randn(posterior.mean.shape, generator=batch.generator), batch.crops.device)
        return posterior.mean + posterior.std * noise, batch.crops


def random_shift(seed: int) -> Shift:
    """Crops whose corner (seed, step) draws, up to `SHIFT` - 1 pixels off on each axis.

    The texture's windows begin every 8 pixels and the discriminator's strides are 8 pixels: at one place in every step,
    both would weigh the pixels of each latent differently, and the decoder would generate a grid of that pitch.
    """

    def shift(pictures: Tensor, step: int) -> Tensor:
        generator = seeding.generator(seed, "shift", step)
        down, across = torch.randint(SHIFT, (2,), generator=generator).tolist()
        height, width = (side - SHIFT + 1 for side in pictures.shape[-2:])
        return pictures[..., down : down + height, across : across + width]

    return shift


def patch_discriminator(seed: int, device: torch.device) -> PatchDiscriminator:
    """A new one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PatchDiscriminator().to(device)


def _scaled(gradient: Tensor, norm: Tensor) -> Tensor:
    return gradient * (norm / gradient.norm().clamp_min(1e-12))
