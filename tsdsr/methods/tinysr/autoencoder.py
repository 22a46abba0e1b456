"""The compact autoencoder's training: its encoder to the source's latents, its decoder to photographs.

    encoder: mean squared error to the source's latent of the low-quality image
    decoder: 3 LPIPS + 1 GAN, from the photograph's latent to the photograph (`decodes: photographs`), or from the
        latent that the source restores to the picture that its own decoder makes of it (`decodes: source`)

Source: TinySR, arXiv 2508.17434, Sec. 3.2.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tsdsr import seeding
from tsdsr.config import TinySRDecoderConfig, TinySREncoderConfig
from tsdsr.data.dataset import Batch
from tsdsr.losses.adversarial import generator_hinge
from tsdsr.methods.base import Distillation, Group, MethodInputs, Moment, Turn, TurnOutput
from tsdsr.methods.decoder import PatchDiscriminatorTurn, Shift, patch_discriminator, random_shift
from tsdsr.methods.student import RECONSTRUCTION, StudentOutput, StudentTurn
from tsdsr.methods.tinysr.source import SOURCE, TERMS, Source, load_network, write_network
from tsdsr.models.compact_vae import CompactVAE
from tsdsr.models.patch_discriminator import PatchDiscriminator
from tsdsr.models.student import Student


class EncoderTurn(StudentTurn):
    """Half of the autoencoder: x_lq -> z."""

    def __init__(self, inputs: MethodInputs, source: Source, student: Student) -> None:
        super().__init__(inputs, student, [_group(inputs, student.vae.encoder)], TERMS)
        self.network, self.source = student.vae.encoder, source

    def run(self, batch: Batch, moment: Moment) -> TurnOutput:
        return super().run(batch, replace(moment, carried={**moment.carried, SOURCE: self.source.encoded(batch)}))


class DecoderOutput(StudentOutput):
    """Its terms' gradient is taken at the image that the network gives."""

    @property
    def x_hat(self) -> Tensor:
        return self.decoded


class CompactDecoderTurn(StudentTurn):
    """The other half: z -> x_hat.

    With `decodes: source`, the terms' photograph and its latent are the source's picture and latent.
    """

    def __init__(
        self, inputs: MethodInputs, source: Source, student: Student, discriminator: PatchDiscriminator, shift: Shift
    ) -> None:
        def gan(output: StudentOutput) -> Tensor:
            return generator_hinge(discriminator.eval()(shift(output.x_hat, output.moment.step)))

        terms = {**RECONSTRUCTION, **TERMS, "gan": gan}
        super().__init__(inputs, student, [_group(inputs, student.vae.decoder)], terms)
        self.network, self.source, self.inputs = student.vae.decoder, source, inputs

    def run(self, batch: Batch, moment: Moment) -> TurnOutput:
        config: TinySRDecoderConfig = self.inputs.config
        if config.decodes == "source":
            batch = self.source.pictures(batch)
        weights = {name: weight for name, weight in moment.phase.losses.items() if weight > 0}
        x_hat = self.network(batch.z)
        leaf = x_hat.detach().requires_grad_()  # the discriminator's parameters get no gradient here
        output = DecoderOutput(batch.z, batch, moment, lambda _: leaf, self.perceptual)
        terms = {name: self.terms[name](output) for name in weights}
        per_sample = torch.stack([weights[name] * term for name, term in terms.items()]).sum(0)
        x_hat.backward(moment.share * torch.autograd.grad(per_sample.mean(), leaf)[0])
        pictures = {"images": batch.hq, "restored": x_hat.detach()}
        return TurnOutput({name: term.detach().mean() for name, term in terms.items()}, pictures)


def _group(inputs: MethodInputs, half: nn.Module) -> Group:
    half.requires_grad_(True)
    parameters = dict(half.named_parameters())
    return inputs.group("student", parameters, inputs.config.optimizer.student_lr, averaged=True)


def _compact(inputs: MethodInputs) -> CompactVAE:
    """An untrained one with as many resolutions as the source's has."""
    config: TinySREncoderConfig | TinySRDecoderConfig = inputs.config
    further = len(inputs.vae.config.block_out_channels) - 1  # resolutions below the first
    with torch.random.fork_rng(devices=[]), torch.device(inputs.transformer.device):
        torch.manual_seed(seeding.derive(inputs.adapter_seed, "compact autoencoder"))
        return CompactVAE(
            latent_channels=int(inputs.vae.config.latent_channels),
            block_out_channels=(config.width,) * (1 + further),
            encoder_blocks=(1, *(3,) * further),
            decoder_blocks=(*(3,) * further, 1),
            separable_encoder=config.separable.encoder,
            separable_decoder=config.separable.decoder,
        )


class _Autoencoder(Distillation):
    """Attributes: vae: the compact autoencoder, in float32."""

    def __init__(self, inputs: MethodInputs) -> None:
        super().__init__(inputs)
        self.source = Source(inputs)
        self.vae = _compact(inputs).requires_grad_(False)
        self.student = Student(self.vae, inputs.transformer, use_shift=False)
        self.pattern_period = self.source.pattern_period
        self.turns: Sequence[Turn] = self._turns()

    @abstractmethod
    def _turns(self) -> Sequence[Turn]:
        """The half that is trained."""

    def go_on_from(self, student: Path) -> None:
        load_network(self.vae, student)

    def export(self, directory: Path, record: Mapping[str, Any]) -> None:
        """The autoencoder, both halves."""
        write_network(self.vae, directory, record)


class CompactEncoder(_Autoencoder):
    title = "TinySR, encoder"

    def _turns(self) -> Sequence[Turn]:
        return (EncoderTurn(self.inputs, self.source, self.student),)

    def restore(self, x_lq: Tensor) -> Tensor:
        """The compact encoder before the source's transformer and decoder."""
        source = self.source.student
        return source.decode(source.predict(self.student.codec.encode(x_lq), self.inputs.default))


class CompactDecoder(_Autoencoder):
    title = "TinySR, decoder"

    def _turns(self) -> Sequence[Turn]:
        config: TinySRDecoderConfig = self.inputs.config
        seed = seeding.derive(self.inputs.adapter_seed, "compact decoder")
        discriminator = patch_discriminator(seed, self.inputs.transformer.device)
        shift = random_shift(seed)
        turn = CompactDecoderTurn(self.inputs, self.source, self.student, discriminator, shift)
        judge = PatchDiscriminatorTurn(discriminator, config.optimizer.discriminator_lr, shift)
        return (turn, judge) if self.inputs.uses("gan") else (turn,)

    def restore(self, x_lq: Tensor) -> Tensor:
        """The source's encoder and transformer before the compact decoder."""
        source = self.source.student
        return self.student.decode(source.predict(source.codec.encode(x_lq), self.inputs.default))
