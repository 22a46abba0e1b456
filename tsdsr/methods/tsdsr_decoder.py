"""TSD-SR with a decoder of the student's own.

The paper's decoder is frozen: it has only seen the latents of photographs, and decodes a student's smooth latents to a
smooth image. Here two turns follow TSD-SR's: the decoder is trained on the photographs from stopgrad(z_hat), with a
patch discriminator, as TinySR trains its compact decoder. Noise in its input (`decoder.noise`, see `tsdsr.grain`) is a
source of fine detail. The student's own turn stays as it is. The exported decoder is w + a (w - w_teacher) with
a = `decoder.extrapolation`, which strengthens its texture: network interpolation (ESRGAN, arXiv 1809.00219, Sec. 3.4),
continued beyond the trained weights.

Source: TSD-SR, arXiv 2411.18263; a decoder that is trained after the distillation: TinySR, arXiv 2508.17434, Sec. 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsdsr import seeding
from tsdsr.config import TSDSRDecoderConfig
from tsdsr.data.dataset import Batch
from tsdsr.methods.base import Group, MethodInputs, Moment
from tsdsr.methods.decoder import (
    ADAMW,
    DecoderNetwork,
    DecoderTurn,
    PatchDiscriminatorTurn,
    patch_discriminator,
    random_shift,
)
from tsdsr.methods.tsdsr import TSDSR


class TSDSRDecoder(TSDSR):
    title = "TSD-SR, own decoder"
    own_decoder = True

    def __init__(self, inputs: MethodInputs) -> None:
        super().__init__(inputs)
        config: TSDSRDecoderConfig = inputs.config
        vae = inputs.vae
        discriminator = patch_discriminator(seeding.derive(inputs.adapter_seed, "patch discriminator"), vae.device)
        parameters = dict(vae.decoder.named_parameters())
        self._teacher = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        rate, schedule = config.decoder.learning_rate, config.lr_schedule
        group = Group("decoder", parameters, rate, ADAMW, schedule, averaged=True)
        self.student.decoder_noise = config.decoder.noise
        network = DecoderNetwork(vae, self.student.codec.decode)
        shift = random_shift(seeding.derive(inputs.seed, "decoder shift"))
        self.turns = (
            *self.turns,
            DecoderTurn(network, discriminator, config.decoder, [group], self._latents, shift),
            PatchDiscriminatorTurn(discriminator, config.decoder.discriminator_learning_rate, shift),
        )

    def export(self, directory: Path, record: Mapping[str, Any]) -> None:
        parameters = dict(self.inputs.vae.decoder.named_parameters())
        trained = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        further = 1 + self.inputs.config.decoder.extrapolation
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.lerp(self._teacher[name], trained[name], further))
            super().export(directory, {**record, "decoder_noise": self.student.decoder_noise})
            for name, parameter in parameters.items():
                parameter.copy_(trained[name])

    def _latents(self, batch: Batch, moment: Moment) -> tuple[Tensor, Tensor]:
        z_hat = moment.carried["z_hat"]
        if not self.student.decoder_noise:
            return z_hat, batch.hq
        generators = [seeding.generator(self.inputs.seed, "decoder noise", position) for position in batch.positions]
        return z_hat + self.student.decoder_noise * self.inputs.noise_like(z_hat, generators), batch.hq
