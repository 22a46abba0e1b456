"""Refining an autoencoder's decoder against a patch discriminator; the encoder, and so every latent, stays.

A step has two turns: the decoder's, on reconstruction, texture and the discriminator's opinion, then the
discriminator's, on the same pictures. The terms' weights are in units of the reconstruction's gradient norm at the
decoded picture, so that they say what share each has (the adaptive weight of Esser et al., arXiv 2012.09841).

Legend: B batch, H W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tsdsr import seeding
from tsdsr.config import AdamWConfig, ScheduleConfig, TeacherDecoderConfig
from tsdsr.losses.adversarial import discriminator_hinge, generator_hinge
from tsdsr.losses.texture import texture_loss
from tsdsr.methods.base import Group, Method, Moment, Turn, TurnOutput
from tsdsr.methods.teacher import CropBatch, reconstruction_loss
from tsdsr.models.patch_discriminator import PatchDiscriminator

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

ADAMW = AdamWConfig(weight_decay=0.0, betas=(0.5, 0.99), clip_norm=1.0)
WARMUP_STEPS = 50
RAMP_STEPS = 150  # in which the discriminator's share grows to its weight, since it starts ignorant


class DecoderTurn(Turn):
    """The decoder's update; `vae`'s encoder is frozen."""

    name = "decoder"

    def __init__(self, vae: AutoencoderKL, discriminator: PatchDiscriminator, config: TeacherDecoderConfig) -> None:
        self.network, self.discriminator, self.config = vae, discriminator, config
        schedule = ScheduleConfig(name="cosine_with_restarts", warmup_steps=min(WARMUP_STEPS, config.steps), cycles=1)
        parameters = dict(vae.decoder.named_parameters())
        self.groups = [Group(self.name, parameters, config.learning_rate, ADAMW, schedule)]

    def run(self, batch: CropBatch, moment: Moment) -> TurnOutput:
        crops = batch.crops
        with torch.no_grad():
            posterior = self.network.encode(crops).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=batch.generator).to(crops.device)
            z = posterior.mean + posterior.std * noise
        restored = self.network.decode(z).sample
        leaf = restored.detach().requires_grad_()
        terms = {
            "decoder_reconstruction": reconstruction_loss(leaf, crops),
            "decoder_texture": texture_loss(leaf, crops).mean(),
            "decoder_adversarial": generator_hinge(self.discriminator.eval()(leaf)).mean(),
        }
        gradient, texture, adversarial = (torch.autograd.grad(term, leaf)[0] for term in terms.values())
        ramp = min(1.0, (moment.step + 1) / RAMP_STEPS)
        unit = gradient.norm()
        gradient = gradient + self.config.texture_weight * _scaled(texture, unit)
        gradient = gradient + ramp * self.config.adversarial_weight * _scaled(adversarial, unit)
        restored.backward(moment.share * gradient)
        return TurnOutput({name: term.detach() for name, term in terms.items()}, {"restored": restored.detach()})


class PatchDiscriminatorTurn(Turn):
    """The discriminator's update, on the crops and what the decoder made of them."""

    name = "discriminator"

    def __init__(self, discriminator: PatchDiscriminator, config: TeacherDecoderConfig) -> None:
        self.network = discriminator
        schedule = ScheduleConfig(name="constant", warmup_steps=0, cycles=1)
        parameters, buffers = dict(discriminator.named_parameters()), dict(discriminator.named_buffers())
        rate = config.discriminator_learning_rate
        self.groups = [Group(self.name, parameters, rate, ADAMW, schedule, buffers=buffers)]

    def run(self, batch: CropBatch, moment: Moment) -> TurnOutput:
        self.network.train()
        loss = discriminator_hinge(self.network(batch.crops), self.network(moment.carried["restored"])).mean()
        (moment.share * loss).backward()
        return TurnOutput({"discriminator": loss.detach()})


class DecoderTraining(Method):
    """Refine a decoder on random crops.

    Args:
        vae: on the device, its decoder alone trainable.
        seed: of the discriminator's start.
    """

    def __init__(self, vae: AutoencoderKL, config: TeacherDecoderConfig, *, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeding.derive(seed, "teacher", "discriminator"))
            discriminator = PatchDiscriminator().to(vae.device)
        self.turns = (DecoderTurn(vae, discriminator, config), PatchDiscriminatorTurn(discriminator, config))


def _scaled(gradient: Tensor, norm: Tensor) -> Tensor:
    return gradient * (norm / gradient.norm().clamp_min(1e-12))
