"""A discriminator of noised latents, judged on a frozen network's features, and the turn that trains it.

TAD-SR and TinySR's restoration use it. Each sample has one noise and time for both turns of a step.

Legend: B batch, C h w latent, N logits.

Source: the hinge losses and heads are those of `tsdsr.losses.adversarial` and `tsdsr.models.discriminator`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call

from tsdsr import seeding
from tsdsr.config.methods.tadsr import DiscriminatorConfig
from tsdsr.data.dataset import Batch
from tsdsr.flow import add_noise, uniform
from tsdsr.losses.adversarial import discriminator_hinge, generator_hinge
from tsdsr.methods.base import Group, MethodInputs, Moment, Turn, TurnOutput
from tsdsr.methods.student import StudentOutput
from tsdsr.models.discriminator import LatentDiscriminator, feature_blocks

Levels = Callable[[Tensor, Tensor, Batch], list[Tensor]]
"""(z_t [nB,C,h,w], timestep [nB] = 1000 sigma, the batch of B samples) -> the frozen network's features."""
Fake = Callable[[Batch, Moment], Tensor]
"""-> the student's latents [B,C,h,w]; called without gradient."""


class Critic:
    """The discriminator.

    Attributes:
        heads: its trained part; the trainer wraps it for the discriminator's own turn.
    """

    def __init__(self, inputs: MethodInputs, config: DiscriminatorConfig, levels: Levels) -> None:
        shape = inputs.transformer.config
        self.inputs, self.config, self._levels = inputs, config, levels
        self.heads = LatentDiscriminator(
            len(feature_blocks(inputs.transformer)),
            shape.num_attention_heads * shape.attention_head_dim,
            config.outputs,
            seed=inputs.adapter_seed,
        ).to(inputs.transformer.device)

    def group(self, lr: float) -> Group:
        parameters, buffers = dict(self.heads.named_parameters()), dict(self.heads.named_buffers())
        return self.inputs.group("discriminator", parameters, lr, buffers=buffers)

    def features(self, z: Tensor, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """The levels of z [nB,C,h,w], n blocks of the batch's samples, after noising, and their time [nB]."""
        inputs, blocks = self.inputs, len(z) // len(batch.z)
        generators = [seeding.generator(inputs.seed, "discriminator", position) for position in batch.positions]
        sigma = inputs.schedule.sigma(uniform(generators, self.config.t_range, z.device)).repeat(blocks)
        noise = inputs.noise_like(batch.z, generators).repeat(blocks, 1, 1, 1)
        timestep = inputs.schedule.timestep(sigma)
        wide = torch.promote_types(z.dtype, torch.float32)
        return self._levels(add_noise(z.to(wide), noise, sigma), timestep, batch), timestep

    def gan(self, output: StudentOutput) -> Tensor:
        """The student's term (B,), differentiable in z_hat alone; neither parameters nor the norms' estimates
        change."""
        fixed = {name: parameter.detach() for name, parameter in self.heads.named_parameters()}
        self.heads.eval()
        logits = functional_call(self.heads, fixed, self.features(output.z_hat, output.batch))
        self.heads.train()
        return generator_hinge(logits)


class CriticTurn(Turn):
    """The hinge loss on photographs' latents against the student's; the student receives no gradient.

    Args:
        group: of `critic.group`.
    """

    name = "discriminator"

    def __init__(self, critic: Critic, group: Group, fake: Fake) -> None:
        self.critic, self.groups, self.fake, self.network = critic, [group], fake, critic.heads

    def run(self, batch: Batch, moment: Moment) -> TurnOutput:
        with torch.no_grad():
            levels, timestep = self.critic.features(torch.cat([batch.z, self.fake(batch, moment)]), batch)
        real, fake = self.network(levels, timestep).chunk(2)
        loss = discriminator_hinge(real, fake).mean()
        (moment.share * loss).backward()
        statistics = {"logit_real": real.detach().mean(), "logit_fake": fake.detach().mean()}
        return TurnOutput({"discriminator": loss.detach()}, statistics=statistics)
