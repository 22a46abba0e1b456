"""TAD-SR: a one-step student of a multi-step restoring teacher, with a time-aware discriminator.

Order of a step: the discriminator's update on the photograph's latent against stopgrad(z_hat), with one noise and time;
then the student's, by regression to the teacher's output z_tea, HFSD at low noise, and minus the mean logit of the
updated discriminator at the same noise and time. The two turns share no forward, so the student's is run twice a step,
once of them without gradient.

z_tea and the low-quality latent z_L that its teacher is told are read from the latent cache (the stage precompute).

Legend: B batch, H W pixels, C h w latent.

Source: TAD-SR, arXiv 2408.07476, and its released code; departures are listed in docs/tadsr.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call

from tsdsr import seeding
from tsdsr.config.methods.tadsr import TADSRConfig
from tsdsr.data.dataset import Batch, DistillationData
from tsdsr.device import send
from tsdsr.errors import UserError
from tsdsr.flow import add_noise, uniform
from tsdsr.losses.adversarial import discriminator_hinge, generator_hinge
from tsdsr.losses.hfsd import hfsd_loss
from tsdsr.losses.reconstruction import latent_mse
from tsdsr.methods.base import Group, MethodInputs, Moment, Turn, TurnOutput
from tsdsr.methods.student import LoRADistillation, StudentOutput, Term
from tsdsr.models.discriminator import LatentDiscriminator, feature_blocks
from tsdsr.models.restoring import RestoringTeacher
from tsdsr.models.student import Student, upsample

Targets = Callable[[Batch], tuple[Tensor, Tensor]]
"""-> z_tea and z_L, both [B,C,h,w] on the batch's device."""


