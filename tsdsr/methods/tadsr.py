"""TAD-SR: a one-step student of a multi-step restoring teacher, with a time-aware discriminator.

Order of a step: the discriminator's update on the photograph's latent against stopgrad(z_hat), with one noise and time;
then the student's, by regression to the teacher's output z_tea, HFSD at low noise, and minus the mean logit of the
updated discriminator at the same noise and time. The two turns share no forward, so the student's is run twice a step,
once of them without gradient.

z_tea and the low-quality latent z_L that conditions its teacher are read from the latent cache (the stage precompute).

Legend: B batch, H W pixels, C h w latent.

Source: TAD-SR, arXiv 2408.07476, and its released code; departures are listed in docs/tadsr.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from tsdsr import seeding
from tsdsr.config.methods.tadsr import TADSRConfig
from tsdsr.data.dataset import Batch, DistillationData
from tsdsr.device import send
from tsdsr.errors import UserError
from tsdsr.flow import uniform
from tsdsr.losses.hfsd import hfsd_loss
from tsdsr.losses.reconstruction import latent_mse
from tsdsr.methods.base import MethodInputs, Moment
from tsdsr.methods.critic import Critic, CriticTurn
from tsdsr.methods.student import LoRADistillation, StudentOutput, Term
from tsdsr.models.restoring import RestoringTeacher
from tsdsr.models.student import upsample

Targets = Callable[[Batch], tuple[Tensor, Tensor]]
"""-> z_tea and z_L, both [B,C,h,w] on the batch's device."""


class TADSR(LoRADistillation):
    title = "TAD-SR"
    statistics = ("hfsd_norm",)
    restores = True

    def __init__(self, inputs: MethodInputs) -> None:
        super().__init__(inputs)
        self._targets: Targets = lambda batch: (batch.z, batch.z)  # of the right size, until `prepare` has found them
        config: TADSRConfig = inputs.config
        self.critic = Critic(inputs, config.discriminator, self._levels)
        student = self.student_turn(self.terms())
        group = self.critic.group(config.optimizer.discriminator_lr)
        group = replace(group, schedule=group.schedule.model_copy(update={"warmup_steps": 0}))  # the student's alone
        discriminator = CriticTurn(self.critic, group, self._restored)
        self.turns = (discriminator, student) if inputs.uses("gan") else (student,)

    def _levels(self, z_t: Tensor, timestep: Tensor, batch: Batch) -> list[Tensor]:
        return _restorer(self.inputs).features(z_t, timestep, self.targets(batch)[1])

    def _restored(self, batch: Batch, moment: Moment) -> Tensor:
        return self.student(upsample(batch.lq, self.inputs.scale), self.inputs.default)

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._targets(batch)

    def terms(self) -> Mapping[str, Term]:
        """The method's own, by name."""
        return {
            "regression": lambda output: latent_mse(output.z_hat, self.targets(output.batch)[0]),
            "hfsd": self._hfsd_term,
            "gan": self.critic.gan,
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
