"""A plain training's steps, from its start or its last checkpoint to the end: one AdamW, one process, no phases.

What a step draws must follow from its number: then a training that is gone on with ends with the bytes of one that was
never interrupted. Distillation, which has more to keep, has a loop of its own (`tsdsr.training.loop`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tsdsr.training.checkpoint import Checkpoint, CheckpointStore, Stopped
from tsdsr.training.optim import adamw_state, load_adamw_state

WARMUP_STEPS = 50
BETAS = (0.9, 0.99)
CLIP_NORM = 1.0
CURVE_EVERY = 10  # steps a row of the curve averages

Values = dict[str, float]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """What is around a training.

    Attributes:
        store: where its checkpoints are. every: steps between two; there is always one of the last step.
        on_step: called with each step that was done (from 1) and its losses.
        stop: asked after each step; True ends the training with a checkpoint.
    """

    store: CheckpointStore
    every: int
    on_step: Callable[[int, Values], None]
    stop: Callable[[], bool]


def descend(
    parameters: Mapping[str, nn.Parameter],
    losses: Callable[[int], tuple[Tensor, dict[str, Tensor]]],
    *,
    learning_rate: float,
    steps: int,
    session: Session,
) -> list[Values]:
    """Train `parameters` in place to the last step.

    Args:
        parameters: float32; their names key the checkpoints.
        losses: step (from 1) -> what is minimised, and the terms to show by name.

    Returns:
        the curve: each `CURVE_EVERY` steps the `step` and the terms' means over them.

    Raises:
        Stopped: when `session.stop` said so before the last step.
        FloatingPointError: a loss or gradient is not finite; the parameters are as before that step.
    """
    adamw = torch.optim.AdamW(parameters.values(), lr=learning_rate, betas=BETAS, weight_decay=0.0)
    done, curve, recent = _resumed(session.store, parameters, adamw, steps)
    for step in range(done + 1, steps + 1):
        for group in adamw.param_groups:
            group["lr"] = learning_rate * _rate_factor(step - 1, steps)
        loss, terms = losses(step)
        _update(parameters, adamw, loss, f"{session.store.directory.name} step {step}")
        recent.append({name: term.item() for name, term in terms.items()})
        session.on_step(step, recent[-1])
        if step % CURVE_EVERY == 0:
            curve.append({"step": step, **{name: sum(row[name] for row in recent) / len(recent) for name in terms}})
            recent.clear()
        stopping = step < steps and session.stop()
        if stopping or step % session.every == 0 or step == steps:
            _save(session.store, step, parameters, adamw, {"curve": curve, "recent": recent})
        if stopping:
            raise Stopped(step, steps)
    return curve


def _rate_factor(step: int, steps: int) -> float:
    """A short warm-up and a cosine to (almost) zero; `step` from 0."""
    warmup = min(WARMUP_STEPS, max(1, steps // 10))
    return min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)


def _update(parameters: Mapping[str, nn.Parameter], adamw: torch.optim.AdamW, loss: Tensor, where: str) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(f"{where}: the loss is {loss.item()}")
    adamw.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters.values(), CLIP_NORM)
    if not torch.isfinite(norm):
        raise FloatingPointError(f"{where}: the gradient's norm is {norm.item()}")
    adamw.step()


def _save(
    store: CheckpointStore,
    step: int,
    parameters: Mapping[str, nn.Parameter],
    adamw: torch.optim.AdamW,
    values: dict[str, list[Values]],
) -> None:
    tensors: dict[str, Tensor] = {f"parameters/{name}": parameter for name, parameter in parameters.items()}
    tensors |= {f"optimizer/{name}": value for name, value in adamw_state(adamw, parameters).items()}
    store.save(Checkpoint(step, tensors, values))


@torch.no_grad()
def _resumed(
    store: CheckpointStore, parameters: Mapping[str, nn.Parameter], adamw: torch.optim.AdamW, steps: int
) -> tuple[int, list[Values], list[Values]]:
    """The last checkpoint's step, its curve, and what its next row has seen so far; where there is none, a start's."""
    checkpoint = store.latest()
    if checkpoint is None:
        return 0, [], []
    for name, parameter in parameters.items():
        parameter.copy_(checkpoint.tensors[f"parameters/{name}"])
    kept = checkpoint.tensors.items()
    load_adamw_state(
        adamw, parameters, {k.removeprefix("optimizer/"): v for k, v in kept if k.startswith("optimizer/")}
    )
    logger.info("%s: going on after step %d of %d", store.directory.name, checkpoint.step, steps)
    return checkpoint.step, checkpoint.values["curve"], checkpoint.values["recent"]
