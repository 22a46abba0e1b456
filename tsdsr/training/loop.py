"""The distillation loop: what a worker runs, alone or beside others, from its start or from a checkpoint.

It knows torch.distributed and nothing of Ray or MLflow; whoever runs it passes callbacks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tsdsr.config import DistillConfig, PhaseConfig
from tsdsr.data.dataset import Batch, DistillationData
from tsdsr.models.student import Student
from tsdsr.training.checkpoint import Checkpoint, CheckpointStore, Stopped
from tsdsr.training.diagnostics import Diagnostics
from tsdsr.training.networks import trainable
from tsdsr.training.optim import NetworkOptimizer
from tsdsr.training.step import DistillationModel, Distiller
from tsdsr.training.validation import ArtefactGuard, Validation

logger = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """A loss or a gradient stopped being finite; the network at fault is as it was before the step."""


@dataclass(frozen=True)
class World:
    """This worker's place. `World()` is a run without torch.distributed."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()


def wrap(model: DistillationModel, world: World) -> nn.Module:
    """DDP where there are several workers. Each turn uses one network's adapters, hence `find_unused_parameters`."""
    if world.size == 1:
        return model
    return DistributedDataParallel(model, find_unused_parameters=True, broadcast_buffers=False)


def phase_at(step: int, config: DistillConfig) -> tuple[str, PhaseConfig]:
    """The phase that `step` (from 0) belongs to, by the phases' shares of all steps."""
    done = 0.0
    for name, phase in config.phases.items():
        done += phase.share
        if step < round(done * config.steps):
            return name, phase
    return name, phase


