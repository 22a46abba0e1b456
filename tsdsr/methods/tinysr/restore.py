"""Restoration: the cut network learns what the whole one did, without the text.

Two runs: L1(z_hat, z_tea) alone; then, from there, 5 L1 + 1 LPIPS + 0.3 GAN.

Source: TinySR, arXiv 2508.17434, Sec. 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from tsdsr.compression.cut import cut, without_text
from tsdsr.config import TinySRRestoreConfig
from tsdsr.data.dataset import Batch
from tsdsr.errors import UserError
from tsdsr.methods.base import Distillation, MethodInputs, Moment, Turn, TurnOutput
from tsdsr.methods.student import RECONSTRUCTION, StudentNetwork, StudentTurn
from tsdsr.methods.tinysr.critic import CriticTurn, judged
from tsdsr.methods.tinysr.source import SOURCE, TERMS, Source, load_network, write_network
from tsdsr.models.student import Student

_TEXT = ("context", "add_", "norm_added")  # in the names of what an image alone never meets


class RestoreTurn(StudentTurn):
    """The cut network's objective against the whole network's output."""

    def __init__(self, inputs: MethodInputs, source: Source, student: Student, critic: CriticTurn) -> None:
        config: TinySRRestoreConfig = inputs.config
        group = inputs.group("student", trained(student.transformer), config.optimizer.student_lr, averaged=True)
        super().__init__(inputs, student, [group], {**RECONSTRUCTION, **TERMS, "gan": critic.gan})
        self.source = source
        self.network = StudentNetwork(student, without_text(inputs.default))

    def run(self, batch: Batch, moment: Moment) -> TurnOutput:
        return super().run(batch, replace(moment, carried={**moment.carried, SOURCE: self.source.restored(batch)}))


class Restore(Distillation):
    """Attributes: student: the source's autoencoder around the cut transformer."""

    title = "TinySR, restoration"

    def __init__(self, inputs: MethodInputs) -> None:
        self.inputs, self.source = inputs, Source(inputs)
        self.student = Student(
            inputs.vae, self._network(), use_shift=inputs.use_shift, vae_slice=inputs.config.vae_slice
        )
        critic = CriticTurn(inputs)
        turn = RestoreTurn(inputs, self.source, self.student, critic)
        self.turns: tuple[Turn, ...] = (turn, critic) if judged(inputs) else (turn,)
        self.pattern_period = self.source.pattern_period

    @classmethod
    def build(cls, inputs: MethodInputs) -> Self:
        return cls(inputs)

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
    """All but the text's half, which an image alone never meets."""
    found = {
        name: parameter for name, parameter in transformer.named_parameters() if not any(part in name for part in _TEXT)
    }
    for parameter in found.values():
        parameter.requires_grad_(True)
    return found
