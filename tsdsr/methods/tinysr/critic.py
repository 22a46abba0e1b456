"""The discriminator of restoration: noised latents, judged on the source's own features.

Legend: B batch, C h w latent, N logits.

Source: the hinge losses and heads are those of `tsdsr.losses.adversarial` and `tsdsr.models.discriminator`; TinySR's
own discriminator works on images and is not used (docs/compression.md).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from tsdsr import seeding
from tsdsr.config import TinySRRestoreConfig
from tsdsr.data.dataset import Batch
from tsdsr.flow import add_noise, uniform
from tsdsr.losses.adversarial import discriminator_hinge, generator_hinge
from tsdsr.methods.base import MethodInputs, Moment, Turn, TurnOutput
from tsdsr.methods.student import StudentOutput
from tsdsr.models.discriminator import LatentDiscriminator, feature_blocks, features


class CriticTurn(Turn):
    """The hinge loss on photographs' latents against those that the student's turn carried."""

    name = "discriminator"

    def __init__(self, inputs: MethodInputs) -> None:
        shape, self.inputs = inputs.transformer.config, inputs
        width = shape.num_attention_heads * shape.attention_head_dim
        self.config: TinySRRestoreConfig = inputs.config
        levels, outputs = len(feature_blocks(inputs.transformer)), self.config.critic.outputs
        heads = LatentDiscriminator(levels, width, outputs, seed=inputs.adapter_seed).to(inputs.transformer.device)
        self.network = self.heads = heads
        parameters, buffers = dict(heads.named_parameters()), dict(heads.named_buffers())
        lr = self.config.optimizer.discriminator_lr
        self.groups = [inputs.group("discriminator", parameters, lr, buffers=buffers)]

    def run(self, batch: Batch, moment: Moment) -> TurnOutput:
        with torch.no_grad():
            levels, timestep = self._features(torch.cat([batch.z, moment.carried["z_hat"]]), batch, copies=2)
        real, fake = self.network(levels, timestep).chunk(2)
        loss = discriminator_hinge(real, fake).mean()
        (moment.share * loss).backward()
        statistics = {"logit_real": real.detach().mean(), "logit_fake": fake.detach().mean()}
        return TurnOutput({"discriminator": loss.detach()}, statistics=statistics)

    def gan(self, output: StudentOutput) -> Tensor:
        """The generator's term (B,), differentiable in z_hat alone; the heads' running estimates do not change."""
        levels, timestep = self._features(output.z_hat, output.batch, copies=1)
        fixed = {name: parameter.detach() for name, parameter in self.heads.named_parameters()}
        self.heads.eval()
        logits = functional_call(self.heads, fixed, (levels, timestep))
        self.heads.train()
        return generator_hinge(logits)

    def _features(self, z: Tensor, batch: Batch, *, copies: int) -> tuple[list[Tensor], Tensor]:
        """The source's levels on noised latents, and their time; each sample has its own, the same for every copy."""
        inputs = self.inputs
        generators = [seeding.generator(inputs.seed, "discriminator", position) for position in batch.positions]
        sigma = inputs.schedule.sigma(uniform(generators, self.config.critic.t_range, z.device)).repeat(copies)
        noise = inputs.noise_like(batch.z, generators).repeat(copies, 1, 1, 1)
        embeds, pooled = batch.embeds.repeat(copies, 1, 1), batch.pooled.repeat(copies, 1)
        timestep = inputs.schedule.timestep(sigma)
        return features(inputs.transformer, add_noise(z.float(), noise, sigma), timestep, embeds, pooled), timestep


def judged(inputs: MethodInputs) -> bool:
    """Whether a phase weighs the discriminator's term."""
    return any(phase.losses.get("gan") for phase in inputs.config.phases.values())
