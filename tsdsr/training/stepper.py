"""One step of a method: its turns in order, each over the micro-batches, with its updates.

It is used by the trainer, the memory probe and the benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tsdsr.methods.base import Method, Moment, Turn, TurnOutput
from tsdsr.training.optim import GroupOptimizer
from tsdsr.training.world import World


@dataclass(frozen=True)
class Update:
    """A record of one update of a turn.

    Attributes:
        norms: of the gradients before clipping, by group.
        watched: the names of values that must be finite, with an entry of `at_fault` each, 1 on the device if it was
            not finite on any worker. In that case the turn's groups were not updated.
    """

    step: int
    turn: str
    norms: dict[str, Tensor]
    watched: list[str]
    at_fault: Tensor


class Stepper:
    """A method with an optimiser per group.

    Args:
        spans: the steps of each phase of the run.
        on_output: called with the output of each micro-batch. on_update: called after each update.
    """

    def __init__(
        self,
        method: Method,
        *,
        spans: Sequence[range],
        world: World | None = None,
        on_output: Callable[[TurnOutput], None] = lambda output: None,
        on_update: Callable[[Update], None] = lambda update: None,
    ) -> None:
        self.method, self.steps, self.world = method, spans[-1].stop, world or World()
        self.on_output, self.on_update = on_output, on_update
        self.optimizers = {group.name: GroupOptimizer(group, spans) for group in method.groups()}
        for turn in method.turns:
            trained = [parameter for group in turn.groups for parameter in group.parameters.values()]
            turn.network = self.world.wrap(turn.network, trained)

    def take(self, step: int, phase: Any, batches: Sequence[Any]) -> None:
        """Run all turns of `step` (from 0) over its micro-batches."""
        carried: list[dict[str, Tensor]] = [{} for _ in batches]
        for turn in self.method.turns:
            if step % turn.every == 0:
                for update in range(turn.updates):
                    self._update(turn, step, phase, update, batches, carried)

    def _update(
        self,
        turn: Turn,
        step: int,
        phase: Any,
        update: int,
        batches: Sequence[Any],
        carried: Sequence[dict[str, Tensor]],
    ) -> None:
        """Run one update; gradients are averaged across workers at the last micro-batch."""
        optimizers = [self.optimizers[group.name] for group in turn.groups]
        for optimizer in optimizers:
            optimizer.zero_grad()
        terms: dict[str, Tensor] = {}
        for micro, batch in enumerate(batches):
            moment = Moment(step, self.steps, phase, update, 1 / len(batches), carried[micro])
            synchronised = self.world.sync(turn.network, last=micro == len(batches) - 1)
            with synchronised, self.method.around(step, batch):
                output = turn.run(batch, moment)
            carried[micro] |= output.carried
            self.on_output(output)
            for name, value in output.terms.items():
                terms[name] = terms[name] + value if name in terms else value
        norms = {optimizer.group.name: optimizer.clip() for optimizer in optimizers}
        watched = dict(sorted(terms.items())) | {f"{name}'s gradient": norm for name, norm in norms.items()}
        finite = torch.stack([value.isfinite() for value in watched.values()])
        at_fault = self.world.max((~finite).float())
        for optimizer in optimizers:
            optimizer.step(step, skip=at_fault.max())
        self.on_update(Update(step, turn.name, norms, list(watched), at_fault))