class Trainer:
    """Runs the steps, logs window means, saves and resumes.

    Args:
        distiller: the two turns, over a model that `wrap` made.
        data: batches by position.
        on_metrics: called on every rank with (steps done, means since the last call), equal on all ranks.
        on_step: called on every rank after each step, with the steps done and the latest means.
        on_checkpoint: called on every rank once the checkpoint of this step is safe.
        on_validation: called with the steps done and what the guard saw, where there is one.
        stop: asked after each step, on the first worker alone; True ends the run on all of them, see `run`.
        guard: looks at the student every `validation.every` steps and at the end; the first worker's alone.
    """

    def __init__(
        self,
        distiller: Distiller,
        data: DistillationData,
        store: CheckpointStore,
        *,
        config: DistillConfig,
        device: torch.device,
        world: World,
        on_metrics: Callable[[int, dict[str, float]], None] = lambda step, values: None,
        on_step: Callable[[int, dict[str, float]], None] = lambda step, values: None,
        on_checkpoint: Callable[[int, dict[str, float]], None] = lambda step, values: None,
        on_validation: Callable[[int, Validation], None] = lambda step, validation: None,
        stop: Callable[[], bool] = lambda: False,
        guard: ArtefactGuard | None = None,
    ) -> None:
        self.distiller, self.data, self.store, self.config = distiller, data, store, config
        self.device, self.world = device, world
        self.on_metrics, self.on_step, self.on_checkpoint = on_metrics, on_step, on_checkpoint
        self.on_validation, self.stop, self.guard = on_validation, stop, guard
        self.student_optimizer, self.fake_optimizer = self._optimizers()
        self.ema = (
            {name: p.detach().clone() for name, p in self.student_optimizer.named.items()} if config.ema_decay else {}
        )
        self.history: list[dict[str, float]] = []
        self.validations: list[dict[str, float]] = []
        self.diagnostics = Diagnostics(list(config.phases), device)
        self._window: dict[str, list[Tensor]] = {}

    @property
    def student(self) -> Student:
        return self.distiller.student

    def run(self) -> None:
        """Train to the last step, resuming from the newest good checkpoint if there is one.

        Raises:
            Stopped: after a checkpoint, when `stop` said so before the last step.
        """
        start = self._resume()
        steps = range(start, self.config.steps)
        wanted = (positions for step in steps for positions in self._positions(step))
        batches = self.data.prefetched(wanted)
        for step in steps:
            phase, _ = phase_at(step, self.config)
            self._step(step, phase, [next(batches).to(self.device) for _ in range(self.config.accumulation)])
            done = step + 1
            if done % self.config.log_every == 0 or done == self.config.steps:
                self._log(done, phase)
            self.on_step(done, self.history[-1] if self.history else {})
            if self.guard and (done % self.config.validation.every == 0 or done == self.config.steps):
                with self._averaged():
                    validation = self.guard.look(done, self.validations)
                self.validations.append({"step": done, **validation.values})
                self.on_validation(done, validation)
            stopping = done < self.config.steps and self._asked_to_stop()
            if stopping or done % self.config.checkpoint.every == 0 or done == self.config.steps:
                self._save(done)
            if stopping:
                raise Stopped(done, self.config.steps)
        if self.ema:
            self._copy(self.ema, self.student_optimizer.named)

    def _step(self, step: int, phase: str, batches: list[Batch]) -> None:
        """Both turns over the micro-batches; gradients are averaged across workers at the last of them."""
        share = 1 / len(batches)
        self.student_optimizer.zero_grad()
        z_hats, losses = [], []
        for micro, batch in enumerate(batches):
            with self._sync(last=micro == len(batches) - 1):
                output = self.distiller.student_turn(batch, self.config.phases[phase], share)
            z_hats.append(output.z_hat)
            losses.append(output.losses)
            self._note(output.losses)
            if output.sigma is not None:
                self._note({name: values.mean() for name, values in output.statistics.items()})
                self.diagnostics.note(phase, output.sigma, output.statistics)
        self._update(step, "student", self.student_optimizer, losses)
        for update in range(self.config.fake_score.updates_per_step):
            self.fake_optimizer.zero_grad()
            losses = []
            for micro, (batch, z_hat) in enumerate(zip(batches, z_hats, strict=True)):
                with self._sync(last=micro == len(batches) - 1):
                    loss = self.distiller.fake_score_turn(batch, z_hat, update, share)
                losses.append({"fake_score": loss})
                self._note(losses[-1])
            self._update(step, "fake_score", self.fake_optimizer, losses)
        for name, average in self.ema.items():
            average.lerp_(self.student_optimizer.named[name].detach(), 1 - self.config.ema_decay)

    def _update(self, step: int, network: str, optimizer: NetworkOptimizer, losses: list[dict[str, Tensor]]) -> None:
        """Clip and step, unless a loss of any micro-batch or the gradient is not finite on any worker."""
        norm = optimizer.clip()
        watched = {name: torch.stack([terms[name] for terms in losses]).sum() for name in sorted(losses[0])}
        watched[f"the {network}'s gradient"] = norm
        finite = torch.stack([value.isfinite() for value in watched.values()]).int()
        if self.world.size > 1:
            distributed.all_reduce(finite, distributed.ReduceOp.MIN)
        if not finite.all():
            at_fault = [name for name, good in zip(watched, finite.tolist(), strict=True) if not good]
            raise NonFiniteError(
                f"step {step + 1}: not finite: {', '.join(at_fault)}. The {network} was not updated. Lower the "
                "learning rate or clip_norm, or raise the precision."
            )
        self._note({f"{network}_grad_norm": norm})
        optimizer.step(step)

    def _asked_to_stop(self) -> bool:
        """The first worker asks; all of them must leave at the same step."""
        if self.world.size == 1:
            return self.stop()
        asked = torch.tensor(int(self.world.rank == 0 and self.stop()), device=self.device)
        distributed.broadcast(asked, 0)
        return bool(asked)

    def _sync(self, *, last: bool) -> AbstractContextManager[Any]:
        model = self.distiller.model
        return nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()

    def _positions(self, step: int) -> list[list[int]]:
        """This worker's micro-batches of a step, as positions in the run."""
        size = self.config.batch_size // (self.world.size * self.config.accumulation)
        first = step * self.config.batch_size + self.world.rank * size * self.config.accumulation
        starts = range(first, first + size * self.config.accumulation, size)
        return [list(range(start, start + size)) for start in starts]

    def _note(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self._window.setdefault(name, []).append(value.detach())

    def _means(self) -> dict[str, float]:
        """Means of the window over all workers; sorted by name so that every worker sums in the same order."""
        names = sorted(self._window)
        means = torch.stack([torch.stack(self._window[name]).float().mean() for name in names])
        if self.world.size > 1:
            distributed.all_reduce(means)
            means /= self.world.size
        return dict(zip(names, means.tolist(), strict=True))

    def _log(self, done: int, phase: str) -> None:
        values = self._means()
        self._window.clear()
        values["student_lr"] = self.student_optimizer.adamw.param_groups[0]["lr"]
        self.history.append({"step": done, "phase": float(list(self.config.phases).index(phase)), **values})
        self.on_metrics(done, values)

    # Checkpoints

    def _optimizers(self) -> tuple[NetworkOptimizer, NetworkOptimizer]:
        config, (student, fake) = self.config, trainable(self.student)
        settings = config.steps, config.optimizer, config.lr_schedule
        return (
            NetworkOptimizer(student, config.optimizer.student_lr, *settings),
            NetworkOptimizer(fake, config.optimizer.fake_score_lr, *settings),
        )

    def _groups(self) -> dict[str, dict[str, nn.Parameter]]:
        return {"student": self.student_optimizer.named, "fake_score": self.fake_optimizer.named}

    def _save(self, done: int) -> None:
        window, diagnostics = self._window_of_all(), self.diagnostics.totals()
        if self.world.rank == 0:
            tensors = {f"{group}/{name}": p for group, named in self._groups().items() for name, p in named.items()}
            tensors |= {f"student_optimizer/{name}": value for name, value in self.student_optimizer.state().items()}
            tensors |= {f"fake_score_optimizer/{name}": value for name, value in self.fake_optimizer.state().items()}
            tensors |= {f"ema/{name}": value for name, value in self.ema.items()}
            tensors["diagnostics/sums"] = diagnostics
            values = {"history": self.history, "window": window, "validations": self.validations}
            self.store.save(Checkpoint(done, tensors, values))
        if self.world.size > 1:
            distributed.barrier()
        self.on_checkpoint(done, self.history[-1] if self.history else {})

    def _window_of_all(self) -> dict[str, list[list[float]]]:
        """The window's values, by name and worker: they join the state, so that curves go on exactly after a resume."""
        found = {}
        for name in sorted(self._window):
            own = torch.stack(self._window[name]).float()
            rows = [own]
            if self.world.size > 1:
                rows = [torch.empty_like(own) for _ in range(self.world.size)]
                distributed.all_gather(rows, own)
            found[name] = torch.stack(rows).tolist()
        return found

    def _own_window(self, rows: list[list[float]]) -> list[Tensor]:
        """This worker's; where their number has changed, the mean over those there were."""
        values = torch.tensor(rows, device=self.device)
        return list(values[self.world.rank] if len(rows) == self.world.size else values.mean(0))

    def _resume(self) -> int:
        checkpoint = self.store.latest()
        if checkpoint is None:
            return 0
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in checkpoint.tensors.items():
            group, _, rest = name.partition("/")
            parts.setdefault(group, {})[rest] = tensor
        for group, named in self._groups().items():
            self._copy(parts[group], named)
        self.student_optimizer.load_state(parts["student_optimizer"])
        self.fake_optimizer.load_state(parts["fake_score_optimizer"])
        self.ema = {name: value.to(self.device) for name, value in parts.get("ema", {}).items()}
        self.diagnostics.restore(parts["diagnostics"]["sums"], self.world.rank)
        self.history, self.validations = checkpoint.values["history"], checkpoint.values["validations"]
        self._window = {name: self._own_window(values) for name, values in checkpoint.values["window"].items()}
        logger.info("resuming after step %d of %d", checkpoint.step, self.config.steps)
        return checkpoint.step

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within the `with`, the student has the averaged weights that it would be saved with."""
        named = self.student_optimizer.named if self.ema else {}
        trained = {name: parameter.detach().clone() for name, parameter in named.items()}
        self._copy(self.ema, named)
        try:
            yield
        finally:
            self._copy(trained, named)

    @staticmethod
    def _copy(source: dict[str, Tensor], target: dict[str, nn.Parameter]) -> None:
        with torch.no_grad():
            for name, parameter in target.items():
                parameter.copy_(source[name])
