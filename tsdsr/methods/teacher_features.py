"""The term `teacher_features`: a perceptual distance of z_hat and z in the frozen teacher's own features.

Both latents are noised a little, with the same noise, and go through the teacher with the photograph's caption; the
features after each of its blocks are compared (`feature_distance`). No decoder takes part. The window of latents is
moved by nought or one along each axis, so that what lies between two of the student's patches is inside of one here:
aligned patches would not see a step from one to the next.

Legend: B batch, C h w latent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsdsr import seeding
from tsdsr.flow import add_noise, gaussian_like
from tsdsr.losses.features import feature_distance
from tsdsr.methods.base import MethodInputs
from tsdsr.methods.score_distillation import teacher_names
from tsdsr.methods.student import StudentOutput
from tsdsr.models import adapters
from tsdsr.models.velocity import block_features


class TeacherFeatures:
    """A term over a teacher's networks; `config.teacher_features.t` is the noise's linear time."""

    def __init__(self, inputs: MethodInputs) -> None:
        self.inputs = inputs

    def __call__(self, output: StudentOutput) -> Tensor:
        """(B,); the gradient reaches z_hat alone."""
        inputs, batch, config = self.inputs, output.batch, self.inputs.config
        draws = [seeding.generator(inputs.seed, "features", position) for position in batch.positions]
        noise = gaussian_like(output.z, draws)
        step = batch.positions[0] // config.batch_size  # one window a batch, whichever worker has the sample
        moved = torch.randint(2, (2,), generator=seeding.generator(inputs.seed, "window", step)).tolist()
        z_hat, z, noise = (_window(x, *moved) for x in (output.z_hat, output.z, noise))
        sigma = inputs.schedule.sigma(torch.full((len(z),), config.teacher_features.t, device=z.device))
        given = inputs.schedule.timestep(sigma), batch.embeds, batch.pooled
        with adapters.active(inputs.transformer, *teacher_names(inputs.transformer)):
            found = block_features(inputs.transformer, add_noise(z_hat, noise, sigma), *given)
            with torch.no_grad():
                wanted = block_features(inputs.transformer, add_noise(z, noise, sigma), *given)
        return feature_distance(found, wanted)


def _window(x: Tensor, down: int, right: int) -> Tensor:
    """[B,C,h,w] without its first and last row, and column, where it is moved by one."""
    rows = slice(1, -1) if down else slice(None)
    return x[..., rows, slice(1, -1) if right else slice(None)]
