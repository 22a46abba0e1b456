"""The term `teacher_features`: a perceptual distance of z_hat and z in the frozen teacher's own features.

Both latents get a little of the same noise and are inputs of the teacher with the photograph's caption; the features
after each of its blocks are compared (`feature_distance`). No decoder is needed. The window of latents is shifted by 0
or 1 along each axis, so that the border between two of the student's patches is inside of a patch here: aligned patches
would not show a step between patches.

Legend: B batch, C h w latent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsdsr import seeding
from tsdsr.flow import add_noise
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
        noise = inputs.noise_like(output.z, draws)
        step = batch.positions[0] // config.batch_size  # one window per batch, independent of the worker
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
    """[B,C,h,w] without its first and last row or column along each axis with a shift."""
    rows = slice(1, -1) if down else slice(None)
    return x[..., rows, slice(1, -1) if right else slice(None)]
