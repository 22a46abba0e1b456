"""The search for the blocks to keep: gates and an adapter are trained together against the whole student.

loss = LPIPS(D(z_hat), x_H) + L1(z_hat, z_tea); the adapter is discarded, and the source's own weights are cut.

Source: TinySR, arXiv 2508.17434, Sec. 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tsdsr import files, seeding
from tsdsr.compression.deciders import learnt
from tsdsr.compression.gates import BlockGates, gated
from tsdsr.config import TinySRPruneConfig
from tsdsr.data.dataset import Batch
from tsdsr.errors import UserError
from tsdsr.methods.base import Distillation, MethodInputs, Moment, TurnOutput
from tsdsr.methods.student import RECONSTRUCTION, StudentTurn
from tsdsr.methods.tinysr.source import SOURCE, TERMS, Source
from tsdsr.models import adapters
from tsdsr.models.student import Student

DECISION = "decision.json"


class GatedNetwork(nn.Module):
    """x_lq -> z_hat through the blocks of one draw of the gates.

    Attributes:
        temperature, generator: of the next draw.
        open: the context in which the gates apply; gradient checkpointing repeats the forward during backward.
    """

    temperature: float
    generator: torch.Generator
    open: ExitStack

    def __init__(self, student: Student, inputs: MethodInputs, gates: BlockGates) -> None:
        super().__init__()
        self.transformer, self.gates = inputs.transformer, gates
        self._student, self._prompt = student, inputs.default

    def forward(self, x_lq: Tensor) -> Tensor:
        mask = self.gates(self.temperature, self.generator)
        with torch.no_grad():
            z_lq = self._student.codec.encode(x_lq)
        self.open.enter_context(gated(self.transformer, mask))
        return self._student.predict(z_lq, self._prompt)


class PruneTurn(StudentTurn):
    """The search's objective under one draw of the gates for the whole micro-batch."""

    def __init__(self, inputs: MethodInputs, source: Source, gates: BlockGates) -> None:
        config: TinySRPruneConfig = inputs.config
        rank, lr = config.gates.lora_rank, config.optimizer
        adapters.add_adapter(
            inputs.transformer,
            adapters.STUDENT,
            rank=rank,
            alpha=rank,
            targets=adapters.STUDENT_TARGETS,
            seed=inputs.adapter_seed,
        )
        adapter = adapters.parameters(inputs.transformer, adapters.STUDENT)
        groups = [
            inputs.group("gates", dict(gates.named_parameters()), lr.gates_lr, averaged=True),
            inputs.group("student", adapter, lr.student_lr),
        ]
        super().__init__(inputs, source.student, groups, {**RECONSTRUCTION, **TERMS})
        self.seed, self.tau, self.source = inputs.seed, config.gates.temperature, source
        self.network = self.gated = GatedNetwork(source.student, inputs, gates)

    def run(self, batch: Batch, moment: Moment) -> TurnOutput:
        first, last = self.tau
        self.gated.temperature = first + (last - first) * moment.step / max(1, moment.steps - 1)
        self.gated.generator = seeding.generator(self.seed, "gates", batch.positions[0])
        moment = replace(moment, carried={**moment.carried, SOURCE: self.source.restored(batch)})
        with ExitStack() as self.gated.open:
            output = super().run(batch, moment)
        output.statistics["temperature"] = torch.full((), self.gated.temperature, device=batch.z.device)
        return output


class Prune(Distillation):
    """Attributes: gates: at the end of the run their average decides."""

    title = "TinySR, search"

    def __init__(self, inputs: MethodInputs) -> None:
        super().__init__(inputs)
        self.source = Source(inputs)
        recipe: TinySRPruneConfig = inputs.config
        config = recipe.gates
        try:
            self.gates = BlockGates(
                len(inputs.transformer.transformer_blocks), config.group_size, config.keep, expansion=config.expansion
            ).to(inputs.transformer.device)
        except ValueError as error:
            raise UserError(f"distill.gates: {error}") from None
        if inputs.config.gradient_checkpointing:
            inputs.transformer.enable_gradient_checkpointing()
        self.turns = (PruneTurn(inputs, self.source, self.gates),)
        self.pattern_period = self.source.pattern_period

    def restore(self, x_lq: Tensor) -> Tensor:
        """Through the blocks that would be kept now, with the search's adapter."""
        mask = torch.zeros(len(self.inputs.transformer.transformer_blocks))
        mask[self.gates.kept()] = 1
        student = self.source.student
        with adapters.active(self.inputs.transformer, adapters.STUDENT), gated(self.inputs.transformer, mask):
            return student.decode(student.predict(student.codec.encode(x_lq), self.inputs.default))

    def export(self, directory: Path, record: Mapping[str, Any]) -> None:
        """Write the decision file and the run's settings."""
        config: TinySRPruneConfig = self.inputs.config
        with files.atomic_directory(directory) as aside:
            learnt(self.gates, source=config.source).write(aside / DECISION)
            files.write_json(aside / "run.json", dict(record))