class Adversary:
    """The discriminator on the restoring teacher's features, as both turns see it.

    Args:
        heads: what is trained of it; the trainer wraps it for the discriminator's own turn.
    """

    def __init__(self, inputs: MethodInputs, heads: LatentDiscriminator) -> None:
        self.inputs, self.heads = inputs, heads

    def noise(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The batch's noise like z and its noise levels (B,): the same in both turns of a step."""
        inputs = self.inputs
        generators = [seeding.generator(inputs.seed, "discriminator", position) for position in batch.positions]
        sigma = inputs.schedule.sigma(uniform(generators, inputs.config.discriminator.t_range, batch.z.device))
        return inputs.noise_like(batch.z, generators), sigma

    def features(self, z: Tensor, noise: Tensor, sigma: Tensor, z_lq: Tensor) -> tuple[list[Tensor], Tensor]:
        """The teacher's levels on noised latents, and their time."""
        timestep = self.inputs.schedule.timestep(sigma)
        return _restorer(self.inputs).features(add_noise(z, noise, sigma), timestep, z_lq), timestep

    def judge(self, z_hat: Tensor, batch: Batch, z_lq: Tensor) -> Tensor:
        """Logits (B, N) of z_hat, differentiable in it alone; neither parameters nor the norms' estimates change."""
        levels, timestep = self.features(z_hat, *self.noise(batch), z_lq)
        fixed = {name: parameter.detach() for name, parameter in self.heads.named_parameters()}
        self.heads.eval()
        logits: Tensor = functional_call(self.heads, fixed, (levels, timestep))
        self.heads.train()
        return logits


class DiscriminatorTurn(Turn):
    """The hinge loss on photographs' latents against the student's; teacher and student receive no gradient."""

    name = "discriminator"

    def __init__(
        self, inputs: MethodInputs, student: Student, adversary: Adversary, targets: Targets, groups: Sequence[Group]
    ) -> None:
        self.inputs, self.student, self.adversary, self.targets = inputs, student, adversary, targets
        self.groups, self.network = groups, adversary.heads

    def run(self, batch: Batch, moment: Moment) -> TurnOutput:
        with torch.no_grad():
            z_hat = self.student(upsample(batch.lq, self.inputs.scale), self.inputs.default)
            _, z_lq = self.targets(batch)
            noise, sigma = (torch.cat([part, part]) for part in self.adversary.noise(batch))
            levels, timestep = self.adversary.features(torch.cat([batch.z, z_hat]), noise, sigma, z_lq)
        real, fake = self.network(levels, timestep).chunk(2)
        loss = discriminator_hinge(real, fake).mean()
        (moment.share * loss).backward()
        statistics = {"logit_real": real.detach().mean(), "logit_fake": fake.detach().mean()}
        return TurnOutput({"discriminator": loss.detach()}, statistics=statistics)


class TADSR(LoRADistillation):
    """Attributes:
    adversary: the discriminator.
    """

    title = "TAD-SR"
    statistics = ("hfsd_norm",)
    restores = True

    def __init__(self, inputs: MethodInputs) -> None:
        super().__init__(inputs)
        self._targets: Targets = lambda batch: (batch.z, batch.z)  # of the right size, until `prepare` has found them
        self.adversary = Adversary(inputs, self._heads())
        student = self.student_turn(self.terms())
        judged = any(phase.losses.get("gan") for phase in inputs.config.phases.values())
        self.turns = (self._discriminator_turn(), student) if judged else (student,)

    def _heads(self) -> LatentDiscriminator:
        shape = self.inputs.transformer.config
        return LatentDiscriminator(
            len(feature_blocks(self.inputs.transformer)),
            shape.num_attention_heads * shape.attention_head_dim,
            self.inputs.config.discriminator.outputs,
            seed=self.inputs.adapter_seed,
        ).to(self.inputs.transformer.device)

    def _discriminator_turn(self) -> DiscriminatorTurn:
        config: TADSRConfig = self.inputs.config
        heads, lr = self.adversary.heads, config.optimizer.discriminator_lr
        parameters, buffers = dict(heads.named_parameters()), dict(heads.named_buffers())
        group = self.inputs.group("discriminator", parameters, lr, buffers=buffers)
        group = replace(group, schedule=group.schedule.model_copy(update={"warmup_steps": 0}))  # the student's alone
        return DiscriminatorTurn(self.inputs, self.student, self.adversary, self.targets, [group])

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._targets(batch)

    def terms(self) -> Mapping[str, Term]:
        """The method's own, by name."""
        return {
            "regression": lambda output: latent_mse(output.z_hat, self.targets(output.batch)[0]),
            "hfsd": self._hfsd_term,
            "gan": self._gan_term,
        }

    def _hfsd_term(self, output: StudentOutput) -> Tensor:
        inputs, config, batch = self.inputs, self.inputs.config.hfsd, output.batch
        z_tea, z_lq = self.targets(batch)
        generators = [seeding.generator(inputs.seed, "hfsd", position) for position in batch.positions]
        loss = hfsd_loss(
            output.z_hat,
            z_tea,
            t=uniform(generators, config.t_range, z_tea.device),
            noise=inputs.noise_like(z_tea, generators),
            teacher=lambda z_t, timestep: _restorer(inputs)(z_t, timestep, z_lq),
            schedule=inputs.schedule,
            residual=config.residual,
        )
        output.note(loss.sigma, {"hfsd_norm": loss.direction.flatten(1).pow(2).mean(1).sqrt()})
        return loss.per_sample

    def _gan_term(self, output: StudentOutput) -> Tensor:
        _, z_lq = self.targets(output.batch)
        return generator_hinge(self.adversary.judge(output.z_hat, output.batch, z_lq))

    def prepare(self, data: DistillationData, directory: Path) -> None:
        if not data.cache.restores:
            raise UserError(
                f"{data.cache.directory}: holds no outputs of a restoring teacher. Set teacher.restorer.enabled: true, "
                "as params/tadsr.yaml does, and run `dvc repro precompute`"
            )

        def read(batch: Batch) -> tuple[Tensor, Tensor]:
            z_tea, z_lq = (send(part, batch.z.device) for part in data.restored(batch.names))
            return z_tea, z_lq

        self._targets = read


def _restorer(inputs: MethodInputs) -> RestoringTeacher:
    assert inputs.restorer is not None, "a method that `restores` is given its teacher"
    return inputs.restorer
