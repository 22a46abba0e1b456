"""The training loop of a worker, alone or among others, from the beginning or a checkpoint.

It runs any method (`tsdsr.methods`), a distillation or a teacher's training. It uses torch.distributed and not Ray or
MLflow; the caller passes callbacks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from tsdsr.config import DistillConfig
from tsdsr.methods.base import Method, Phase, TurnOutput
from tsdsr.training.checkpoint import Checkpoint, CheckpointStore, Stopped
from tsdsr.training.statistics import ByNoise, Window
from tsdsr.training.stepper import Stepper, Update
from tsdsr.training.world import World

if TYPE_CHECKING:
    from tsdsr.training.validation import ArtefactGuard, Validation

logger = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """Losses or gradients were not finite more often than the run allows; no network was updated with them."""


class TrainingData(Protocol):
    """Batches by position; a batch has a method `.to(device)`."""

    def prefetched(self, wanted: Iterable[Sequence[int]]) -> Iterator[Any]: ...


@dataclass(frozen=True)
class Plan:
    """The settings of a run, independent of the method.

    Attributes:
        batch_size: over all workers. accumulation: micro-batches of a worker's share.
        phases: in order, by their shares of the steps.
        log_every, checkpoint_every, validation_every: steps between two.
        ema_decay: of averaged groups; 0 = off.
        max_skipped: the number of updates that may be skipped because of non-finite values.
    """

    steps: int
    batch_size: int
    phases: Mapping[str, Phase]
    log_every: int
    checkpoint_every: int
    accumulation: int = 1
    validation_every: int = 1
    ema_decay: float = 0.0
    max_skipped: int = 0

    @classmethod
    def of(cls, config: DistillConfig) -> Plan:
        return cls(
            steps=config.steps,
            batch_size=config.batch_size,
            phases=config.phases,
            log_every=config.log_every,
            checkpoint_every=config.checkpoint.every,
            accumulation=config.accumulation,
            validation_every=config.validation.every,
            ema_decay=config.ema_decay,
            max_skipped=config.max_skipped,
        )

    @property
    def spans(self) -> dict[str, range]:
        """The steps of each phase, from 0; empty for a phase without steps."""
        spans, done = {}, 0.0
        for name, phase in self.phases.items():
            start, done = round(done * self.steps), done + phase.share
            spans[name] = range(start, round(done * self.steps))
        return spans

    def phase_at(self, step: int) -> str:
        """The phase of `step` (from 0)."""
        return next(name for name, span in self.spans.items() if step in span)


@dataclass
class Callbacks:
    """The callbacks of a run.

    Attributes:
        on_metrics: called on every rank with (steps done, means since the last call), equal on all ranks.
        on_step: called on every rank after each step, with the steps done and the latest means of the loss terms.
        on_checkpoint: called on every rank after the checkpoint of this step was saved, with the latest means.
        on_validation: called with the steps done and the guard's result, if there is a guard.
        stop: called after each step on the first worker alone; True ends the run on all workers.
    """

    on_metrics: Callable[[int, dict[str, float]], None] = lambda step, values: None
    on_step: Callable[[int, dict[str, float]], None] = lambda step, values: None
    on_checkpoint: Callable[[int, dict[str, float]], None] = lambda step, values: None
    on_validation: Callable[[int, Validation], None] = lambda step, validation: None
    stop: Callable[[], bool] = lambda: False


class Trainer:
    """Runs the steps, logs window means, saves and resumes.

    Args:
        data: batches by position; None if nothing is trained.
        guard: scores the student every `validation_every` steps and at the end, on the first worker alone.
    """

    def __init__(
        self,
        method: Method,
        data: TrainingData | None,
        store: CheckpointStore,
        *,
        plan: Plan,
        device: torch.device,
        world: World | None = None,
        callbacks: Callbacks | None = None,
        guard: ArtefactGuard | None = None,
    ) -> None:
        self.method, self.data, self.store, self.plan, self.device = method, data, store, plan, device
        self.world, self.callbacks, self.guard = world or World(), callbacks or Callbacks(), guard
        self.stepper = Stepper(
            method,
            spans=list(plan.spans.values()),
            world=self.world,
            on_output=self._note_output,
            on_update=self._note_update,
        )
        self.history: list[dict[str, float]] = []
        self.validations: list[dict[str, float]] = []
        self.by_noise = ByNoise(plan.phases, method.statistics, device)
        self.skipped = 0
        self._window, self._updates = Window(), list[Update]()
        self._phase = next(iter(plan.phases))
        self._terms: set[str] = set()
        self._averaged_parameters = {
            f"{group.name}/{name}": parameter
            for group in method.groups()
            if group.averaged and plan.ema_decay
            for name, parameter in group.parameters.items()
        }
        self.ema = {name: parameter.detach().clone() for name, parameter in self._averaged_parameters.items()}

    def run(self) -> None:
        """Train to the last step, resuming from the newest valid checkpoint if there is one.

        Raises:
            Stopped: `stop` returned True before the last step; a checkpoint was saved.
            NonFiniteError: more updates were skipped than `max_skipped`.
        """
        assert self.data is not None
        plan, callbacks = self.plan, self.callbacks
        steps = range(self.resume(), plan.steps)
        batches = self.data.prefetched(positions for step in steps for positions in self._positions(step))
        for step in steps:
            self._phase = plan.phase_at(step)
            micro_batches = [next(batches).to(self.device) for _ in range(plan.accumulation)]
            self.stepper.take(step, plan.phases[self._phase], micro_batches)
            for name, average in self.ema.items():
                average.lerp_(self._averaged_parameters[name].detach(), 1 - plan.ema_decay)
            done = step + 1
            if done % plan.log_every == 0 or done == plan.steps:
                self._log(done)
            callbacks.on_step(done, {name: self._latest[name] for name in self._latest if name in self._terms})
            if self.guard and (done % plan.validation_every == 0 or done == plan.steps):
                self._validate(done)
            stopping = done < plan.steps and self.world.first_says(self.world.rank == 0 and callbacks.stop())
            if stopping or done % plan.checkpoint_every == 0 or done == plan.steps:
                self._save(done)
            if stopping:
                raise Stopped(done, plan.steps)
        self.finish()

    def finish(self) -> None:
        """Put the averaged weights, if there are any, into the networks for the export."""
        self._copy(self.ema, self._averaged_parameters)

    @property
    def _latest(self) -> dict[str, float]:
        return self.history[-1] if self.history else {}

    def _positions(self, step: int) -> list[list[int]]:
        """The positions in the run of this worker's micro-batches of a step."""
        plan = self.plan
        size = plan.batch_size // (self.world.size * plan.accumulation)
        first = step * plan.batch_size + self.world.rank * size * plan.accumulation
        starts = range(first, first + size * plan.accumulation, size)
        return [list(range(start, start + size)) for start in starts]

    # Records

    def _note_output(self, output: TurnOutput) -> None:
        self._terms |= output.terms.keys()
        self._window.note(output.terms)
        self._window.note(output.statistics)
        if output.sigma is not None:
            self._window.note({name: values.mean() for name, values in output.by_noise.items()})
            self.by_noise.note(self._phase, output.sigma, output.by_noise)

    def _note_update(self, update: Update) -> None:
        self._window.note({f"{group}_grad_norm": norm for group, norm in update.norms.items()})
        self._updates.append(update)

    def _log(self, done: int) -> None:
        self._count_skipped()
        values = self._window.means(self.world)
        for name, optimizer in self.stepper.optimizers.items():
            values[f"{name}_lr"] = optimizer.lr(done - 1)
        if self.skipped:
            values["skipped"] = float(self.skipped)
        self.history.append({"step": done, "phase": float(list(self.plan.phases).index(self._phase)), **values})
        self.callbacks.on_metrics(done, values)

    def _count_skipped(self) -> None:
        """Check the updates since the last check; this waits for the device.

        Raises:
            NonFiniteError: too many were skipped.
        """
        faults = torch.cat([update.at_fault for update in self._updates]).tolist() if self._updates else []
        updates, self._updates = self._updates, []
        for update in updates:
            found, faults = faults[: len(update.watched)], faults[len(update.watched) :]
            if not any(found):
                continue
            self.skipped += 1
            names = ", ".join(name for name, fault in zip(update.watched, found, strict=True) if fault)
            said = f"step {update.step + 1}: not finite: {names}. The {update.turn} was not updated"
            if self.skipped > self.plan.max_skipped:
                raise NonFiniteError(
                    f"{said}; {self.skipped} updates were skipped so far, and max_skipped is {self.plan.max_skipped}. "
                    "Lower the learning rate or clip_norm, or raise the precision."
                )
            logger.warning("%s", said)

    def _validate(self, done: int) -> None:
        assert self.guard is not None
        with self._averaged():
            validation = self.guard.look(done, self.validations)
        self.validations.append({"step": done, **validation.values})
        self.callbacks.on_validation(done, validation)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within the block the student has the averaged weights."""
        trained = {name: self._averaged_parameters[name].detach().clone() for name in self.ema}
        self._copy(self.ema, self._averaged_parameters)
        try:
            yield
        finally:
            self._copy(trained, self._averaged_parameters)

    # Checkpoints

    def _save(self, done: int) -> None:
        self._count_skipped()
        window, by_noise = self._window.state(self.world), self.by_noise.totals(self.world)
        if self.world.rank == 0:
            tensors: dict[str, Tensor] = {"by_noise/sums": by_noise}
            for group in self.method.groups():
                tensors |= {f"{group.name}/{name}": value for name, value in group.parameters.items()}
                tensors |= {f"{group.name}_buffers/{name}": value for name, value in group.buffers.items()}
                state = self.stepper.optimizers[group.name].state()
                tensors |= {f"{group.name}_optimizer/{name}": value for name, value in state.items()}
            tensors |= {f"ema/{name}": value for name, value in self.ema.items()}
            values = {"history": self.history, "validations": self.validations, "skipped": self.skipped}
            self.store.save(Checkpoint(done, tensors, {**values, "window": window, "terms": sorted(self._terms)}))
        self.world.barrier()
        self.callbacks.on_checkpoint(done, self._latest)

    def resume(self) -> int:
        """Resume from the newest valid checkpoint; returns its step, or 0 if there is none."""
        checkpoint = self.store.latest()
        if checkpoint is None:
            return 0
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in checkpoint.tensors.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = tensor
        for group in self.method.groups():
            self._copy(parts[group.name], group.parameters)
            self._copy(parts.get(f"{group.name}_buffers", {}), group.buffers)
            self.stepper.optimizers[group.name].load_state(parts[f"{group.name}_optimizer"])
        self.ema = {name: value.to(self.device) for name, value in parts.get("ema", {}).items()}
        self.by_noise.restore(parts["by_noise"]["sums"], self.world.rank)
        values = checkpoint.values
        self.history, self.validations, self.skipped = values["history"], values["validations"], values["skipped"]
        self._terms = set(values["terms"])
        self._window.restore(values["window"], self.world, self.device)
        logger.info("%s: resuming after step %d of %d", self.store.directory.name, checkpoint.step, self.plan.steps)
        return checkpoint.step

    @staticmethod
    @torch.no_grad()
    def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
        for name, tensor in target.items():
            tensor.copy_(source[name])
