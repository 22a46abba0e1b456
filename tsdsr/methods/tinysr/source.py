"""The common part of all runs of a compression: the source's output as a target, and its terms.

Legend: B batch, H W pixels, C h w latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsdsr import files
from tsdsr.data.dataset import Batch
from tsdsr.errors import UserError
from tsdsr.losses.reconstruction import latent_l1, latent_mse
from tsdsr.methods.base import MethodInputs
from tsdsr.methods.student import Term
from tsdsr.models import adapters
from tsdsr.models.student import Student, upsample

SOURCE = "z_source"  # key of `carried`, for the terms
TERMS: dict[str, Term] = {
    "source_l1": lambda output: latent_l1(output.z_hat, output.moment.carried[SOURCE]),
    "source_mse": lambda output: latent_mse(output.z_hat, output.moment.carried[SOURCE]),
    "pixel_l1": lambda output: (output.x_hat.float() - output.hq).abs().flatten(1).mean(1),
}


class Source:
    """The student that is compressed, frozen."""

    def __init__(self, inputs: MethodInputs) -> None:
        inputs.vae.requires_grad_(False)
        inputs.transformer.requires_grad_(False)
        self.inputs = inputs
        self.student = Student(
            inputs.vae, inputs.transformer, use_shift=inputs.use_shift, vae_slice=inputs.config.vae_slice
        )
        self.pattern_period = self.student.codec.factor * int(inputs.transformer.config.patch_size)

    @torch.no_grad()
    def encoded(self, batch: Batch) -> Tensor:
        """The latent of the upsampled LQ image, [B,C,h,w]."""
        return self.student.codec.encode(upsample(batch.lq, self.inputs.scale))

    @torch.no_grad()
    def restored(self, batch: Batch) -> Tensor:
        """z_tea, [B,C,h,w]: the whole network's output, without the adapters that a search adds."""
        with adapters.active(self.inputs.transformer):
            return self.student.predict(self.encoded(batch), self.inputs.default)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Batch:
        """The batch with the source's results in the place of the photographs, `z` and `hq`."""
        z = self.restored(batch)
        return replace(batch, z=z, hq=self.student.decode(z).float().clamp(-1, 1))


def load_network(network: Any, directory: Path) -> None:
    """Load the weights that `write_network` wrote for a network of the same shape.

    Raises:
        UserError: weights are missing or do not fit.
    """
    try:
        trained = type(network).from_pretrained(directory)
        network.load_state_dict(trained.state_dict())
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"distill.start: {directory} has no weights of this network ({reason})") from None


def write_network(network: Any, directory: Path, record: Mapping[str, Any]) -> None:
    """Write a trained network in diffusers' format and the run's settings, completely or not at all."""
    with files.atomic_directory(directory) as aside:
        network.save_pretrained(aside)
        files.write_json(aside / "run.json", dict(record))
