"""Restoration: the cut network learns to reproduce the whole one's output, without the text.

Two runs: L1(z_hat, z_tea) alone; then, from there, 5 L1 + 1 LPIPS + 0.3 GAN.

Source: TinySR, arXiv 2508.17434, Sec. 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tsdsr.compression.cut import cut, without_text
from tsdsr.config import TinySRRestoreConfig
from tsdsr.data.dataset import Batch
from tsdsr.errors import UserError
from tsdsr.methods.base import Distillation, MethodInputs, Moment, Turn, TurnOutput
from tsdsr.methods.critic import Critic, CriticTurn
from tsdsr.methods.student import RECONSTRUCTION, StudentNetwork, StudentTurn, Term
from tsdsr.methods.tinysr.source import SOURCE, TERMS, Source, load_network, write_network
from tsdsr.models.discriminator import features
from tsdsr.models.student import Student

_TEXT = ("context", "add_", "norm_added")  # in the names of parameters that only text tokens use


class RestoreTurn(StudentTurn):
    """The cut network's objective against the whole network's output."""

    def __init__(self, inputs: MethodInputs, source: Source, student: Student, gan: Term) -> None:
        config: TinySRRestoreConfig = inputs.config
        group = inputs.group("student", trained(student.transformer), config.optimizer.student_lr, averaged=True)
        super().__init__(inputs, student, [group], {**RECONSTRUCTION, **TERMS, "gan": gan})
        self.source = source
        self.network = StudentNetwork(student, without_text(inputs.default))

    def run(self, batch: Batch, moment: Moment) -> TurnOutput:
        return super().run(batch, replace(moment, carried={**moment.carried, SOURCE: self.source.restored(batch)}))


class Restore(Distillation):
    """Attributes: student: the source's autoencoder around the cut transformer."""

    title = "TinySR, restoration"

    def __init__(self, inputs: MethodInputs) -> None:
        super().__init__(inputs)
        self.source = Source(inputs)
        self.student = Student(
            inputs.vae, self._network(), use_shift=inputs.use_shift, vae_slice=inputs.config.vae_slice
        )
        recipe: TinySRRestoreConfig = inputs.config
        critic = Critic(inputs, recipe.critic, self._levels)
        group = critic.group(recipe.optimizer.discriminator_lr)
        discriminator = CriticTurn(critic, group, lambda batch, moment: moment.carried["z_hat"])
        turn = RestoreTurn(inputs, self.source, self.student, critic.gan)
        self.turns: tuple[Turn, ...] = (turn, discriminator) if inputs.uses("gan") else (turn,)
        self.pattern_period = self.source.pattern_period

    def _levels(self, z_t: Tensor, timestep: Tensor, batch: Batch) -> list[Tensor]:
        """The source's own; TinySR's discriminator works on images and is not used (docs/compression.md)."""
        blocks = len(z_t) // len(batch.z)
        embeds, pooled = batch.embeds.repeat(blocks, 1, 1), batch.pooled.repeat(blocks, 1)
        return features(self.inputs.transformer, z_t, timestep, embeds, pooled)

    def _network(self) -> Any:
        """In float32, whatever the source's precision: all of it is trained."""
        config: TinySRRestoreConfig = self.inputs.config
        whole = self.inputs.transformer
        count = len(whole.transformer_blocks)
        if max(config.blocks) >= count:
            raise UserError(f"distill.blocks: {list(config.blocks)} names a block that is not among the {count}")
        network = cut(whole, sorted(config.blocks)).float()
        if config.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        return network

    def go_on_from(self, student: Path) -> None:
        load_network(self.student.transformer, student)

    def transformers(self) -> list[nn.Module]:
        return [self.inputs.transformer, self.student.transformer]

    def restore(self, x_lq: Tensor) -> Tensor:
        return self.student.decode(self.student(x_lq, without_text(self.inputs.default)))

    def export(self, directory: Path, record: Mapping[str, Any]) -> None:
        """The cut transformer in the SD3 format."""
        write_network(self.student.transformer, directory, record)


def trained(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters except those that only text tokens use."""
    found = {
        name: parameter for name, parameter in transformer.named_parameters() if not any(part in name for part in _TEXT)
    }
    for parameter in found.values():
        parameter.requires_grad_(True)
    return found
