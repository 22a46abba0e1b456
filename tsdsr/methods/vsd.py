"""VSD as in OSEDiff: the difference of the teacher's and the fake score at one point, noised z_hat.

Source: OSEDiff, arXiv 2406.08177, Eq. (7); the normalisation by the teacher's clean estimate is DMD's,
arXiv 2311.18828, Eq. (8), as in OSEDiff's released code.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tsdsr import seeding
from tsdsr.flow import add_noise, expand, uniform
from tsdsr.losses import score_surrogate
from tsdsr.methods.score_distillation import ScoreDistillation, fake_velocity, teacher_velocity
from tsdsr.methods.student import StudentOutput, Term


class VSD(ScoreDistillation):
    title = "VSD (OSEDiff)"
    score = "vsd"
    statistics = ("vsd_norm",)

    def terms(self) -> Mapping[str, Term]:
        return {"vsd": self._vsd_term}

    def _vsd_term(self, output: StudentOutput) -> Tensor:
        batch, z_hat, inputs = output.batch, output.z_hat.detach(), self.inputs
        with torch.no_grad():
            generators = [seeding.generator(inputs.seed, "vsd", position) for position in batch.positions]
            sigma = inputs.schedule.sigma(uniform(generators, inputs.config.vsd.t_range, z_hat.device))
            z_t = add_noise(z_hat, inputs.noise_like(z_hat, generators), sigma)
            timestep = inputs.schedule.timestep(sigma)
            psi = teacher_velocity(inputs, batch.embeds, batch.pooled)(z_t, timestep)
            phi = fake_velocity(inputs, batch.embeds, batch.pooled)(z_t, timestep)
            clean = z_t - expand(sigma, z_t) * psi  # the teacher's
            size = (z_hat - clean).abs().flatten(1).mean(1)
            direction = expand(sigma / size, z_t) * (psi - phi)  # of clean estimates: z_phi - z_psi
        output.note(sigma, {"vsd_norm": (psi - phi).flatten(1).pow(2).mean(1).sqrt()})
        return score_surrogate(output.z_hat, direction)
