"""The optimiser of one group of parameters: AdamW, clipping, a schedule as a function of the step, its state as
tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tsdsr.config import ScheduleConfig
from tsdsr.methods.base import Group


def lr_factor(step: int, spans: Sequence[range], config: ScheduleConfig) -> float:
    """Factor of the learning rate at `step`. Each phase has its own schedule: a linear warm-up, then constant or cosine
    with hard restarts.

    The warm-up steps are divided among the phases by their lengths, so a phase's share of the summed learning rate is
    its share of the steps: no phase starts with the low rate at the end of another's cosine.

    Args:
        spans: the steps of each phase, from 0 and without a gap.
    """
    span = next((span for span in spans if step in span), spans[-1])
    place, warmup = step - span.start, round(config.warmup_steps * len(span) / spans[-1].stop)
    if place < warmup:
        return (place + 1) / (warmup + 1)
    if config.name == "constant":
        return 1.0
    progress = (place - warmup) / max(1, len(span) - warmup)
    return 0.5 * (1 + math.cos(math.pi * ((progress * config.cycles) % 1.0)))


class GroupOptimizer:
    """AdamW over a group's parameters.

    Args:
        spans: the steps of each phase of the run, for the schedule.
    """

    def __init__(self, group: Group, spans: Sequence[range]) -> None:
        assert all(p.requires_grad for p in group.parameters.values()), "a trainable parameter is frozen"
        self.group, self.spans = group, spans
        self.adamw = torch.optim.AdamW(
            group.parameters.values(),
            lr=group.lr,
            betas=group.adamw.betas,
            weight_decay=group.adamw.weight_decay,
            # the meta device has no fused update
            fused=not any(parameter.is_meta for parameter in group.parameters.values()),
        )

    def lr(self, step: int) -> float:
        """The learning rate at `step`."""
        return self.group.lr * lr_factor(step, self.spans, self.group.schedule)

    def zero_grad(self) -> None:
        self.adamw.zero_grad(set_to_none=True)

    def clip(self) -> Tensor:
        """Clip the gradients to the group's norm; returns the norm before."""
        return nn.utils.clip_grad_norm_(self.group.parameters.values(), self.group.adamw.clip_norm)

    def step(self, step: int, skip: Tensor | None = None) -> None:
        """Update with the learning rate at `step`.

        Args:
            skip: 1 on the device leaves parameters and moments unchanged, 0 updates them, without waiting for the
            device.
        """
        for group in self.adamw.param_groups:
            group["lr"] = self.lr(step)
        if self.adamw.defaults["fused"]:
            self.adamw.found_inf = skip  # the interface of torch's GradScaler to a fused update
        self.adamw.step()

    def state(self) -> dict[str, Tensor]:
        """`<parameter>.<exp_avg ...>` -> tensor."""
        return {
            f"{name}.{key}": torch.as_tensor(value)
            for name, parameter in self.group.parameters.items()
            for key, value in self.adamw.state[parameter].items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the result of `state`; the moments get their parameter's memory layout, which the fused update
        requires.

        The fused update counts its steps on the parameter's device, the others on the CPU.
        """
        for name, parameter in self.group.parameters.items():
            self.adamw.state[parameter] = {
                "step": tensors[f"{name}.step"].to(parameter.device if self.adamw.defaults["fused"] else "cpu"),
                **{
                    key: torch.empty_like(parameter).copy_(tensors[f"{name}.{key}"])
                    for key in ("exp_avg", "exp_avg_sq")
                },
            }
